"""Masks as polygon tracks that CVAT can interpolate.

CVAT meets the points of two polygons by how far along the outline they lie, from the first point on, in the order in
which they come. So the polygons of one object get points in nearly equal steps, as many on every frame where that will
do, all the same way round, and each starts where the one before did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from labelprop_cvat.backend.thinning import outline_iou
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import BoolArray, ObjectMask, rasterize

Floats = NDArray[np.float64]

# IoU of a polygon with the outline that it stands for, below which it gets more points: the first; or less, down to the
# second, where the outline is so long for what is in it that being off by a fraction of a pixel all around costs more.
_FAITHFUL = 0.98
_FAITHFUL_TO_SMALL = 0.95
_OFF = 0.2
# On this share of an object's frames the object's number of points has to do; the others get more.
_MOST = 0.9
_NUMBERS = (6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192)
_MOST_POINTS = 384
_JUDGED = 16

# Parts and holes below this share of a mask are specks.
_SPECK = 0.02

# Samples of an outline: to find where it starts, and for each point of the polygon that is fitted to it; that point may
# move so many of them forward or back to where the outline bends.
_ALIGNED = 512
_PER_POINT = 8
_FREEDOM = 3

# Square pixels; keeps a division from failing where two corners are in one place.
_NOTHING = 1e-9

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

    A polygon has one outline: parts of a mask are joined by bridges a pixel wide where they come nearest to each other,
    and holes are opened to the outside in the same way. Parts of less than a fiftieth of the mask are left out, and
    holes that small are filled.

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
        outline = _outline(mask)
        outlines[frame] = _aligned(outline, before)
        before = _even(outlines[frame], _ALIGNED)
    number = _enough_points(list(outlines.values()))
    points = {frame: _polygon(outline, number, size) for frame, outline in outlines.items()}
    return PolygonTrack(
        {frame: tuple(polygon.ravel().tolist()) for frame, polygon in points.items()},
        {frame: _mask_iou(polygon, masks[frame]) for frame, polygon in points.items()},
    )


# Outlines of masks, arrays of shape (n, 2): x, y in pixels; the last point is joined to the first.


def _outline(mask: ObjectMask) -> Floats:
    """The outline of a mask in one piece, through the middles of the pixels' edges: filled, it is that piece."""
    grid = _corner_grid(_opened(_in_one_piece(mask.crop)))
    contours, _ = cv2.findContours(grid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # To open a hole may cut a little off.
    contour = max(contours, key=cv2.contourArea)[:, 0, :]
    middles = contour[(contour % 2).sum(axis=1) == 1]
    outline: Floats = middles / 2.0 + (mask.x, mask.y)
    top = np.lexsort((outline[:, 0], outline[:, 1]))[0]
    return np.roll(outline, -int(top), axis=0)


def _in_one_piece(crop: BoolArray) -> BoolArray:
    """The parts of a mask without its specks, joined to each other."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(crop.astype(np.uint8), connectivity=8)
    if count == 2:
        return crop
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = 1 + int(areas[1:].argmax())
    return _linked(np.asarray(parts, np.int32), largest, np.flatnonzero(areas >= _SPECK * crop.sum()), cv2.LINE_8)


def _opened(crop: BoolArray) -> BoolArray:
    """A mask whose holes are open to what is around it."""
    padded = np.pad(crop, 1)
    # Pixels of a mask that touch at a corner are joined; those around it are not.
    count, parts, stats, _ = cv2.connectedComponentsWithStats((~padded).astype(np.uint8), connectivity=4)
    holes = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= _SPECK * crop.sum())
    if count == 2:
        return crop
    around = _linked(np.asarray(parts, np.int32), int(parts[0, 0]), holes, cv2.LINE_4)
    return (padded & ~around)[1:-1, 1:-1]


def _linked(parts: NDArray[np.int32], first: int, others: NDArray[np.intp], line: int) -> BoolArray:
    """The pixels of some parts, and lines from each to the nearest of those that are joined to ``first`` already.

    Args:
        parts: number of the part of each pixel, 0 for none
        first: number of a part
        others: numbers of further ones; 0 and ``first`` are passed over
        line: OpenCV's kind of line
    """
    left = set(others.tolist()) - {0, first}
    joined = (parts == first).astype(np.uint8)
    while left:
        away = cv2.distanceTransform(1 - joined, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        y, x = np.unravel_index(int(np.where(np.isin(parts, list(left)), away, np.inf).argmin()), joined.shape)
        rows, columns = np.nonzero(joined)
        nearest = int(((rows - y) ** 2 + (columns - x) ** 2).argmin())
        cv2.line(joined, (int(x), int(y)), (int(columns[nearest]), int(rows[nearest])), 1, lineType=line)
        part = int(parts[y, x])
        joined[parts == part] = 1
        left.remove(part)
    return joined != 0


def _corner_grid(crop: BoolArray) -> BoolArray:
    """Pixels as blocks of three by three that share their borders: even places are corners, odd ones middles."""
    height, width = crop.shape
    grid = np.zeros((2 * height + 1, 2 * width + 1), dtype=np.bool_)
    for row in range(3):
        for column in range(3):
            grid[row : row + 2 * height : 2, column : column + 2 * width : 2] |= crop
    return grid


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
    judged = outlines[:: max(1, -(-len(outlines) // _JUDGED))]

    def is_enough(number: int) -> bool:
        return sum(_is_faithful(_fitted(outline, number), outline) for outline in judged) >= _MOST * len(judged)

    return _NUMBERS[bisect_left(_NUMBERS[:-1], True, key=is_enough)]


def _polygon(outline: Floats, number: int, size: tuple[int, int]) -> Floats:
    """A polygon of ``number`` points, or of more where those are too few; a tiny outline is its own polygon."""
    height, width = size
    while len(outline) > number:
        polygon = np.clip(_fitted(outline, number), 0.0, (width, height)).round(_DECIMALS)
        if 2 * number > _MOST_POINTS or _is_faithful(polygon, outline):
            return polygon
        number *= 2
    return outline


def _is_faithful(polygon: Floats, outline: Floats) -> bool:
    lost = _OFF * _along(outline)[-1] / cv2.contourArea(outline.astype(np.float32))
    wanted = min(_FAITHFUL, max(_FAITHFUL_TO_SMALL, 1 - lost))
    return outline_iou(polygon, _even(outline, min(len(outline), _ALIGNED))) >= wanted


def _fitted(outline: Floats, number: int) -> Floats:
    """The polygon of ``number`` points that comes nearest to an outline.

    Each point is somewhere near its share of the way around, so that on every frame it meets the same point.
    """
    samples = _even(outline, number * _PER_POINT)
    corners = np.append(_best_corners(samples, number), len(samples))
    places = np.arange(len(samples))
    before = np.searchsorted(corners, places, side="right") - 1
    share = (places - corners[before]) / np.diff(corners)[before]
    # Least squares: each sample lies between two corners, at their weighted mean.
    after = (before + 1) % number
    normal, wanted = np.zeros((number, number)), np.zeros((number, 2))
    for one, weight in ((before, 1 - share), (after, share)):
        np.add.at(wanted, one, weight[:, None] * samples)
        for other, further in ((before, 1 - share), (after, share)):
            np.add.at(normal, (one, other), weight * further)
    return np.asarray(np.linalg.solve(normal, wanted), dtype=np.float64)


def _best_corners(samples: Floats, number: int) -> NDArray[np.intp]:
    """Which samples are corners of the polygon through samples that comes nearest to all: one near each equal step.

    The first is the first sample. Dynamic programming over what each corner may be.
    """
    choices = np.arange(number + 1)[:, None] * _PER_POINT + np.arange(-_FREEDOM, _FREEDOM + 1)
    choices[0], choices[-1] = 0, len(samples)
    losses = _losses(samples, choices[:-1, :, None], choices[1:, None, :])
    total = np.zeros(choices.shape[1])
    came_from = np.zeros(choices.shape, dtype=np.intp)
    for corner in range(number):
        lost = losses[corner] + total[:, None]
        came_from[corner + 1] = lost.argmin(axis=0)
        total = lost.min(axis=0)
    corners = np.zeros(number, dtype=np.intp)
    choice = 0
    for corner in range(number, 0, -1):
        choice = int(came_from[corner, choice])
        corners[corner - 1] = choices[corner - 1, choice]
    return corners


def _losses(samples: Floats, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    """Sums of squared distances of the samples between two to the line through the two."""
    x, y = (np.vstack([samples, samples[:1]]) - samples.mean(axis=0)).T
    sums = np.hstack([np.zeros((5, 1)), np.cumsum([x, y, x * x, y * y, x * y], axis=1)])
    across, up = y[first] - y[second], x[second] - x[first]
    off = across * x[first] + up * y[first]
    sum_x, sum_y, sum_xx, sum_yy, sum_xy = sums[:, second] - sums[:, first + 1]
    squares = across**2 * sum_xx + up**2 * sum_yy + 2 * across * up * sum_xy
    squares += off * (off * (second - first - 1) - 2 * (across * sum_x + up * sum_y))
    losses: Floats = np.maximum(squares, 0.0) / np.maximum(across**2 + up**2, _NOTHING)
    return losses


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
