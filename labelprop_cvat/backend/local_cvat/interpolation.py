"""A track's shapes between its keyframes, as CVAT's server computes them.

Rectangles, ellipses, cuboids and single points move linearly, and with them the nodes of skeletons; rotations take the
shorter way round. Polygons are matched point to point by how far along the outline each point lies, then move linearly.
Several points and polylines hold still. Masks cannot be interpolated: the real server fails on them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .payload import Payload
from .replies import ServerFaultError

Points = NDArray[np.float64]
_LINEAR = ("rectangle", "ellipse", "cuboid")


def interpolate_track(track: Payload, start: int, end: int) -> list[Payload]:
    """A track's shapes on the frames ``start`` to ``end - 1``, keyframes included; the last keyframe holds to the end.

    After an ``outside`` keyframe nothing follows until the next one.

    Returns:
        copies, in order of frames; keyframes carry ``keyframe: True``

    Raises:
        ServerFaultError: masks or mixed types between two keyframes
    """
    keyframes = sorted(track["shapes"], key=lambda shape: int(shape["frame"]))
    shapes: list[Payload] = []
    for position, shape in enumerate(keyframes):
        if position and shape["frame"] == keyframes[position - 1]["frame"]:
            continue
        following = keyframes[position + 1] if position + 1 < len(keyframes) else {**shape, "frame": end}
        shapes.append({**copy.deepcopy(shape), "keyframe": True})
        if not shape["outside"] and shape["frame"] < end and following["frame"] > shape["frame"]:
            shapes.extend(_between(shape, following))
    return [shape for shape in shapes if start <= shape["frame"] < end]


def _between(left: Payload, right: Payload) -> Iterator[Payload]:
    if left["type"] != right["type"]:
        raise ServerFaultError("a track that changes its shape type")
    if left["type"] == "mask":
        raise ServerFaultError("mask tracks cannot be interpolated")
    length = right["frame"] - left["frame"]
    for frame in range(left["frame"] + 1, right["frame"]):
        offset = (frame - left["frame"]) / length
        shape = {**copy.deepcopy(left), "frame": frame, "keyframe": False}
        shape["points"] = _points_between(left, right, offset)
        if left["type"] in _LINEAR:
            shape["rotation"] = _angle_between(left["rotation"], right["rotation"], offset)
        yield shape


def _points_between(left: Payload, right: Payload, offset: float) -> list[float]:
    kind = left["type"]
    single = kind == "points" and len(left["points"]) == len(right["points"]) == 2
    if kind in _LINEAR or single:
        start = np.asarray(left["points"], float)
        moved: list[float] = (start + (np.asarray(right["points"], float) - start) * offset).tolist()
        return moved
    if kind == "polygon":
        return _outline_between(left["points"], right["points"], offset)
    return list(left["points"])


def _angle_between(left: float, right: float, offset: float) -> float:
    turn = (right - left + 180) % 360 - 180
    return (left + turn * offset + 360) % 360


# Outlines


def _outline_between(left: Sequence[float], right: Sequence[float], offset: float) -> list[float]:
    a, b = _closed_corners(left), _closed_corners(right)
    matching = _match(_along(a), _along(b))
    moved = [a[i] + (b[j] - a[i]) * offset for i, partners in enumerate(matching) for j in partners]
    points = _thin(np.array(moved), matching, a, b)[:-1]
    return [float(value) for point in points for value in point]


def _closed_corners(points: Sequence[float]) -> Points:
    corners = np.asarray(points, float).reshape(-1, 2)
    return np.concatenate([corners, corners[:1]])


def _length(points: Points) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _along(points: Points) -> NDArray[np.float64]:
    """How far along its outline each point lies, 0 to 1."""
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return steps / steps[-1] if steps[-1] > 0 else steps


def _match(left: NDArray[np.float64], right: NDArray[np.float64]) -> list[list[int]]:
    """For each left point the right points it moves to: the nearest, and those that nothing else took."""
    matching = [[int(np.abs(right - value).argmin())] for value in left]
    taken = {partner for partners in matching for partner in partners}
    for j in range(len(right)):
        if j not in taken:
            matching[int(np.abs(left - right[j]).argmin())].append(j)
    return [sorted(partners) for partners in matching]


def _thin(moved: Points, matching: list[list[int]], left: Points, right: Points) -> list[Points]:
    """Drop moved points that crowd together: within runs of one-to-one matches, and where one point splits up."""
    first = np.cumsum([0, *(len(partners) for partners in matching)])
    points: list[Points] = []
    opened: int | None = None

    def close(stop: int) -> None:
        if opened is not None:
            run = moved[first[opened] : first[stop] + 1]
            points.extend(_spaced(run, _length(left[opened : stop + 1]), stop - opened + 1))

    for i, partners in enumerate(matching):
        if len(partners) > 1:
            close(i - 1)
            opened = None
            run = moved[first[i] : first[i + 1]]
            between = right[partners[0] : partners[-1] + 1]
            points.extend(_spaced(run, _length(between), len(between)))
        elif opened is None:
            opened = i
        elif partners[0] != matching[opened][0]:
            close(i - 1)
            opened = i
    close(len(matching) - 1)
    return points


def _spaced(run: Points, length: float, count: int) -> list[Points]:
    """The first and last point of a run and those between that keep their distance from the one before."""
    if len(run) == 1:
        return [run[0]]
    threshold = length / (2 * count)
    kept = [run[0]]
    for point in run[1:-1]:
        if np.linalg.norm(point - kept[-1]) >= threshold:
            kept.append(point)
    kept.append(run[-1])
    if len(kept) == 2 and np.linalg.norm(kept[1] - kept[0]) < threshold:
        return [np.mean(kept, axis=0)]
    return kept


__all__ = ["interpolate_track"]
