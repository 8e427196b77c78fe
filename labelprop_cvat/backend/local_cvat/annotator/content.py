"""Comparing and assembling what CVAT holds: skeletons' nodes, and whether a drawing changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelprop_cvat.backend.cvat import Label, points_to_mask
from labelprop_cvat.propagation.metrics import box_iou, jaccard
from labelprop_cvat.propagation.types import ObjectMask, rasterize

from .truth import Point, ShapeKind


def node_content(node: Point | None) -> dict[str, Any]:
    """A skeleton's node as an element; one that does not show is kept at the origin until somebody moves it."""
    return {"points": [0.0, 0.0] if node is None else list(node), "outside": node is None, "occluded": False}


def edited_elements(there: Sequence[Mapping[str, Any]], drawn: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A skeleton's elements after an edit: they keep what was not drawn anew, and hidden ones their place."""
    old = {element["label_id"]: element for element in there}
    edited = []
    for element in drawn:
        before = old.get(element["label_id"], {})
        kept = {"points": before["points"]} if element["outside"] and before else {}
        edited.append({**before, **element, **kept, "attributes": before.get("attributes", [])})
    return edited


def element_tracks(
    label: Label, keyframes: Sequence[dict[str, Any]], there: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The tracks of a skeleton's nodes; takes ``nodes`` out of the keyframes."""
    old = {element["label_id"]: element for element in (there or {}).get("elements") or ()}
    nodes = [(keyframe, keyframe.pop("nodes")) for keyframe in keyframes]
    tracks = []
    for place, sub in enumerate(label.sublabels):
        before = old.get(sub.id, {})
        known = {shape["frame"]: shape for shape in before.get("shapes") or ()}
        shapes = []
        for keyframe, points in nodes:
            shape = {"type": "points", "frame": keyframe["frame"], "attributes": [], **node_content(points[place])}
            shape["outside"] = shape["outside"] or keyframe["outside"]
            shapes.append({**known.get(keyframe["frame"], {}), **shape})
        fresh = {"frame": shapes[0]["frame"], "label_id": sub.id, "group": 0, "source": "manual", "attributes": []}
        tracks.append({**fresh, **before, "shapes": shapes})
    return tracks


def nodes_by_frame(label: Label, there: Mapping[str, Any] | None) -> dict[int, list[Point | None]]:
    """Where the nodes of a skeleton track stand on its elements' keyframes."""
    elements = {element["label_id"]: element for element in (there or {}).get("elements") or ()}
    frames: dict[int, list[Point | None]] = {}
    for place, sub in enumerate(label.sublabels):
        for shape in elements.get(sub.id, {}).get("shapes") or ():
            nodes = frames.setdefault(int(shape["frame"]), [None] * len(label.sublabels))
            if not shape["outside"]:
                nodes[place] = (float(shape["points"][0]), float(shape["points"][1]))
    return frames


def edited_source(source: str) -> str:
    """What CVAT's web UI makes of a source when somebody edits the geometry."""
    return "semi-auto" if source in ("auto", "semi-auto") else "manual"


def overlap(kind: ShapeKind, first: Sequence[float], second: Sequence[float], size: tuple[int, int]) -> float | None:
    """The IoU of two shapes of a kind that covers something; None for other kinds.

    Args:
        kind: of both
        first: CVAT's points of the one
        second: those of the other
        size: ``(height, width)`` of the frame, pixels
    """
    if kind == "rectangle":
        (ax, ay, bx, by), (cx, cy, dx, dy) = first, second
        return box_iou((ax, ay, bx, by), (cx, cy, dx, dy))
    if kind == "mask":
        return jaccard(ObjectMask.from_crop(*points_to_mask(first)), ObjectMask.from_crop(*points_to_mask(second)))
    if kind == "polygon":
        return jaccard(_filled(first, size), _filled(second, size))
    return None


def _filled(points: Sequence[float], size: tuple[int, int]) -> ObjectMask | None:
    return rasterize((tuple(zip(points[::2], points[1::2], strict=True)),), size)


def same_content(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    values = {a["spec_id"]: a["value"] for a in there["attributes"]}
    return (
        wanted["label_id"] == there["label_id"]
        and np.array_equal(wanted["points"], there["points"])
        and wanted.get("occluded", there["occluded"]) == there["occluded"]
        and _same_elements(wanted.get("elements") or (), there.get("elements") or ())
        and all(values.get(a["spec_id"]) == a["value"] for a in wanted["attributes"])
    )


def _same_elements(wanted: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> bool:
    def form(element: Mapping[str, Any]) -> tuple[int, bool, tuple[float, ...]]:
        outside = bool(element["outside"])
        return element["label_id"], outside, () if outside else tuple(round(float(p), 3) for p in element["points"])

    return sorted(map(form, wanted)) == sorted(map(form, there))


def same_track(track: Mapping[str, Any], attributes: Sequence[dict[str, Any]], there: Mapping[str, Any]) -> bool:
    def form(shape: Mapping[str, Any]) -> tuple[int, bool, bool, tuple[float, ...]]:
        points = tuple(round(float(p), 3) for p in shape["points"])
        return int(shape["frame"]), bool(shape["outside"]), bool(shape["occluded"]), points

    def nodes(item: Mapping[str, Any]) -> list[tuple[int, list[tuple[int, bool, bool, tuple[float, ...]]]]]:
        return sorted((e["label_id"], sorted(map(form, e["shapes"]))) for e in item.get("elements") or ())

    values = {a["spec_id"]: a["value"] for a in there["attributes"]}
    return (
        track["label_id"] == there["label_id"]
        and sorted(map(form, track["shapes"])) == sorted(map(form, there["shapes"]))
        and nodes(track) == nodes(there)
        and all(values.get(a["spec_id"]) == a["value"] for a in attributes)
    )


__all__ = [
    "edited_elements",
    "edited_source",
    "element_tracks",
    "node_content",
    "nodes_by_frame",
    "overlap",
    "same_content",
    "same_track",
]
