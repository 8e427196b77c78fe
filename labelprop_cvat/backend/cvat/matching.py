"""Finds out which of the annotations that were sent are on the server.

CVAT has no transaction ids: after a lost answer the only way to know is to read the annotations and compare contents.
What the server adds (ids, defaults, attributes carried forward to later keyframes) is ignored; what was sent must be
there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from labelprop_cvat.backend.cvat.annotations import KINDS, Annotations, empty, objects

Object: TypeAlias = dict[str, Any]
ObjectKey: TypeAlias = tuple[str, int]
"""Kind and server id."""

_DECIMALS = 4


def ids(annotations: Mapping[str, Any]) -> set[ObjectKey]:
    """Kind and id of every object."""
    return {(kind, int(item["id"])) for kind, item in objects(annotations)}


def batches(payload: Mapping[str, Any], limit: int) -> Iterator[Annotations]:
    """Cuts annotations into pieces whose JSON stays below ``limit`` bytes (a single larger object stands alone)."""
    batch, held = empty(), 0
    for kind, item in objects(payload):
        size = len(json.dumps(item)) + 2
        if held and held + size > limit:
            yield batch
            batch, held = empty(), 0
        batch[kind].append(item)
        held += size
    if held:
        yield batch


def halved(batch: Mapping[str, Any]) -> list[Annotations]:
    """Cuts annotations in two pieces of about equal size, in order; an empty list for a single object."""
    items = list(objects(batch))
    if len(items) < 2:
        return []
    sizes = [len(json.dumps(item)) for _, item in items]
    half, held, middle = sum(sizes) / 2, 0, 0
    while middle < len(items) - 1 and (middle == 0 or held + sizes[middle] <= half):
        held += sizes[middle]
        middle += 1
    pieces = []
    for part in (items[:middle], items[middle:]):
        piece = empty()
        for kind, item in part:
            piece[kind].append(item)
        pieces.append(piece)
    return pieces


def find_new(
    sent: Mapping[str, Any], there: Mapping[str, Any], known: set[ObjectKey]
) -> tuple[list[tuple[str, Object, Object | None]], int]:
    """Looks for new objects on the server that equal the ones sent.

    Args:
        sent: what a request tried to create
        there: what the server holds now
        known: objects that were there before the request

    Returns:
        ``(kind, sent object, its equal on the server or None)`` for everything sent, in order; and how many were found
    """
    found: list[tuple[str, Object, Object | None]] = []
    count = 0
    for kind in KINDS:
        candidates: dict[object, list[Object]] = defaultdict(list)
        for item in there.get(kind) or ():
            if (kind, int(item["id"])) not in known:
                candidates[_outline(kind, item)].append(item)
        wanted: list[Object] = list(sent.get(kind) or ())
        matched = _assign(kind, wanted, candidates)
        count += sum(m is not None for m in matched)
        found += [(kind, item, match) for item, match in zip(wanted, matched, strict=True)]
    return found, count


def same(kind: str, sent: Object, there: Object) -> bool:
    """Whether an object on the server has the content of the one sent."""
    return _outline(kind, sent) == _outline(kind, there) and _carries(sent, there)


def _assign(kind: str, wanted: Sequence[Object], candidates: Mapping[object, list[Object]]) -> list[Object | None]:
    """Gives each wanted object a candidate of its own: equal attributes first, then the same outline."""
    matched: list[Object | None] = [None] * len(wanted)
    for strict in (True, False):
        for position, item in enumerate(wanted):
            if matched[position] is not None:
                continue
            pool = candidates.get(_outline(kind, item), [])
            for place, candidate in enumerate(pool):
                if not strict or _carries(item, candidate):
                    matched[position] = pool.pop(place)
                    break
    return matched


def _outline(kind: str, item: Mapping[str, Any]) -> object:
    if kind == "tags":
        return item["label_id"], item["frame"]
    if kind == "shapes":
        return item["label_id"], _shape_outline(item)
    keyframes = tuple(sorted(_shape_outline(s) for s in item["shapes"]))
    return item["label_id"], keyframes


def _shape_outline(shape: Mapping[str, Any]) -> tuple[Any, ...]:
    points = tuple(round(float(p), _DECIMALS) + 0.0 for p in shape.get("points") or ())
    elements = tuple(_shape_outline(e) for e in shape.get("elements") or ())
    flags = bool(shape.get("outside")), bool(shape.get("occluded"))
    return int(shape.get("frame") or 0), str(shape["type"]), *flags, points, elements


def _carries(sent: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether every attribute that was sent is there, on the object and on each of its keyframes."""
    if not _values(sent).items() <= _values(there).items():
        return False
    keyframes = {s.get("frame"): s for s in there.get("shapes") or ()}
    return all(
        _values(shape).items() <= _values(keyframes.get(shape.get("frame"), {})).items()
        for shape in sent.get("shapes") or ()
    )


def _values(item: Mapping[str, Any]) -> dict[int, str]:
    return {int(a["spec_id"]): str(a["value"]) for a in item.get("attributes") or ()}


__all__ = ["ObjectKey", "batches", "find_new", "halved", "ids", "same"]
