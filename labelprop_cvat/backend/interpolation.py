"""CVAT's rule for what a track shows between its keyframes.

Rectangles, ellipses, cuboids and single points move linearly; rotations take the shorter way round. Polygons are
matched point to point by how far along the outline each point lies, then move linearly, and points that crowd together
where one point meets several are dropped. Several points and polylines hold still until the next keyframe. Masks have
no tracks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labelprop_cvat.errors import DataError

Points = NDArray[np.float64]

#: Shape types whose numbers each move linearly.
LINEAR = frozenset({"rectangle", "ellipse", "cuboid"})


@dataclass(frozen=True)
class TrackShape:
    """One keyframe of a track, or what a track shows on one frame.

    Args:
        frame: 0-based frame number in the task
        points: CVAT's flat numbers, pixels; of a rectangle ``(x1, y1, x2, y2)``, right and bottom exclusive, before it
            is turned; of outlines ``(x, y, x, y, ...)``
        outside: whether it hides the track from here to the next keyframe
        rotation: degrees clockwise around the middle, 0 to 360
    """

    frame: int
    points: tuple[float, ...]
    outside: bool = False
    rotation: float = 0.0


def shown(keyframes: Sequence[TrackShape], shape_type: str, frames: Sequence[int]) -> dict[int, TrackShape]:
    """What CVAT shows of a track.

    Args:
        keyframes: in any order; of several on one frame the first counts. The points of an ``outside`` one are where
            the shape before it moves to.
        shape_type: CVAT's name, as ``"rectangle"`` or ``"polygon"``
        frames: frame numbers in the task, in any order

    Returns:
        the shapes on those of ``frames`` where the track is visible, by frame, in the order of ``frames``; the last
        keyframe holds for ever

    Raises:
        DataError: masks, which CVAT cannot show as tracks
    """
    if shape_type == "mask":
        raise DataError("CVAT shows no tracks of masks; expected shapes with points. Send one mask shape a frame.")
    by_frame: dict[int, TrackShape] = {}
    for shape in keyframes:
        by_frame.setdefault(shape.frame, shape)
    anchors = sorted(by_frame)
    ways: dict[int, Way] = {}
    found: dict[int, TrackShape] = {}
    for frame in frames:
        place = bisect_right(anchors, frame) - 1
        if place < 0 or by_frame[anchors[place]].outside:
            continue
        left = by_frame[anchors[place]]
        if left.frame == frame or place + 1 == len(anchors):
            found[frame] = replace(left, frame=frame)
            continue
        if place not in ways:
            ways[place] = Way(left, by_frame[anchors[place + 1]], shape_type)
        found[frame] = ways[place].at(frame)
    return found


class Way:
    """How a shape gets from one keyframe to the next.

    Args:
        left: the earlier keyframe
        right: the later one; hidden or not makes no difference
        shape_type: CVAT's name
    """

    def __init__(self, left: TrackShape, right: TrackShape, shape_type: str) -> None:
        self._left, self._right, self._shape_type = left, right, shape_type
        self._outline = OutlineWay(left.points, right.points) if shape_type == "polygon" else None

    def at(self, frame: int) -> TrackShape:
        """The shape on a frame between the two."""
        left, right = self._left, self._right
        offset = (frame - left.frame) / (right.frame - left.frame)
        if self._outline is not None:
            points = tuple(self._outline.at(offset).ravel().tolist())
        else:
            points = tuple(points_between(left.points, right.points, self._shape_type, offset))
        turned = self._shape_type in LINEAR
        rotation = angle_between(left.rotation, right.rotation, offset) if turned else left.rotation
        return TrackShape(frame, points, rotation=rotation)


def points_between(left: Sequence[float], right: Sequence[float], shape_type: str, offset: float) -> list[float]:
    """The flat points of a shape that is ``offset``, 0 to 1, of the way from ``left`` to ``right``."""
    single = shape_type == "points" and len(left) == len(right) == 2
    if shape_type in LINEAR or single:
        start = np.asarray(left, np.float64)
        moved: list[float] = (start + (np.asarray(right, np.float64) - start) * offset).tolist()
        return moved
    if shape_type == "polygon":
        outline: list[float] = OutlineWay(left, right).at(offset).ravel().tolist()
        return outline
    return list(left)


def angle_between(left: float, right: float, offset: float) -> float:
    """The angle, degrees from 0 to 360, that is ``offset`` of the shorter way from ``left`` to ``right``."""
    turn = (right - left + 180) % 360 - 180
    return (left + turn * offset + 360) % 360


class OutlineWay:
    """The way from one polygon to another by CVAT's matching of points.

    Both are taken as they are: where they start and which way round they go decides what meets what.

    Args:
        left: flat ``x, y`` of three points or more
        right: the same; another number of points is fine
    """

    def __init__(self, left: Sequence[float], right: Sequence[float]) -> None:
        a, b = _closed(left), _closed(right)
        first, second = _match(_along(a), _along(b))
        self._start = a[first]
        self._move = b[second] - self._start
        self._crowds = _crowds(first, second, a, b)

    def at(self, offset: float) -> Points:
        """The points, array of shape ``(n, 2)``, at ``offset``, 0 to 1."""
        moved = self._start + self._move * offset
        if not self._crowds:
            return moved[:-1]
        parts: list[Points] = []
        done = 0
        for begin, end, threshold in self._crowds:
            parts += [moved[done:begin], _spaced(moved[begin:end], threshold)]
            done = end
        return np.concatenate([*parts, moved[done:]])[:-1]


def _closed(points: Sequence[float]) -> Points:
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    return np.concatenate([corners, corners[:1]])


def _steps(points: Points) -> Points:
    lengths: Points = np.hypot(*np.diff(points, axis=0).T)
    return lengths


def _along(points: Points) -> Points:
    """How far along its outline each point lies, 0 to 1."""
    reached = np.concatenate([[0.0], np.cumsum(_steps(points))])
    return reached / reached[-1] if reached[-1] > 0 else reached


def _match(left: Points, right: Points) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of left and right points, sorted: for each left point the nearest, then those that nothing else took."""
    apart = np.abs(left[:, None] - right[None, :])
    nearest = apart.argmin(axis=1)
    free = np.setdiff1d(np.arange(len(right)), nearest)
    first = np.concatenate([np.arange(len(left)), apart[:, free].argmin(axis=0)])
    second = np.concatenate([nearest, free])
    order = np.lexsort((second, first))
    return first[order], second[order]


