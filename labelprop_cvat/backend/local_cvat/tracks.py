"""Cutting annotations at job borders and joining them again, as CVAT does for task-level requests.

On the way in every object goes to each job that holds its frame; a track that reaches beyond a job is interpolated and
gets a keyframe on the job's first and last frame. On the way out the jobs' annotations are joined in order: where jobs
overlap, objects of one label that cover each other are taken for one, and a track that nothing continues gets a closing
``outside`` keyframe on the first frame after its job.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from .interpolation import interpolate_track
from .payload import Payload, empty_payload
from .similarity import best_pairs, shape_similarity

_SHAPE_COST, _TRACK_COST = 0.25, 0.5


# In


def slice_payload(payload: Payload, start: int, stop: int) -> Payload:
    """The part of a payload that lies in the frames ``start`` to ``stop``, both inclusive.

    Raises:
        ServerFaultError: a track must be cut whose shapes cannot be interpolated, as masks
    """
    part = empty_payload()
    part["tags"] = [copy.deepcopy(tag) for tag in payload["tags"] if start <= tag["frame"] <= stop]
    part["shapes"] = [copy.deepcopy(shape) for shape in payload["shapes"] if start <= shape["frame"] <= stop]
    for track in payload["tracks"]:
        sliced = _slice_track(track, start, stop)
        if sliced is not None:
            part["tracks"].append(sliced)
    return part


def _slice_track(track: Payload, start: int, stop: int) -> Payload | None:
    frames = [shape["frame"] for shape in track["shapes"]]
    if min(frames) > stop:
        return None
    inside = [copy.deepcopy(shape) for shape in track["shapes"] if start <= shape["frame"] <= stop]
    if len(inside) < len(frames):
        inside = _with_border_keyframes(track, inside, start, stop)
    inside = _without_leading_outside(inside)
    if not inside:
        return None
    sliced = copy.deepcopy({key: value for key, value in track.items() if key not in ("shapes", "elements")})
    sliced["shapes"] = inside
    sliced["frame"] = min(shape["frame"] for shape in inside)
    elements = (_slice_track(element, start, stop) for element in track["elements"])
    sliced["elements"] = [element for element in elements if element is not None]
    return sliced


def _with_border_keyframes(track: Payload, inside: list[Payload], start: int, stop: int) -> list[Payload]:
    visible = _without_leading_outside(interpolate_track(track, start, stop + 1))
    if not visible:
        return inside
    keyframes = {shape["frame"] for shape in inside}
    edges = {shape["frame"]: shape for shape in (visible[0], visible[-1]) if shape["frame"] not in keyframes}
    for shape in edges.values():
        # A keyframe made here is a new row, whatever id the one it was derived from has.
        shape.pop("id", None)
        shape.pop("keyframe", None)
    return sorted([*inside, *edges.values()], key=lambda shape: int(shape["frame"])) if edges else inside


def _without_leading_outside(shapes: list[Payload]) -> list[Payload]:
    first = next((i for i, shape in enumerate(shapes) if not shape["outside"]), len(shapes))
    # A track that is never visible keeps its last keyframe.
    return shapes[min(first, max(len(shapes) - 1, 0)) :]


# Out


def join_payloads(parts: Sequence[tuple[int, Payload]], overlap: int) -> Payload:
    """Join jobs' annotations.

    Args:
        parts: each job's first frame and annotations, in order
        overlap: frames that neighbouring jobs share
    """
    joined = empty_payload()
    for start, part in parts:
        joined["tags"].extend(part["tags"])
        _join_shapes(joined["shapes"], part["shapes"], start, overlap)
        _join_tracks(joined["tracks"], part["tracks"], start, overlap)
    return joined


def _join_shapes(old: list[Payload], new: list[Payload], start: int, overlap: int) -> None:
    shared = [shape for shape in new if shape["frame"] < start + overlap]
    known = [shape for shape in old if start <= shape["frame"] < start + overlap]
    old.extend(shape for shape in new if shape["frame"] >= start + overlap)
    for frame in sorted({shape["frame"] for shape in shared}):
        ours = [shape for shape in known if shape["frame"] == frame]
        theirs = [shape for shape in shared if shape["frame"] == frame]
        costs = np.array([[1 - shape_similarity(b, a) for a in ours] for b in theirs]).reshape(len(theirs), len(ours))
        matched = {row for row, column in best_pairs(costs) if costs[row, column] <= _SHAPE_COST}
        old.extend(shape for i, shape in enumerate(theirs) if i not in matched)


def _join_tracks(old: list[Payload], new: list[Payload], start: int, overlap: int) -> None:
    end = start + overlap
    fresh = [track for track in new if track["frame"] >= end]
    shared = [track for track in new if track["frame"] < end]
    known = [i for i, track in enumerate(old) if not _ended_before(track, start)]
    costs = np.array([[1 - _track_similarity(b, old[i], start, end) for i in known] for b in shared])
    costs = costs.reshape(len(shared), len(known))
    continued, matched = set(), set()
    for row, column in best_pairs(costs):
        if costs[row, column] <= _TRACK_COST:
            old[known[column]] = _united(shared[row], old[known[column]])
            continued.add(known[column])
            matched.add(row)
    for i in known:
        if i not in continued:
            _close(old[i], end)
    old.extend(track for row, track in enumerate(shared) if row not in matched)
    old.extend(fresh)


def _ended_before(track: Payload, start: int) -> bool:
    last = track["shapes"][-1]
    return bool(last["frame"] < start and last["outside"])


def _track_similarity(one: Payload, other: Payload, start: int, end: int) -> float:
    if one["label_id"] != other["label_id"]:
        return 0.0
    ones = _visible_by_frame(one, start, end)
    others = _visible_by_frame(other, start, end)
    if not ones or not others:
        return 0.0
    scores = []
    for frame in range(start, end):
        a, b = ones.get(frame), others.get(frame)
        if a is not None and b is not None:
            scores.append(shape_similarity(a, b) if a["outside"] == b["outside"] else 0.0)
        elif a is not None or b is not None:
            scores.append(0.0)
    return sum(scores) / len(scores)


def _visible_by_frame(track: Payload, start: int, end: int) -> dict[int, Payload]:
    shapes = interpolate_track(track, start, end)
    # Keyframes that took part in a comparison leave the server marked as such.
    for shape in track["shapes"]:
        shape["keyframe"] = True
    return {shape["frame"]: shape for shape in shapes}


def _united(one: Payload, other: Payload) -> Payload:
    track = one if one["frame"] < other["frame"] else other
    shapes = {shape["frame"]: shape for shape in one["shapes"]}
    shapes.update({shape["frame"]: shape for shape in other["shapes"]})
    track["shapes"] = [shapes[frame] for frame in sorted(shapes)]
    return track


def _close(track: Payload, end: int) -> None:
    last = track["shapes"][-1]
    if not last["outside"]:
        track["shapes"].append({**copy.deepcopy(last), "frame": end, "outside": True})
    for element in track["elements"]:
        _close(element, end)


__all__ = ["join_payloads", "slice_payload"]
