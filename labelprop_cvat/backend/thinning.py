"""The fewest keyframes from which CVAT's own interpolation shows a track as it is.

A track's visible runs are cut at the frames that must be keyframes. Between two of those the way with the fewest
keyframes is a shortest path: frames are the nodes, and two of them are joined where the shapes that CVAT shows between
them are good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labelprop_cvat.backend.interpolation import LINEAR, TrackShape, Way
from labelprop_cvat.errors import ConfigurationError, DataError

Floats = NDArray[np.float64]

# Numbers that went through CVAT's arithmetic are off by rounding.
_ROUNDING = 1e-9

# Where shapes are costly to compare, ways of up to this many frames are all tried; longer ones in steps of an eighth.
_TRIED_ALL = 16
_STEP = 1.125
# After so many failures in a row no longer way from the same frame is tried.
_PATIENCE = 4

# Rows on which outlines are compared; across a row the comparison is exact.
_ROWS = 64


@dataclass(frozen=True)
class Tolerance:
    """When the shape that CVAT shows is good enough: either of the two is.

    Args:
        iou: lowest IoU, above 0 and at most 1
        pixels: how far an edge of a box, or a point of an outline, may be off at most, at least 0

    Raises:
        ConfigurationError: a value is out of its range
    """

    iou: float = 0.97
    pixels: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.iou <= 1.0:
            raise ConfigurationError(f"A tolerance's iou lies above 0 and at most at 1, got {self.iou!r}.")
        if not (self.pixels >= 0.0 and math.isfinite(self.pixels)):
            raise ConfigurationError(f"A tolerance's pixels are a number from 0, got {self.pixels!r}.")


_DEFAULT = Tolerance()


def needed_keyframes(
    shapes: Mapping[int, TrackShape],
    shape_type: str,
    frames: Sequence[int],
    fixed: Collection[int],
    tolerance: Tolerance = _DEFAULT,
) -> frozenset[int]:
    """Chooses the frames whose shapes are sent as keyframes.

    On every other frame, what CVAT shows of the sent track is good enough. The track is meant to have, on every one of
    ``frames`` that follows a visible frame and where the object is absent, an ``outside`` keyframe with the points of
    the last visible shape; those are not counted.

    For boxes that are not turned no smaller choice exists. Polygons and turned boxes cost more to compare: there, of
    two frames more than 16 apart only some are tried, so that now and then a choice with fewer may exist.

    Args:
        shapes: the visible shapes by frame number in the task
        shape_type: CVAT's name, as ``"rectangle"`` or ``"polygon"``
        frames: all frames of the job, ascending
        fixed: frames that must be keyframes; those without a shape are passed over
        tolerance: what is good enough

    Returns:
        frames of ``shapes``: the first of every visible run, the ``fixed`` ones and those that are needed besides

    Raises:
        DataError: masks, or a shape on a frame that the job does not have
    """
    if shape_type == "mask":
        raise DataError("Masks have no keyframes: CVAT shows no tracks of masks. Send one mask shape a frame.")
    strange = sorted(set(shapes) - set(frames))
    if strange:
        raise DataError(f"There are shapes on frames that the job does not have: {strange[:5]}. Leave them out.")
    needed: set[int] = set()
    for run, following in _runs(shapes, frames):
        stops = [0, *(place for place, shape in enumerate(run) if place and shape.frame in fixed)]
        reach = _reach(run, following, shape_type, tolerance)
        for start, stop in zip(stops, [*stops[1:], len(run)], strict=True):
            needed.update(run[place].frame for place in _shortest(start, stop, reach))
    return frozenset(needed)


def _runs(
    shapes: Mapping[int, TrackShape], frames: Sequence[int]
) -> Iterator[tuple[list[TrackShape], TrackShape | None]]:
    """The visible runs, each with the ``outside`` keyframe that ends it; None for one that lasts to the job's end."""
    run: list[TrackShape] = []
    for frame in frames:
        if frame in shapes:
            run.append(replace(shapes[frame], frame=frame))
        elif run:
            yield run, replace(run[-1], frame=frame, outside=True)
            run = []
    if run:
        yield run, None


