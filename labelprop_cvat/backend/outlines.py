"""Masks as polygon tracks that CVAT can interpolate.

CVAT meets the points of two polygons by how far along the outline they lie, from the first point on, in the order in
which they come. So the polygons of one object get evenly spaced points, as many on every frame where that will do, all
the same way round, and each starts where the one before did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from labelprop_cvat.backend.thinning import outline_iou
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import BoolArray, ObjectMask, rasterize

Floats = NDArray[np.float64]

# IoU of a polygon with the outline that it stands for, below which it gets more points.
_FAITHFUL = 0.98
# On this share of an object's frames the object's number of points has to do; the others get more.
_MOST = 0.9
_NUMBERS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
_MOST_POINTS = 384
_JUDGED = 24

# Samples of an outline: to find where it starts, and for each point of the polygon that is fitted to it.
_ALIGNED = 512
_PER_POINT = 4

# CVAT keeps more; a hundredth of a pixel is finer than anyone draws.
_DECIMALS = 2


@dataclass(frozen=True)
class PolygonTrack:
    """The masks of one object as polygons.

    Args:
        points: CVAT's flat ``x, y`` of the polygon by frame, pixels
        iou: IoU of the polygon, as the loader fills it, with the mask, by frame
    """

    points: Mapping[int, tuple[float, ...]]
    iou: Mapping[int, float]


def polygon_track(masks: Mapping[int, ObjectMask], size: tuple[int, int]) -> PolygonTrack:
    """Makes a polygon of each mask of one object, so that CVAT's interpolation between any two of them is steady.

    Of a mask in several parts the largest is kept, and holes are filled: a polygon has one outline.

    Args:
        masks: by frame
        size: ``(height, width)`` of the frames

    Returns:
        a polygon for every mask

    Raises:
        DataError: a mask lies outside the frame
    """
    outlines: dict[int, Floats] = {}
    before: Floats | None = None
    for frame in sorted(masks):
        mask = masks[frame]
        if mask.box[2] > size[1] or mask.box[3] > size[0]:
            raise DataError(
                f"The mask on frame {frame} reaches to {mask.box[2:]}; expected one in the frame, {size[1]}x{size[0]} "
                f"pixels. Cut it off at the frame's edge."
            )
        outline = _largest_outline(mask)
        outlines[frame] = _aligned(outline, before)
        before = _even(outlines[frame], _ALIGNED)
    number = _enough_points(list(outlines.values()))
    points = {frame: _polygon(outline, number, size) for frame, outline in outlines.items()}
    return PolygonTrack(
        {frame: tuple(polygon.ravel().tolist()) for frame, polygon in points.items()},
        {frame: _mask_iou(polygon, masks[frame]) for frame, polygon in points.items()},
    )


# Outlines of masks, arrays of shape (n, 2): x, y in pixels; the last point is joined to the first.


def _largest_outline(mask: ObjectMask) -> Floats:
    """The outline of a mask's largest part, through the middles of the pixels' edges: filled, it is that part."""
    contours, _ = cv2.findContours(_corner_grid(mask.crop).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)[:, 0, :]
    if _signed_area(largest.astype(np.float64)) < 0:
        largest = largest[::-1]
    middles = largest[(largest % 2).sum(axis=1) == 1]
    outline: Floats = middles / 2.0 + (mask.x, mask.y)
    top = np.lexsort((outline[:, 0], outline[:, 1]))[0]
    return np.roll(outline, -int(top), axis=0)


def _corner_grid(crop: BoolArray) -> BoolArray:
    """Pixels as blocks of three by three that share their borders: even places are corners, odd ones middles."""
    height, width = crop.shape
    grid = np.zeros((2 * height + 1, 2 * width + 1), dtype=np.bool_)
    for row in range(3):
        for column in range(3):
            grid[row : row + 2 * height : 2, column : column + 2 * width : 2] |= crop
    return grid


def _signed_area(outline: Floats) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _along(outline: Floats) -> Floats:
    closed = np.vstack([outline, outline[:1]])
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])


def _even(outline: Floats, count: int) -> Floats:
    """``count`` points in equal steps along an outline, from its first point on."""
    reached = _along(outline)
    steps = np.arange(count) * (reached[-1] / count)
    closed = np.vstack([outline, outline[:1]])
    return np.stack([np.interp(steps, reached, closed[:, axis]) for axis in range(2)], axis=1)


def _aligned(outline: Floats, before: Floats | None) -> Floats:
    """The outline from the point on that makes it most like the one before, wherever each of them lies."""
    if before is None:
        return outline
    samples = _even(outline, len(before))
    ours = (samples - samples.mean(axis=0)) @ (1, 1j)
    theirs = (before - before.mean(axis=0)) @ (1, 1j)
    likeness = np.fft.ifft(np.fft.fft(ours) * np.conj(np.fft.fft(theirs))).real
    start = samples[int(likeness.argmax())]
    reached = _along(outline)
    place = int(np.searchsorted(reached, likeness.argmax() * reached[-1] / len(before), side="right"))
    turned = np.roll(outline, -place, axis=0)
    return np.vstack([start, turned]) if not np.array_equal(start, turned[-1]) else np.roll(outline, 1 - place, axis=0)


# Polygons of outlines


def _enough_points(outlines: list[Floats]) -> int:
    """The smallest number of points that is faithful on most frames."""
    judged = [_even(outline, _ALIGNED) for outline in outlines[:: max(1, -(-len(outlines) // _JUDGED))]]
    for number in _NUMBERS:
        faithful = sum(outline_iou(_fitted(outline, number), outline) >= _FAITHFUL for outline in judged)
        if faithful >= _MOST * len(judged):
            return number
    return _NUMBERS[-1]


def _polygon(outline: Floats, number: int, size: tuple[int, int]) -> Floats:
    """A polygon of ``number`` points, or of more where those are too few; a tiny outline is its own polygon."""
    height, width = size
    while True:
        if len(outline) <= number:
            return outline
        polygon = np.clip(_fitted(outline, number), 0.0, (width, height)).round(_DECIMALS)
        if 2 * number > _MOST_POINTS or outline_iou(polygon, outline) >= _FAITHFUL:
            return polygon
        number *= 2


def _fitted(outline: Floats, number: int) -> Floats:
    """The polygon of ``number`` points, evenly spaced along the outline, that comes nearest to it."""
    fitted: Floats = _fit(number) @ _even(outline, number * _PER_POINT)
    return fitted


@lru_cache(maxsize=32)
def _fit(number: int) -> Floats:
    """Least squares: what makes the corners of a polygon of points in equal steps along an outline."""
    places = np.arange(number * _PER_POINT) / _PER_POINT
    apart = np.abs(places[:, None] - np.arange(number)[None, :])
    weights = np.maximum(0.0, 1.0 - np.minimum(apart, number - apart))
    fit: Floats = np.linalg.solve(weights.T @ weights, weights.T)
    return fit


def _mask_iou(polygon: Floats, mask: ObjectMask) -> float:
    x1, y1, x2, y2 = mask.box
    left, top = min(x1, int(polygon[:, 0].min())), min(y1, int(polygon[:, 1].min()))
    right, bottom = max(x2, int(polygon[:, 0].max()) + 1), max(y2, int(polygon[:, 1].max()) + 1)
    size = (bottom - top, right - left)
    filled = rasterize((tuple(map(tuple, (polygon - (left, top)).tolist())),), size)
    if filled is None:
        return 0.0
    ours = filled.to_full(size)
    theirs = np.zeros(size, dtype=np.bool_)
    theirs[y1 - top : y2 - top, x1 - left : x2 - left] = mask.crop
    return float((ours & theirs).sum() / (ours | theirs).sum())


__all__ = ["PolygonTrack", "polygon_track"]
