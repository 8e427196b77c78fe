"""Existing labels on their way to CVAT."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.cvat import Annotations
from labelprop_cvat.backend.cvat.annotations import empty
from labelprop_cvat.backend.ledger import LabelRecord
from labelprop_cvat.backend.schema import (
    INDEX_ATTRIBUTE,
    ROTATION_ATTRIBUTE,
    VALUE_ATTRIBUTE,
    FieldSchema,
    is_text_of_cvat,
)
from labelprop_cvat.backend.shapes.geometry import label_outlines
from labelprop_cvat.backend.shapes.nodes import skeleton_elements
from labelprop_cvat.backend.shapes.semantic import class_masks
from labelprop_cvat.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placed:
    """An existing label, or value, on its way to CVAT.

    Args:
        frame: 0-based frame number in the task
        index: of objects from 1, else 0
        label: the label; of a scalar field its value
        schema: what the run annotates in its field
        size: ``(height, width)`` of the frame
        tracked: whether it belongs to a track, as opposed to a label without an index of its own
        keyframe: whether it is sent; otherwise it only says that its object is there
    """

    frame: int
    index: int
    label: Any
    schema: FieldSchema
    size: tuple[int, int]
    tracked: bool = True
    keyframe: bool = True


@dataclass(frozen=True)
class Origin:
    """What one entry of a payload stands for.

    Args:
        label_field: the field of its label
        index: of objects from 1, else 0
        label_ids: frame number -> id of the label there; ``""`` for a value
        part: which of the outlines of its label it is
        by_person: the frame numbers on which a person set or confirmed it before
        machine: the frame numbers on which it is a propagated label that goes along to be reviewed
    """

    label_field: str
    index: int
    label_ids: Mapping[int, str]
    part: int = 0
    by_person: frozenset[int] = frozenset()
    machine: frozenset[int] = frozenset()


@dataclass
class Written:
    """The body of a ``PATCH annotations?action=create`` for one job, and what each entry stands for."""

    body: Annotations = field(default_factory=empty)
    origins: dict[str, list[Origin]] = field(default_factory=lambda: {"tags": [], "shapes": [], "tracks": []})

    def add(self, kind: str, entry: dict[str, Any], origin: Origin) -> None:
        """Adds one entry of ``"tags"``, ``"shapes"`` or ``"tracks"``."""
        self.body[kind].append(entry)
        self.origins[kind].append(origin)


def write_annotations(placed: Sequence[Placed], frames: Sequence[int], labels: Mapping[str, LabelRecord]) -> Written:
    """Makes what CVAT shall hold of the labels of one job.

    Boxes, polygons and lines of one index become a track with a keyframe on every frame where there is a label and one
    ``outside`` keyframe where it ends. Masks become mask shapes, because CVAT's web page can't open mask tracks; points
    become shapes too. Classifications and values become tags.

    Args:
        placed: the labels
        frames: all frame numbers of the job, ascending
        labels: the task's labels by their name in CVAT

    Raises:
        DataError: a label has no place on the image, or holds what CVAT can't
    """
    written = Written()
    tracks: dict[tuple[str, int, str], list[Placed]] = {}
    for item in placed:
        kind = item.schema.kind
        if kind.shape == "tag":
            _add_tag(written, item, labels)
        elif kind.name == "segmentation":
            for name, points in class_masks(item.label, item.schema, item.size):
                entry = {**_common(item, name, labels, mutable=None), **_shape(item, "mask", points)}
                written.add("shapes", entry, Origin(item.schema.label_field, 0, {item.frame: item.label.id}))
        elif kind.is_tracked and item.tracked and len(_outlines(item)) == 1:
            tracks.setdefault((item.schema.label_field, item.index, item.label.label), []).append(item)
        elif item.keyframe:
            for part, points in enumerate(_outlines(item)):
                entry = {**_common(item, item.label.label, labels, mutable=None), **_shape(item, kind.shape, points)}
                if kind.shape == "skeleton":
                    nodes = labels[item.schema.name_of(item.label.label)].nodes
                    entry |= {"points": [], "elements": skeleton_elements(entry, list(nodes.values()))}
                origin = Origin(
                    item.schema.label_field, item.index, {item.frame: item.label.id}, part, _by_person([item])
                )
                written.add("shapes", entry, origin)
    for items in tracks.values():
        sent = [item for item in items if item.keyframe]
        if not sent:
            continue
        first = sent[0]
        label_ids = {item.frame: item.label.id for item in sent}
        origin = Origin(first.schema.label_field, first.index, label_ids, by_person=_by_person(sent))
        written.add("tracks", _track(items, frames, labels), origin)
    return written


def _outlines(item: Placed) -> list[list[float]]:
    found = label_outlines(item.label, item.schema.kind.shape, item.size)
    if not found:
        raise DataError(
            f"Label {item.label.id} of field {item.schema.label_field!r} covers nothing that could be sent to CVAT."
        )
    return found


def _by_person(items: Sequence[Placed]) -> frozenset[int]:
    return frozenset(
        item.frame
        for item in items
        if item.label.get_attribute_value("keyframe", None) is True
        or item.label.get_attribute_value("source", None) in ("manual", "reviewed")
    )


def _add_tag(written: Written, item: Placed, labels: Mapping[str, LabelRecord]) -> None:
    schema = item.schema
    if schema.kind.label_class is None:
        text = "true" if item.label is True else "false" if item.label is False else str(item.label)
        name = text if schema.has_classes else schema.plain_name
        record = labels[schema.name_of(name)]
        specs = [] if schema.has_classes else [{"spec_id": record.attributes[VALUE_ATTRIBUTE], "value": text}]
        entry = {"label_id": record.id, "frame": item.frame, "group": 0, "source": "manual", "attributes": specs}
        written.add("tags", entry, Origin(schema.label_field, 0, {item.frame: ""}))
        return
    entry = _common(item, item.label.label, labels, mutable=None)
    written.add("tags", entry, Origin(schema.label_field, 0, {item.frame: item.label.id}))


def _shape(item: Placed, shape_type: str, points: Sequence[float]) -> dict[str, Any]:
    return {
        "type": shape_type,
        "points": list(points),
        "occluded": occluded_of(item.label, item.schema),
        "z_order": 0,
        # CVAT takes angles from 0 to 360.
        "rotation": _rotation(item.label) % 360 if shape_type == "rectangle" else 0.0,
    }


def _track(items: Sequence[Placed], frames: Sequence[int], labels: Mapping[str, LabelRecord]) -> dict[str, Any]:
    by_frame = {item.frame: item for item in items}
    shapes: list[dict[str, Any]] = []
    last: Placed | None = None
    for frame in frames:
        item = by_frame.get(frame)
        shown = item or last
        if shown is None or (item is not None and not item.keyframe):
            # A track shows itself between its keyframes.
            last = item if shapes else None
            continue
        shapes.append(
            {
                **_shape(shown, shown.schema.kind.shape, _outlines(shown)[0]),
                "frame": frame,
                "outside": item is None,
                "attributes": list(_attributes(shown, shown.label.label, labels, mutable=True)),
            }
        )
        last = item
    first = next(item for item in items if item.keyframe)
    return {**_common(first, first.label.label, labels, mutable=False), "shapes": shapes}


def _common(item: Placed, name: str, labels: Mapping[str, LabelRecord], mutable: bool | None) -> dict[str, Any]:
    record = labels[item.schema.name_of(name)]
    own = []
    if item.schema.kind.has_index and INDEX_ATTRIBUTE in record.attributes:
        own = [{"spec_id": record.attributes[INDEX_ATTRIBUTE], "value": str(item.index)}]
    return {
        "label_id": record.id,
        "frame": item.frame,
        "group": group_of(item.label, item.schema),
        "source": "manual",
        "attributes": [*own, *_attributes(item, name, labels, mutable)],
    }


def _attributes(
    item: Placed, name: str, labels: Mapping[str, LabelRecord], mutable: bool | None
) -> Iterator[dict[str, Any]]:
    if item.schema.label_type == "segmentation":
        return
    record = labels[item.schema.name_of(name)]
    label = item.label
    for attribute in item.schema.attributes_of(name):
        if mutable is not None and attribute.mutable is not mutable:
            continue
        value = label[attribute.name] if label.has_field(attribute.name) else attribute.default
        text = attribute.encode(value) if value is not None else None
        if text is not None and not attribute.holds(text):
            logger.warning(
                "%.80r is nothing that the %s %r of the %s %s can be in CVAT, which shows %r instead; the "
                "label keeps it, unless somebody sets another there.",
                value,
                attribute.type,
                attribute.name,
                name,
                label.id,
                attribute.spec().default_value,
            )
            text = None
        if text is None and mutable:
            # CVAT would carry the value of the keyframe before on to this one.
            text = attribute.spec().default_value
        if text is not None and attribute.name in record.attributes:
            yield {"spec_id": record.attributes[attribute.name], "value": text}


def occluded_of(label: fo.Label, schema: FieldSchema) -> bool:
    """What CVAT's "occluded" is for a label."""
    if not schema.occluded_attr or not label.has_field(schema.occluded_attr):
        return False
    return bool(label[schema.occluded_attr])


