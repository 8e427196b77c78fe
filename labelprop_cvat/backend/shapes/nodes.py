"""CVAT's skeletons, whose points are shapes and tracks of their own, as plain rows of points and back."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

NOWHERE = (math.nan, math.nan)


def skeleton_elements(shape: Mapping[str, Any], nodes: Sequence[int]) -> list[dict[str, Any]]:
    """The elements of a skeleton.

    Args:
        shape: ``points`` are those of its nodes in order, NaN for one that is not there; it may lack the last ones
        nodes: the label ids of the nodes
    """
    points = [*zip(shape["points"][0::2], shape["points"][1::2], strict=True)]
    points += [NOWHERE] * (len(nodes) - len(points))
    there = [point for point in points if all(map(math.isfinite, point))]
    # A person who makes a hidden point visible finds it amid the others.
    middle = [sum(values) / len(there) for values in zip(*there, strict=True)]
    return [
        {
            "type": "points",
            "frame": shape["frame"],
            "label_id": node,
            "points": list(point) if point in there else middle,
            "outside": point not in there,
            "occluded": shape["occluded"],
            "z_order": shape["z_order"],
            "rotation": 0.0,
            "group": 0,
            "source": shape["source"],
            "attributes": [],
        }
        for node, point in zip(nodes, points, strict=True)
    ]


def flat_skeleton(entry: Mapping[str, Any], nodes: Sequence[int]) -> Mapping[str, Any]:
    """A skeleton, or a track of one, with the points of its nodes as its own; anything else as it is.

    Args:
        entry: a tag, shape or track of CVAT
        nodes: the label ids of the nodes in order; without any, the order of their numbers counts

    Returns:
        ``points`` of two numbers for each node, NaN where it is not there. A track has a keyframe wherever the skeleton
        or one of its nodes has one
    """
    elements = entry.get("elements") or ()
    if not elements:
        return entry
    by_label = {int(element["label_id"]): element for element in elements}
    ordered = [by_label.get(node) for node in (nodes or sorted(by_label))]
    if "shapes" in entry:
        return {**entry, "shapes": _track_shapes(entry["shapes"], ordered)}
    return _joined(entry, ordered)


def _joined(shape: Mapping[str, Any], elements: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    shown = [element for element in elements if element is not None and not element.get("outside")]
    points = [
        float(value)
        for element in elements
        for value in (element["points"][:2] if element is not None and not element.get("outside") else NOWHERE)
    ]
    return {
        **shape,
        "type": "skeleton",
        "points": points,
        "outside": bool(shape.get("outside")) or not shown,
        # CVAT's web page gives its points the flag, and takes a skeleton for occluded where all of them are.
        "occluded": bool(shape.get("occluded")) or (bool(shown) and all(e.get("occluded") for e in shown)),
    }


def _track_shapes(
    own: Sequence[Mapping[str, Any]], elements: Sequence[Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    keyframes = {int(shape["frame"]): shape for shape in own}
    tracks = [sorted((e or {}).get("shapes") or (), key=lambda shape: int(shape["frame"])) for e in elements]
    frames = sorted({*keyframes, *(int(shape["frame"]) for track in tracks for shape in track)})
    shapes: list[dict[str, Any]] = []
    attributes: Sequence[Mapping[str, Any]] = ()
    for frame in frames:
        shape = keyframes.get(frame, {"frame": frame, "attributes": attributes})
        attributes = shape.get("attributes") or ()
        shapes.append(_joined(shape, [_at(track, frame) for track in tracks]))
    return shapes


def _at(track: Sequence[Mapping[str, Any]], frame: int) -> Mapping[str, Any] | None:
    """A node on a frame; between two keyframes it moves in a straight line, as CVAT shows it."""
    place = bisect_right([int(shape["frame"]) for shape in track], frame)
    if place == 0:
        return None
    before = track[place - 1]
    if int(before["frame"]) == frame or place == len(track) or before.get("outside"):
        return before
    after = track[place]
    share = (frame - int(before["frame"])) / (int(after["frame"]) - int(before["frame"]))
    pairs = zip(before["points"], after["points"], strict=True)
    return {**before, "points": [one + share * (other - one) for one, other in pairs]}


__all__ = ["NOWHERE", "flat_skeleton", "skeleton_elements"]
