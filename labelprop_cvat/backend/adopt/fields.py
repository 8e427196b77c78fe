"""Which label fields the labels of adopted tasks go to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.cvat import Label
from labelprop_cvat.backend.schema import FRAMES_PREFIX, LABEL_KINDS, inherited_schema
from labelprop_cvat.errors import ConfigurationError

# The text attribute that FiftyOne's own CVAT backend gives to every label; no one is meant to annotate it.
STOCK_ID_ATTRIBUTE = "label_id"

# FiftyOne's label type for what is drawn, by CVAT's type; the earlier ones first where several would take a shape.
_TYPES = (
    ("polygon", "polygons"),
    ("polyline", "polylines"),
    ("points", "keypoints"),
    ("skeleton", "keypoints"),
    ("tag", "classifications"),
    ("rectangle", "detections"),
    ("mask", "instances"),
)


def check_asked(
    label_field: str | None, label_type: str | None, label_schema: Mapping[str, Mapping[str, Any]] | None
) -> None:
    """Checks what was asked for, as far as that can be told without the tasks.

    Raises:
        ConfigurationError: a field and a schema were given, a type without a field, or a type that does not exist
    """
    if label_field is not None and label_schema is not None:
        raise ConfigurationError("Pass label_field or label_schema, got both.")
    if label_type is not None and label_field is None:
        raise ConfigurationError(f"label_type={label_type!r} needs the label_field that it is of.")
    for name, info in (label_schema or {str(label_field): {"type": label_type}}).items():
        if info.get("type") is not None:
            _check_type(name, info["type"])


def _check_type(name: str, kind: str) -> None:
    if kind not in LABEL_KINDS:
        raise ConfigurationError(
            f"The label type of {name!r} is one of {', '.join(sorted(LABEL_KINDS))}, got {kind!r}."
        )


def adopted_schema(
    dataset: fo.Dataset,
    labels: Sequence[Label],
    kinds: Counter[str],
    *,
    of_frames: bool,
    label_field: str | None = None,
    label_type: str | None = None,
    label_schema: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The label schema of a run that adopts tasks: classes and attributes are those of the tasks' labels.

    Args:
        dataset: where the labels go
        labels: the labels of all tasks
        kinds: how many shapes there are of each type
        of_frames: whether they are labels of video frames
        label_field: the one field, with or without its ``frames.`` prefix
        label_type: its type; by default what fits the field, or what was drawn most
        label_schema: several fields, each with its ``"type"``, and with ``"classes"`` where only some labels go to it
        (neither): one field for each kind of shape that was drawn, named by the label type

    Raises:
        ConfigurationError: as :func:`check_asked`, or nothing tells what to make of the tasks
    """
    check_asked(label_field, label_type, label_schema)
    if label_schema is None and label_field is not None:
        label_schema = {label_field: {} if label_type is None else {"type": label_type}}
    if label_schema is None:
        label_schema = {kind: {"type": kind} for kind in _types_of(kinds)}
    if not label_schema:
        raise ConfigurationError(
            "Nothing is drawn in the tasks yet, so nothing tells which fields the labels go to. Pass label_field and "
            "label_type."
        )
    described: dict[str, Any] = {}
    for name, info in label_schema.items():
        field = FRAMES_PREFIX + name if of_frames and not name.startswith(FRAMES_PREFIX) else name
        if not of_frames and name.startswith(FRAMES_PREFIX):
            raise ConfigurationError(
                f"{name!r} is a field of video frames, and the tasks hold images. Use "
                f"{name.removeprefix(FRAMES_PREFIX)!r}; where they are pictures of the frames of videos, pass "
                f"media_field='frames.<field with their paths>' too."
            )
        kind = info.get("type") or _type_of_field(dataset, field, kinds)
        _check_type(name, kind)
        described[field] = {**info, "type": kind, "existing_field": dataset.get_field(field) is not None}
    schema = inherited_schema(described, [_without_stock_ids(label) for label in labels])
    for field, info in schema.items():
        if chosen := _names_of(described[field].get("classes") or ()):
            info["classes"] = [entry for entry in info["classes"] if chosen.issuperset(entry["classes"])]
        if info["type"] == "segmentation":
            info["mask_targets"] = _mask_targets(dataset, field, info)
    return schema


def _names_of(classes: Iterable[Any]) -> set[str]:
    entries = [entry["classes"] if isinstance(entry, Mapping) else [entry] for entry in classes]
    return {str(name) for names in entries for name in ([names] if isinstance(names, str) else names)}


def _types_of(kinds: Counter[str]) -> list[str]:
    """Label types that take everything that was drawn, each shape by one of them."""
    types = list(dict.fromkeys(kind for shape, kind in _TYPES if kinds[shape]))
    if "polygons" in types and "polylines" in types:
        # CVAT's polygons and polylines live in one field of FiftyOne, closed or not.
        types.remove("polylines")
    if "detections" in types and "instances" in types:
        types.remove("instances")
    return types


def _type_of_field(dataset: fo.Dataset, field: str, kinds: Counter[str]) -> str:
    holds = getattr(dataset.get_field(field), "document_type", None)
    fitting = [kind for kind in LABEL_KINDS.values() if holds is None or _held_by(kind.single, kind.label_class, holds)]
    names = {kind.name for kind in fitting}
    drawn = [(kinds[shape], kind) for shape, kind in _TYPES for kind in (kind, kind[:-1]) if kind in names]
    count, best = max(drawn, key=lambda entry: entry[0], default=(0, ""))
    if not count and holds is None:
        raise ConfigurationError(f"Nothing is drawn in the tasks that tells the type of {field!r}. Pass label_type.")
    return best or (fitting[0].name if fitting else "")


def _held_by(single: bool, label_class: type[fo.Label] | None, holds: type) -> bool:
    if single or label_class is None:
        return label_class is holds
    return getattr(holds, "_LABEL_LIST_FIELD", None) is not None and holds.__name__ == f"{label_class.__name__}s"


def _without_stock_ids(label: Label) -> Label:
    attributes = tuple(a for a in label.attributes if a.name != STOCK_ID_ATTRIBUTE)
    return Label(label.id, label.name, label.type, label.color, attributes, label.sublabels)


def _mask_targets(dataset: fo.Dataset, field: str, info: Mapping[str, Any]) -> dict[int, str]:
    known = info.get("mask_targets") or dataset.mask_targets.get(field) or dataset.default_mask_targets
    if known:
        return dict(known)
    names = [name for entry in info["classes"] for name in entry["classes"]]
    return dict(enumerate(names, start=1))


__all__ = ["STOCK_ID_ATTRIBUTE", "adopted_schema", "check_asked"]
