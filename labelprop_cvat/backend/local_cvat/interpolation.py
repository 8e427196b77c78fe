"""A track's shapes between its keyframes, as CVAT's server computes them; the rule itself is the package's one.

The nodes of skeletons move as single points. Masks cannot be interpolated: the real server fails on them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from labelprop_cvat.backend.interpolation import LINEAR, OutlineWay, angle_between, points_between

from .payload import Payload
from .replies import ServerFaultError


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
    outline = OutlineWay(left["points"], right["points"]) if left["type"] == "polygon" else None
    for frame in range(left["frame"] + 1, right["frame"]):
        offset = (frame - left["frame"]) / length
        shape = {**copy.deepcopy(left), "frame": frame, "keyframe": False}
        if outline is not None:
            shape["points"] = outline.at(offset).ravel().tolist()
        else:
            shape["points"] = points_between(left["points"], right["points"], left["type"], offset)
        if left["type"] in LINEAR:
            shape["rotation"] = angle_between(left["rotation"], right["rotation"], offset)
        yield shape


__all__ = ["interpolate_track"]
