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

# Where shapes are costly to compare, ways of up to this many frames are all tried, and after so many failures in a row
# no longer ones.
_TRIED_ALL = 16
_PATIENCE = 4

# How much of what the IoU may lack is lost along x, in bounds that are sufficient.
_SHARES = (0.5, 0.2, 0.8)
# Frames ahead that are looked at first, and frames remembered at which others failed.
_FIRST_LOOK = 32
_REMEMBERED = 24

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

    For boxes that are not turned no smaller choice exists. Polygons and turned boxes cost more to compare: there a way
    is taken to fail where a few that are a little shorter fail, so that now and then a smaller choice may exist.

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
    unreached = np.ones(stop + 1, dtype=np.bool_)
    border = [start]
    while unreached[stop]:
        reached: list[int] = []
        # The furthest first: what it reaches, the others need not try.
        for place in sorted(border, reverse=True):
            found = reach(place, place + 1 + np.flatnonzero(unreached[place + 1 :]))
            unreached[found] = False
            came_from.update(dict.fromkeys(found.tolist(), place))
            reached += found.tolist()
            if not unreached[stop]:
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

    A linear function of a box moves linearly too. So where good enough boxes have values within bounds, the slope of a
    good way lies between bounds that only narrow with every frame. Bounds that every good box keeps rule ways out,
    bounds within which every box is good let them pass, and what is left is compared frame by frame, the frames first
    at which others failed.
    """

    def __init__(self, run: list[TrackShape], following: TrackShape | None, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._length = len(run)
        # A track that lasts to the job's end holds its last keyframe.
        self._holds = following is None
        last = run[-1] if following is None else following
        self._boxes = np.array([shape.points for shape in (*run, last)], dtype=np.float64)
        after = run[-1].frame + 1 if following is None else following.frame
        self._frames = np.array([*(shape.frame for shape in run), after], dtype=np.float64)
        self._necessary = _necessary(self._boxes, tolerance)
        self._sufficient = [_sufficient(self._boxes, tolerance, share) for share in _SHARES]
        self._hard: list[int] = []

    def __call__(self, place: int, others: NDArray[np.intp]) -> NDArray[np.intp]:
        found: list[NDArray[np.intp]] = []
        if self._holds and len(others) and others[-1] == self._length:
            inner = np.arange(place + 1, self._length)
            if self._good(np.broadcast_to(self._boxes[place], (len(inner), 4)), inner).all():
                found.append(others[-1:])
            others = others[:-1]
        ahead = _FIRST_LOOK
        while len(others):
            near = others[others <= place + ahead]
            possible, sure = self._bounded(place, near) if len(near) else (near, near)
            doubtful = np.setdiff1d(possible, sure, assume_unique=True)
            found += [sure, self._compared(place, doubtful)]
            others = others[len(near) :]
            if len(others) and not self._goes_on(place, place + ahead):
                break
            ahead *= 4
        return np.concatenate(found) if found else others

    def _goes_on(self, place: int, other: int) -> bool:
        """Whether any slope is left after the frames up to ``other``."""
        lows, highs = self._slopes(self._necessary, place, other)
        return bool((lows.max(axis=0) <= highs.min(axis=0)).all())

    def _slopes(self, bounds: _Bounds, place: int, other: int) -> tuple[Floats, Floats]:
        """The lowest and highest slope that meets each of the frames after ``place`` up to ``other`` by itself."""
        span = slice(place + 1, other + 1)
        apart = (self._frames[span] - self._frames[place])[:, None]
        return (bounds.low[span] - bounds.values[place]) / apart, (bounds.high[span] - bounds.values[place]) / apart

    def _bounded(self, place: int, others: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Those of ``others`` to which the way may be good, and those to which it surely is."""
        at = others - place - 1
        apart = (self._frames[others] - self._frames[place])[:, None]

        def within(bounds: _Bounds) -> NDArray[np.bool_]:
            slopes = (bounds.values[others] - bounds.values[place]) / apart
            lows, highs = self._slopes(bounds, place, int(others[-1]) - 1)
            # Before the first frame there are no bounds yet.
            lows = np.vstack([np.full(lows.shape[1], -np.inf), np.maximum.accumulate(lows)])[at]
            highs = np.vstack([np.full(highs.shape[1], np.inf), np.minimum.accumulate(highs)])[at]
            return np.asarray(((slopes >= lows) & (slopes <= highs)).all(axis=1))

        possible = within(self._necessary)
        sure = np.zeros(len(others), dtype=np.bool_)
        for bounds in self._sufficient:
            if (possible & ~sure).any():
                sure |= possible & within(bounds)
        return others[possible], others[sure]

    def _compared(self, place: int, others: NDArray[np.intp]) -> NDArray[np.intp]:
        """Those of ``others`` to which the way is good on every frame."""
        hard = np.array(self._hard, dtype=np.intp)
        which, frame = np.nonzero((hard[None, :] > place) & (hard[None, :] < others[:, None]))
        failing = ~self._way(place, others[which], hard[frame])
        left = np.delete(others, which[failing])
        good: list[int] = []
        for other in left.tolist():
            inner = np.arange(place + 1, other)
            passed = self._way(place, np.full(len(inner), other), inner)
            if passed.all():
                good.append(other)
            else:
                worst = int(inner[~passed][(~passed).sum() // 2])
                self._hard = [worst, *(known for known in self._hard if known != worst)][:_REMEMBERED]
        return np.array(good, dtype=np.intp)

    def _way(self, place: int, others: NDArray[np.intp], inner: NDArray[np.intp]) -> NDArray[np.bool_]:
        """For each of ``inner``, whether the box on the way to its one of ``others`` is good there."""
        offset = (self._frames[inner] - self._frames[place]) / (self._frames[others] - self._frames[place])
        return self._good(self._boxes[place] + (self._boxes[others] - self._boxes[place]) * offset[:, None], inner)

    def _good(self, boxes: Floats, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        return are_good_boxes(boxes, self._boxes[places], self._tolerance)


def are_good_boxes(boxes: Floats, truth: Floats, tolerance: Tolerance) -> NDArray[np.bool_]:
    """For each row of two arrays of shape ``(n, 4)``, whether the one box can stand for the other."""
    near = np.abs(boxes - truth).max(axis=1, initial=0.0) <= tolerance.pixels + _ROUNDING
    low, high = np.maximum(boxes[:, :2], truth[:, :2]), np.minimum(boxes[:, 2:], truth[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    both = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    both += np.maximum(truth[:, 2:] - truth[:, :2], 0).prod(axis=1)
    alike = (common > 0) & (common >= (tolerance.iou - _ROUNDING) * (both - common))
    return np.asarray(near | alike)


# Along one axis, IoU >= t has four straight borders. With p the step of the low edge, q that of the high edge, and s
# the true side: p + t q <= s (1 - t), t p + q >= s (t - 1), and q - p from s (t - 1) to s (1 / t - 1).
# In two dimensions IoU >= t needs t along both axes, and u and v along them make u v or more.


@dataclass(frozen=True)
class _Bounds:
    """Linear functions of boxes, and between what they lie for good ones: arrays of shape ``(n, 10)``."""

    values: Floats
    low: Floats
    high: Floats


def _necessary(boxes: Floats, tolerance: Tolerance) -> _Bounds:
    """Bounds that every good box keeps."""
    share, pixels = tolerance.iou, tolerance.pixels
    low, high = _by_iou(boxes, share, share)
    far = np.array([1 + share, 1 + share, 2.0] * 2 + [1.0] * 4) * pixels
    sides = _sides(boxes)
    inward, outward = sides * (1 - share), sides * (1 / share - 1)
    low[:, 6:], high[:, 6:] = -np.hstack([outward, inward]), np.hstack([inward, outward])
    values = boxes @ _functions(share, share).T
    return _Bounds(values, values + np.minimum(low, -far) - _ROUNDING, values + np.maximum(high, far) + _ROUNDING)


def _sufficient(boxes: Floats, tolerance: Tolerance, part: float) -> _Bounds:
    """Bounds between which every box is good; ``part`` of what the IoU may lack is lost along x, the rest along y."""
    along_x, along_y = tolerance.iou**part, tolerance.iou ** (1 - part)
    low, high = _by_iou(boxes, along_x, along_y)
    sides = _sides(boxes)
    # For small boxes pixels allow more than IoU does.
    small = (sides * (1 / tolerance.iou - 1)).sum(axis=1) < 4 * tolerance.pixels
    low[small], high[small] = -np.inf, np.inf
    low[small, 6:], high[small, 6:] = -tolerance.pixels, tolerance.pixels
    values = boxes @ _functions(along_x, along_y).T
    return _Bounds(values, values + low, values + high)


def _functions(along_x: float, along_y: float) -> Floats:
    rows = np.zeros((10, 4))
    for first, low, high, share in ((0, 0, 2, along_x), (3, 1, 3, along_y)):
        rows[first : first + 3, low] = 1.0, share, -1.0
        rows[first : first + 3, high] = share, 1.0, 1.0
    rows[6:] = np.eye(4)
    return rows


def _by_iou(boxes: Floats, along_x: float, along_y: float) -> tuple[Floats, Floats]:
    """How far below and above its value for the truth each function may lie; the edges themselves are free."""
    low, high = np.full((len(boxes), 10), -np.inf), np.full((len(boxes), 10), np.inf)
    for first, sides, share in zip((0, 3), _sides(boxes).T, (along_x, along_y), strict=True):
        high[:, first] = sides * (1 - share)
        low[:, first + 1] = low[:, first + 2] = sides * (share - 1)
        high[:, first + 2] = sides * (1 / share - 1)
    return low, high


def _sides(boxes: Floats) -> Floats:
    return np.maximum(0.0, boxes[:, 2:] - boxes[:, :2])


# Any other shape


class _ShapeReach:
    """Ways between shapes that are costly to compare: those that promise something are tried."""

    def __init__(
        self, run: list[TrackShape], following: TrackShape | None, shape_type: str, tolerance: Tolerance
    ) -> None:
        self._run, self._following = run, following
        self._shape_type = shape_type
        self._tolerance = tolerance
        # CVAT's server holds lines and several points still. Something that moved them instead shall show the same.
        self._stands_still = shape_type not in LINEAR and shape_type != "polygon"
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, place: int, others: NDArray[np.intp]) -> NDArray[np.intp]:
        left: list[int] = others.tolist()
        # Where nothing moves, one look at the end saves all others.
        if not left or self._is_good_way(place, left[-1]):
            return others[-1:]
        end = left.pop()
        near = [other for other in left if other - place <= _TRIED_ALL]
        found: list[int] = []
        failures = 0
        for other in near:
            if self._is_good_way(place, other):
                found.append(other)
                failures = 0
            else:
                failures += 1
            if failures == _PATIENCE:
                return np.array(found, dtype=np.intp)
        return np.array(found + self._far(place, [*left[len(near) :], end]), dtype=np.intp)

    def _far(self, place: int, left: list[int]) -> list[int]:
        """Those of ``left`` that are found when longer and longer ways are tried, then halved; the last one is bad."""
        found: list[int] = []
        good, bad, trial = -1, len(left) - 1, 0
        while bad - good > 1:
            if self._is_good_way(place, left[trial]):
                found.append(left[trial])
                good = trial
            else:
                bad = trial
            ahead = trial + max(1, (left[trial] - place) // 2)
            trial = ahead if good == trial and ahead < bad else (good + bad) // 2
        return found

    def _is_good_way(self, place: int, other: int) -> bool:
        if other == place + 1:
            return True
        if (place, other) not in self._known:
            self._known[place, other] = self._try(place, other)
        return self._known[place, other]

    def _try(self, place: int, other: int) -> bool:
        left = self._run[place]
        right = self._run[other] if other < len(self._run) else self._following
        if self._stands_still and right is not None and not self._is_good(right, left):
            return False
        way = None if right is None else Way(left, right, self._shape_type)
        for inner in _middle_first(place + 1, other):
            truth = self._run[inner]
            shape = left if way is None else way.at(truth.frame)
            if not self._is_good(shape, truth):
                return False
        return True

    def _is_good(self, shape: TrackShape, truth: TrackShape) -> bool:
        return is_good(shape, truth, self._shape_type, self._tolerance)


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
    """Whether one shape can stand for another, by IoU or by pixels: of turned boxes those by which a corner is off."""
    if shape_type == "rectangle" and not (shape.rotation or truth.rotation):
        box, true_box = (np.array([one.points], dtype=np.float64) for one in (shape, truth))
        return bool(are_good_boxes(box, true_box, tolerance)[0])
    if shape_type in ("rectangle", "polygon"):
        ours, theirs = _outline(shape, shape_type), _outline(truth, shape_type)
        return outline_iou(ours, theirs) >= tolerance.iou - _ROUNDING or are_near(
            ours, theirs, tolerance.pixels + _ROUNDING
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


def are_near(first: Floats, second: Floats, pixels: float) -> bool:
    """Whether the corners of either outline lie within ``pixels`` of the other outline."""
    ends = np.array([(o.min(axis=0), o.max(axis=0)) for o in (first, second)])
    if np.abs(ends[0] - ends[1]).max() > pixels:
        return False
    # A few corners tell most outlines apart.
    return all(
        _reaches(one[start::step], other, pixels)
        for start, step in ((0, 8), (0, 1))
        for one, other in ((first, second), (second, first))
    )


def _reaches(points: Floats, outline: Floats, pixels: float) -> bool:
    """Whether all points lie within ``pixels`` of an outline."""
    (x, y), (x1, y1) = points.T[:, :, None], outline.T[:, None, :]
    dx, dy = np.roll(x1, -1, axis=1) - x1, np.roll(y1, -1, axis=1) - y1
    squares = dx**2 + dy**2
    off_x, off_y = x - x1, y - y1
    along = np.clip((off_x * dx + off_y * dy) / np.where(squares > 0, squares, 1.0), 0.0, 1.0)
    off = (off_x - along * dx) ** 2 + (off_y - along * dy) ** 2
    return bool(off.min(axis=1).max() <= pixels**2)


__all__ = ["Tolerance", "are_good_boxes", "are_near", "is_good", "needed_keyframes", "outline_iou"]