def _crowds(
    first: NDArray[np.intp], second: NDArray[np.intp], left: Points, right: Points
) -> list[tuple[int, int, float]]:
    """Where several points meet one: ``(begin, end)`` among the pairs, and how near to each other they may come."""
    counts = np.bincount(first, minlength=len(left))
    begins = np.concatenate([[0], np.cumsum(counts)]).tolist()
    if len(second) == len(left) and bool((np.diff(second) != 0).all()):
        return []
    found: list[tuple[int, int, float]] = []
    i = 0
    while i < len(left):
        begin, end = begins[i], begins[i + 1]
        if counts[i] > 1:
            between = right[second[begin] : second[end - 1] + 1]
            found.append((begin, end, _threshold(between)))
            i += 1
            continue
        stop = i
        while stop + 1 < len(left) and counts[stop + 1] == 1 and second[begins[stop + 1]] == second[begin]:
            stop += 1
        if stop > i:
            found.append((begin, begins[stop] + 1, _threshold(left[i : stop + 1])))
        i = stop + 1
    return found


def _threshold(points: Points) -> float:
    return float(_steps(points).sum()) / (2 * len(points))


def _spaced(run: Points, threshold: float) -> Points:
    """The first and last point of a run and those between that keep their distance from the one before."""
    kept = [0]
    for i in range(1, len(run) - 1):
        if np.hypot(*(run[i] - run[kept[-1]])) >= threshold:
            kept.append(i)
    kept.append(len(run) - 1)
    if len(kept) == 2 and np.hypot(*(run[-1] - run[0])) < threshold:
        middle: Points = run[[0, -1]].mean(axis=0, keepdims=True)
        return middle
    return run[kept]


__all__ = ["LINEAR", "OutlineWay", "TrackShape", "Way", "angle_between", "points_between", "shown"]