# The shortest path

# (place, unreached places after it, ascending) -> those of them to which the way from it is good enough. The place
# after the last shape of a run stands for its end.
_Reach = Callable[[int, NDArray[np.intp]], NDArray[np.intp]]


def _shortest(start: int, stop: int, reach: _Reach) -> list[int]:
    """The places on a shortest path from ``start`` to ``stop``, ``stop`` left out."""
    came_from = {start: start}
    border = [start]
    while stop not in came_from:
        reached: list[int] = []
        # The furthest first: what it reaches, the others need not try.
        for place in sorted(border, reverse=True):
            left = [other for other in range(place + 1, stop + 1) if other not in came_from]
            for other in reach(place, np.array(left, dtype=np.intp)).tolist():
                came_from[other] = place
                reached.append(other)
            if stop in came_from:
                break
        border = reached
    path = [stop]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[:0:-1]


def _reach(run: list[TrackShape], following: TrackShape | None, shape_type: str, tolerance: Tolerance) -> _Reach:
    if shape_type == "rectangle" and not any(shape.rotation for shape in run):
        return _BoxReach(run, following, tolerance)
    return _ShapeReach(run, following, shape_type, tolerance)


# Boxes


class _BoxReach:
    """Ways between boxes that are not turned: all are tried, most of them without looking at every frame.

    Each edge of a box that is good enough lies in an interval, and whatever has all edges in a smaller interval is good
    enough. A straight line through intervals has a slope between bounds that only narrow with every frame.
    """

    def __init__(self, run: list[TrackShape], following: TrackShape | None, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        # A track that lasts to the job's end holds its last keyframe, as if the same box came once more.
        self._holds = following is None
        self._length = len(run)
        last = run[-1] if following is None else following
        self._boxes = np.array([shape.points for shape in (*run, last)], dtype=np.float64)
        after = run[-1].frame + 1 if following is None else following.frame
        self._frames = np.array([*(shape.frame for shape in run), after], dtype=np.float64)
        sides = np.abs(self._boxes[:, [2, 3, 2, 3]] - self._boxes[:, [0, 1, 0, 1]])
        inward = np.maximum(tolerance.pixels, sides * (1 - tolerance.iou)) + _ROUNDING
        outward = np.maximum(tolerance.pixels, sides * (1 / tolerance.iou - 1)) + _ROUNDING
        first = np.array([True, True, False, False])
        self._lowest = self._boxes - np.where(first, outward, inward)
        self._highest = self._boxes + np.where(first, inward, outward)
        # Both edges of each side this far inward, or outward, still make the IoU.
        surely = np.maximum(0.0, sides * (1 - math.sqrt(tolerance.iou)) / 2 - _ROUNDING)
        every = surely.min(axis=1, keepdims=True) >= tolerance.pixels
        self._sure = np.where(every, surely, max(0.0, tolerance.pixels - _ROUNDING))

    def __call__(self, place: int, others: NDArray[np.intp]) -> NDArray[np.intp]:
        if not len(others):
            return others
        held = np.zeros(0, dtype=np.intp)
        if self._holds and others[-1] == self._length:
            inner = np.arange(place + 1, self._length)
            if self._good(np.broadcast_to(self._boxes[place], (len(inner), 4)), inner).all():
                held = others[-1:]
            others = others[:-1]
            if not len(others):
                return held
        span = slice(place + 1, int(others[-1]) + 1)
        apart = (self._frames[span] - self._frames[place])[:, None]
        start = self._boxes[place]
        slopes = ((self._boxes[span] - start) / apart)[others - place - 1]
        inside = others - place - 1

        def within(low: Floats, high: Floats) -> NDArray[np.bool_]:
            # The bounds of the frames before each one; before the first there are none.
            lows = np.maximum.accumulate(np.vstack([np.full(4, -np.inf), (low - start) / apart]))[inside]
            highs = np.minimum.accumulate(np.vstack([np.full(4, np.inf), (high - start) / apart]))[inside]
            return np.asarray(((slopes >= lows) & (slopes <= highs)).all(axis=1))

        possible = within(self._lowest[span], self._highest[span])
        sure = within(self._boxes[span] - self._sure[span], self._boxes[span] + self._sure[span])
        doubtful = np.flatnonzero(possible & ~sure)
        good = sure
        good[doubtful] = [self._is_good_way(place, int(others[k])) for k in doubtful]
        return np.concatenate([others[good], held])

    def _is_good_way(self, place: int, other: int) -> bool:
        inner = np.arange(place + 1, other)
        if len(inner) > 16 and not self._way(place, other, inner[:: len(inner) // 8]).all():
            return False
        return bool(self._way(place, other, inner).all())

    def _way(self, place: int, other: int, inner: NDArray[np.intp]) -> NDArray[np.bool_]:
        offset = (self._frames[inner] - self._frames[place]) / (self._frames[other] - self._frames[place])
        return self._good(self._boxes[place] + (self._boxes[other] - self._boxes[place]) * offset[:, None], inner)

    def _good(self, boxes: Floats, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        truth = self._boxes[places]
        near = np.abs(boxes - truth).max(axis=1, initial=0.0) <= self._tolerance.pixels + _ROUNDING
        common = _area(np.hstack([np.maximum(boxes[:, :2], truth[:, :2]), np.minimum(boxes[:, 2:], truth[:, 2:])]))
        whole = _area(boxes) + _area(truth) - common
        return np.asarray(near | ((common >= (self._tolerance.iou - _ROUNDING) * whole) & (common > 0)))


def _area(boxes: Floats) -> Floats:
    return np.asarray(np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0))


# Any other shape


class _ShapeReach:
    """Ways between shapes that are costly to compare: those that promise something are tried."""

    def __init__(
        self, run: list[TrackShape], following: TrackShape | None, shape_type: str, tolerance: Tolerance
    ) -> None:
        self._run, self._following = run, following
        self._shape_type = shape_type
        self._tolerance = tolerance
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, place: int, others: NDArray[np.intp]) -> NDArray[np.intp]:
        found: list[int] = []
        left = [int(other) for other in others]
        # Where nothing moves, one look at the end saves all others.
        if left and self._is_good_way(place, left[-1]):
            return np.array(left[-1:], dtype=np.intp)
        failures, tried = 0, 0.0
        for other in left:
            span = other - place
            if span > _TRIED_ALL and span < tried * _STEP:
                continue
            tried = span
            if self._is_good_way(place, other):
                found.append(other)
                failures = 0
            else:
                failures += 1
                if failures == _PATIENCE:
                    break
        return np.array(found, dtype=np.intp)

    def _is_good_way(self, place: int, other: int) -> bool:
        if other == place + 1:
            return True
        if (place, other) not in self._known:
            self._known[place, other] = self._try(place, other)
        return self._known[place, other]

    def _try(self, place: int, other: int) -> bool:
        left = self._run[place]
        right = self._run[other] if other < len(self._run) else self._following
        way = None if right is None else Way(left, right, self._shape_type)
        for inner in _middle_first(place + 1, other):
            truth = self._run[inner]
            shape = left if way is None else way.at(truth.frame)
            if not is_good(shape, truth, self._shape_type, self._tolerance):
                return False
        return True


def _middle_first(start: int, stop: int) -> Iterator[int]:
    """The numbers from ``start`` to ``stop - 1``, those far from both ends and from each other first."""
    parts = [(start, stop)]
    while parts:
        following = []
        for low, high in parts:
            if low < high:
                middle = (low + high) // 2
                yield middle
                following += [(low, middle), (middle + 1, high)]
        parts = following


def is_good(shape: TrackShape, truth: TrackShape, shape_type: str, tolerance: Tolerance = _DEFAULT) -> bool:
    """Whether one shape can stand for another, by IoU or by pixels."""
    if shape_type in ("rectangle", "polygon"):
        ours, theirs = _outline(shape, shape_type), _outline(truth, shape_type)
        return outline_iou(ours, theirs) >= tolerance.iou - _ROUNDING or (
            outline_distance(ours, theirs) <= tolerance.pixels + _ROUNDING
        )
    if len(shape.points) != len(truth.points):
        return False
    turn = (shape.rotation - truth.rotation + 180) % 360 - 180 if shape_type in LINEAR else 0.0
    off = np.abs(np.subtract(shape.points, truth.points)).max(initial=0.0)
    return bool(off <= tolerance.pixels + _ROUNDING and abs(turn) <= _ROUNDING)


def _outline(shape: TrackShape, shape_type: str) -> Floats:
    if shape_type == "polygon":
        return np.asarray(shape.points, dtype=np.float64).reshape(-1, 2)
    x1, y1, x2, y2 = shape.points
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], dtype=np.float64)
    if not shape.rotation:
        return corners
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    cosine, sine = math.cos(math.radians(shape.rotation)), math.sin(math.radians(shape.rotation))
    turned: Floats = (corners - middle) @ np.array([(cosine, sine), (-sine, cosine)]) + middle
    return turned


