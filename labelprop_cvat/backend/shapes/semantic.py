"""Semantic segmentations as one CVAT mask per class, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import numpy.typing as npt

from labelprop_cvat.backend.cvat.rle import mask_to_points
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.backend.shapes.drawn import DrawnKeyframe
from labelprop_cvat.backend.shapes.geometry import drawn_mask
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import ObjectMask

Pixels = npt.NDArray[Any]


def _value(target: int | str) -> int:
    """A pixel value, of RGB masks ``0xrrggbb``."""
    return target if isinstance(target, int) else int(target.lstrip("#"), 16)


def _read(label: fo.Segmentation) -> Pixels | None:
    """A label's pixels as whole numbers, array of shape ``(h, w)``; None when it has none."""
    if not label.has_mask:
        return None
    try:
        mask = np.asarray(label.get_mask())
    except Exception as error:
        raise DataError(
            f"Cannot read the mask {label.mask_path} of the segmentation {label.id}: {error}. Restore the file, or "
            "take the label away."
        ) from error
    if mask.ndim == 3:
        channels = mask[..., :3].astype(np.int64)
        return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]
    return mask.astype(np.int64)


def class_masks(
    label: fo.Segmentation, schema: FieldSchema, size: tuple[int, int]
) -> Iterator[tuple[str, list[float]]]:
    """The classes in a segmentation, each with CVAT's mask points.

    Args:
        label: a mask of another size than the frame is scaled to it, nearest neighbour
        schema: its ``mask_targets`` name the classes; other pixel values stay at home
        size: ``(height, width)`` of the frame

    Raises:
        DataError: the mask can't be read
    """
    pixels = _read(label)
    if pixels is None:
        return
    pixels = _scaled(pixels, size)
    for target, name in schema.mask_targets.items():
        if _value(target) == 0 or name not in schema.classes:
            continue
        mask = ObjectMask.from_full(pixels == _value(target))
        if mask is not None:
            yield name, [float(p) for p in mask_to_points(mask.x, mask.y, mask.crop)]


def _scaled(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    if pixels.shape == size:
        return pixels
    if not pixels.size:
        return np.zeros(size, np.int64)
    height, width = size
    scaled = cv2.resize(pixels.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return scaled.astype(np.int64)


def paint_segmentation(
    label: fo.Segmentation | None,
    shapes: Iterable[tuple[str, DrawnKeyframe]],
    schema: FieldSchema,
    size: tuple[int, int],
) -> fo.Segmentation:
    """The segmentation that the masks of one frame make.

    Args:
        label: the label as it is in FiftyOne; pixels of values that the run does not annotate stay. None for a new one
        shapes: class and shape, from the lowest to the one on top
        schema: its ``mask_targets`` give the pixel values
        size: ``(height, width)`` of the frame

    Returns:
        a label whose mask has the size of the frame, with the id of the one given
    """
    before = _read(label) if label is not None else None
    pixels = np.zeros(size, np.int64) if before is None else _scaled(before, size).copy()
    values = {name: _value(target) for target, name in schema.mask_targets.items() if name in schema.classes}
    pixels[np.isin(pixels, [value for value in values.values() if value != 0])] = 0
    for name, keyframe in shapes:
        mask = drawn_mask(keyframe, size)
        if mask is None or name not in values:
            continue
        x1, y1, x2, y2 = mask.box
        pixels[y1:y2, x1:x2][mask.crop] = values[name]
    updated = label.copy() if label is not None else fo.Segmentation()
    if label is not None:
        updated.id = label.id
    updated.mask = _stored(pixels, schema.mask_targets, label)
    updated.mask_path = None
    return updated


def _stored(pixels: Pixels, targets: Mapping[int | str, str], label: fo.Segmentation | None) -> Pixels:
    held = None if label is None or not label.has_mask else np.asarray(label.get_mask())
    if any(isinstance(target, str) for target in targets) or (held is not None and held.ndim == 3):
        return np.stack([(pixels >> shift) & 0xFF for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    kind = np.dtype(np.uint8) if held is None else held.dtype
    lowest, highest = pixels.min(initial=0), pixels.max(initial=0)
    if np.issubdtype(kind, np.integer) and np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
        return pixels.astype(kind)
    return pixels.astype(np.uint16 if highest <= np.iinfo(np.uint16).max else np.int64)


__all__ = ["class_masks", "paint_segmentation"]
