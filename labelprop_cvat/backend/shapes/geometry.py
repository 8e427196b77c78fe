"""Where a label is, as CVAT's points, and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from labelprop_cvat.backend.cvat import InvalidPayload
from labelprop_cvat.backend.cvat.annotations import FARTHEST
from labelprop_cvat.backend.cvat.rle import mask_to_points, points_to_mask
from labelprop_cvat.backend.schema import ROTATION_ATTRIBUTE
from labelprop_cvat.backend.shapes.drawn import DrawnKeyframe
from labelprop_cvat.backend.shapes.nodes import NOWHERE
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import box_to_detection, detection_to_box, detection_to_mask, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask, rasterize

logger = logging.getLogger(__name__)

# Pixels; what CVAT and FiftyOne round away on the way there and back is far less.
_SAME_PLACE = 5e-4

# CVAT keeps five decimals of a turned shape's angle, degrees.
_SAME_ANGLE = 1e-5
_PIXEL_DECIMALS = 6

_FEWEST_POINTS = {"polygon": 3, "polyline": 2}


def label_outlines(label: fo.Label, shape_type: str, size: tuple[int, int]) -> list[list[float]]:
    """Where a label is: CVAT's points, once for each of its outlines.

    Args:
        label: a label with a place on the image
        shape_type: ``"rectangle"``, ``"mask"``, ``"polygon"``, ``"polyline"``, ``"points"`` or ``"skeleton"``, whose
            points that are not there are NaN
        size: ``(height, width)`` of the frame

    Returns:
        nothing when it covers nothing of the image, or too little for its kind; several only for labels of several
        polygons or lines

    Raises:
        DataError: the label's mask can't be read, or its coordinates are no numbers
    """
    if shape_type == "mask":
        if _is_flat(label):
            return []
        mask = detection_to_mask(label, size)
        return [] if mask is None else [[float(p) for p in mask_to_points(mask.x, mask.y, mask.crop)]]
    if shape_type == "rectangle":
        box = [] if _is_flat(label) else list(detection_to_box(label, size))
        return [box] if box and box[0] < box[2] and box[1] < box[3] and not _is_far(box) else []
    if shape_type == "points":
        points = _pixels(label, _finite(label.points), size)
        return [points] if points and not _is_far(points) else []
    if shape_type == "skeleton":
        flat = [value for point in label.points or () for value in _node(label, point, size)]
        return [flat] if any(map(math.isfinite, flat)) and not _is_far(flat) else []
    rings = [_pixels(label, ring, size) for ring in label.points or ()]
    if any(map(_is_far, rings)):
        return []
    return [ring for ring in rings if len(ring) >= 2 * _FEWEST_POINTS[shape_type]]


def _is_flat(label: fo.Detection) -> bool:
    box = list(label.bounding_box or [])
    return len(box) == 4 and min(box[2:]) <= 0


def _is_far(points: Sequence[float]) -> bool:
    return any(abs(value) > FARTHEST for value in points)


def _node(label: fo.Label, point: Sequence[float], size: tuple[int, int]) -> Sequence[float]:
    return _pixels(label, [point], size) if all(map(math.isfinite, point)) else NOWHERE


def _finite(points: Sequence[Sequence[float]] | None) -> list[Sequence[float]]:
    return [point for point in points or () if all(map(math.isfinite, point))]


def _pixels(label: fo.Label, points: Sequence[Sequence[float]], size: tuple[int, int]) -> list[float]:
    height, width = size
    flat: list[float] = []
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            raise DataError(
                f"The label {label.id} ({label.label}) has a point at {x}, {y}; expected finite numbers. Correct it, "
                "or leave it out of the view."
            )
        flat += [round(x * width, _PIXEL_DECIMALS), round(y * height, _PIXEL_DECIMALS)]
    return flat


def _relative(points: Sequence[float], size: tuple[int, int]) -> list[list[float]]:
    height, width = size
    return [[x / width, y / height] for x, y in zip(points[0::2], points[1::2], strict=True)]


def drawn_mask(keyframe: DrawnKeyframe, size: tuple[int, int]) -> ObjectMask | None:
    """The pixels of a mask, polygon or rectangle; None when nothing of it lies on the image.

    A mask that contradicts itself covers nothing: it is told in the log, and nothing is made of it.
    """
    if keyframe.shape_type == "mask":
        try:
            x, y, crop = points_to_mask(keyframe.points)
        except InvalidPayload as error:
            logger.warning("A mask on frame %d of a CVAT job can't be read: %s", keyframe.frame, error)
            return None
        found = ObjectMask.from_crop(x, y, crop)
        if found is None:
            return None
        height, width = size
        inside = found.box[2] <= width and found.box[3] <= height
        return found if inside else ObjectMask.from_full(found.to_full(size))
    points = keyframe.points
    if keyframe.shape_type == "rectangle":
        points = _corners(points, keyframe.rotation)
    return rasterize((tuple(zip(points[0::2], points[1::2], strict=True)),), size)


def _corners(box: Sequence[float], rotation: float) -> tuple[float, ...]:
    """The corners of a box that is turned around its middle, degrees clockwise."""
    x1, y1, x2, y2 = box
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    sides = [(x1 - x, y1 - y), (x2 - x, y1 - y), (x2 - x, y2 - y), (x1 - x, y2 - y)]
    return tuple(v for dx, dy in sides for v in (x + dx * cosine - dy * sine, y + dx * sine + dy * cosine))


def is_same_place(label: fo.Label, keyframe: DrawnKeyframe, size: tuple[int, int], part: int = 0) -> bool:
    """Whether a label is where CVAT shows it, so that its own, more exact numbers can stay."""
    if not _is_turned_so(label, keyframe):
        return False
    try:
        outlines = label_outlines(label, keyframe.shape_type, size)
    except (AttributeError, DataError, TypeError):
        return False
    if part >= len(outlines):
        return False
    own = outlines[part]
    if keyframe.shape_type == "skeleton":
        own = [*own, *NOWHERE * ((len(keyframe.points) - len(own)) // 2)]
    return len(own) == len(keyframe.points) and all(map(_is_close, own, keyframe.points))


def _is_turned_so(label: fo.Label, keyframe: DrawnKeyframe) -> bool:
    return abs((_rotation(label) - keyframe.rotation + 180) % 360 - 180) <= _SAME_ANGLE


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME_PLACE or (math.isnan(one) and math.isnan(other))


def _rotation(label: fo.Label) -> float:
    value = label.get_attribute_value(ROTATION_ATTRIBUTE, None)
    return float(value) if isinstance(value, int | float) else 0.0


def place_label(
    label: fo.Label, keyframe: DrawnKeyframe, size: tuple[int, int], outlines: Sequence[Sequence[float]] = ()
) -> bool:
    """Puts a label where CVAT shows it.

    Args:
        label: changed
        keyframe: the shape
        size: ``(height, width)`` of the frame
        outlines: further outlines of the same label, CVAT's points

    Returns:
        whether it covers anything of the image
    """
    if isinstance(label, fo.Detection):
        return _place_detection(label, keyframe, size)
    if isinstance(label, fo.Polyline):
        if label.points is None or not len(label.points):
            label.closed = label.filled = keyframe.shape_type == "polygon"
        label.points = [_relative(points, size) for points in (keyframe.points, *outlines)]
        return bool(keyframe.points)
    if isinstance(label, fo.Keypoint):
        points = _relative(keyframe.points, size)
        if keyframe.shape_type == "skeleton":
            _place_skeleton(label, points)
        else:
            _place_keypoint(label, points)
        return any(map(math.isfinite, keyframe.points))
    return True


def _place_detection(label: fo.Detection, keyframe: DrawnKeyframe, size: tuple[int, int]) -> bool:
    if keyframe.shape_type == "rectangle":
        x1, y1, x2, y2 = keyframe.points
        label.bounding_box = box_to_detection((x1, y1, x2, y2), size)
        label.mask = None
        if not _is_turned_so(label, keyframe):
            label[ROTATION_ATTRIBUTE] = keyframe.rotation
        return bool(x2 > x1 and y2 > y1)
    mask = drawn_mask(keyframe, size)
    placed = None if mask is None else mask_to_detection(mask, size)
    if placed is None:
        return False
    label.bounding_box, crop = placed
    label.mask = np.array(crop)
    label.mask_path = None
    return True


def _place_keypoint(label: fo.Keypoint, points: list[list[float]]) -> None:
    # Points that a label lacks were not sent; where their number is the same, each goes back to its place.
    before: list[Any] = list(label.points or ())
    seen = _finite(before)
    if len(seen) == len(points) < len(before):
        left = iter(points)
        label.points = [next(left) if all(map(math.isfinite, point)) else point for point in before]
        return
    label.points = points
    if label.confidence is not None and len(label.confidence) != len(points):
        label.confidence = None


def _place_skeleton(label: fo.Keypoint, points: list[list[float]]) -> None:
    before = len(label.points or ())
    label.points = points
    if label.confidence is not None and len(label.confidence) == before < len(points):
        # Nothing is known of points that the label did not have before.
        label.confidence = [*label.confidence, *[math.nan] * (len(points) - before)]


__all__ = ["drawn_mask", "is_same_place", "label_outlines", "place_label"]