# Comparing outlines


def outline_iou(first: Floats, second: Floats) -> float:
    """IoU of two outlines, arrays of shape ``(n, 2)``, filled even-odd; 0 where neither covers anything.

    Rows across both are compared exactly; there are 64 of them, however large the outlines are.
    """
    low = min(first[:, 1].min(), second[:, 1].min())
    high = max(first[:, 1].max(), second[:, 1].max())
    if not high > low:
        return 0.0
    rows = low + (np.arange(_ROWS) + 0.5) * (high - low) / _ROWS
    row_1, x_1 = _crossings(first, rows)
    row_2, x_2 = _crossings(second, rows)
    row = np.concatenate([row_1, row_2])
    x = np.concatenate([x_1, x_2])
    order = np.lexsort((x, row))
    row, x = row[order], x[order]
    is_first = order < len(x_1)
    # Every row has an even number of crossings of each outline, so that nothing is open at its end.
    in_first = np.cumsum(is_first)[:-1] % 2 == 1
    in_second = np.cumsum(~is_first)[:-1] % 2 == 1
    lengths = np.diff(x)
    whole = float(lengths[in_first | in_second].sum())
    return float(lengths[in_first & in_second].sum()) / whole if whole > 0 else 0.0


def _crossings(outline: Floats, rows: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Where an outline crosses rows: the row's place, and x."""
    start, end = outline, np.roll(outline, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    edge, row = np.nonzero((low[:, None] <= rows) & (rows < high[:, None]))
    drop = end[edge, 1] - start[edge, 1]
    x = start[edge, 0] + (rows[row] - start[edge, 1]) / drop * (end[edge, 0] - start[edge, 0])
    return row, x


def outline_distance(first: Floats, second: Floats) -> float:
    """How far the corners of either outline lie from the other outline at most, pixels."""
    return max(_furthest(first, second), _furthest(second, first))


def _furthest(points: Floats, outline: Floats) -> float:
    start = outline
    edges = np.roll(outline, -1, axis=0) - start
    squares = (edges**2).sum(axis=1)
    to_points = points[:, None, :] - start[None, :, :]
    along = (to_points * edges).sum(axis=2) / np.where(squares > 0, squares, 1.0)
    off = to_points - np.clip(along, 0.0, 1.0)[:, :, None] * edges
    return float(np.sqrt((off**2).sum(axis=2).min(axis=1)).max())


__all__ = ["Tolerance", "is_good", "needed_keyframes", "outline_distance", "outline_iou"]