def group_of(label: fo.Label, schema: FieldSchema) -> int:
    """What CVAT's group is for a label; 0 for none.

    Raises:
        DataError: the attribute that holds it is no number
    """
    # CVAT has no groups below 1.
    if not schema.group_id_attr or not label.has_field(schema.group_id_attr):
        return 0
    return max(0, int(_number(label, schema.group_id_attr, label[schema.group_id_attr])))


def _number(label: fo.Label, name: str, value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        raise DataError(
            f"The attribute {name!r} of the label {label.id} ({label.label}) is {value!r}; CVAT holds a number there. "
            f"Correct it, or name another attribute."
        ) from None


def _rotation(label: fo.Label) -> float:
    return _number(label, ROTATION_ATTRIBUTE, label.get_attribute_value(ROTATION_ATTRIBUTE, None))


def is_of_type(label: Any, schema: FieldSchema) -> bool:
    """Whether a label is of the kind that the run annotates; a mask in a file is a mask."""
    if isinstance(label, fo.Detection):
        return label.has_mask is (schema.kind.shape == "mask")
    if isinstance(label, fo.Polyline):
        return bool(label.filled) is (schema.kind.shape == "polygon")
    return True


def is_of_class(label: Any, schema: FieldSchema) -> bool:
    """Whether the run has the class of a label, or the value of a scalar, where the field has classes at all."""
    if schema.kind.name == "segmentation" or not schema.has_classes:
        return True
    return class_of(label, schema) in schema.classes


def class_of(label: Any, schema: FieldSchema) -> str | None:
    """The class of a label; of a scalar, its value as text."""
    name: str | None = label.label if schema.kind.label_class is not None else str(label)
    return name


def is_sendable(label: Any, schema: FieldSchema, size: tuple[int, int]) -> bool:
    """Whether a label can go to CVAT; one that covers nothing of the image can't, nor can a text beyond its limit.

    One of a class that the run does not have can't either, see :func:`is_of_class`.

    Raises:
        DataError: an attribute holds what CVAT can't
    """
    kind = schema.kind
    if kind.name == "segmentation":
        return bool(label.has_mask)
    if not is_of_class(label, schema):
        return False
    if kind.label_class is None:
        return is_text_of_cvat(str(label))
    group_of(label, schema)
    if kind.shape == "tag":
        return True
    _rotation(label)
    skeleton = schema.skeletons.get(label.label)
    if skeleton is not None and len(label.points or ()) > len(skeleton.nodes):
        return False
    return bool(label_outlines(label, kind.shape, size))


__all__ = [
    "Origin",
    "Placed",
    "Written",
    "class_of",
    "group_of",
    "is_of_class",
    "is_of_type",
    "is_sendable",
    "occluded_of",
    "write_annotations",
]
