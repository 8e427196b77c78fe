"""FiftyOne's labels and CVAT's shapes and tracks: from one to the other and back, losing nothing.

CVAT's points are pixels with the origin at the top-left corner of the image; a rectangle is ``[x1, y1, x2, y2]`` with
right and bottom exclusive. FiftyOne's ``bounding_box`` is ``[x, y, width, height]`` relative to the image. Sizes are
``(height, width)``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np

from labelprop_cvat.backend.cvat.rle import mask_to_points, points_to_mask
from labelprop_cvat.backend.ledger import LabelRecord
from labelprop_cvat.backend.schema import INDEX_ATTRIBUTE, ROTATION_ATTRIBUTE, FieldSchema
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import box_to_detection, detection_to_box, detection_to_mask, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask, rasterize

logger = logging.getLogger(__name__)

# Which shapes a person may use for each label type; CVAT lets annotators outline a mask with the polygon tool too.
_ACCEPTED: Mapping[str, frozenset[str]] = {
    "rectangle": frozenset({"rectangle"}),
    "mask": frozenset({"mask", "polygon"}),
}


@dataclass(frozen=True)
class DrawnKeyframe:
    """One shape in CVAT, alone or as a keyframe of a track.

    Args:
        frame: 0-based frame number in the task
        shape_type: ``"rectangle"``, ``"polygon"`` or ``"mask"``
        points: CVAT's points
        attributes: values by attribute name, as text
    """

    frame: int
    shape_type: str
    points: tuple[float, ...]
    outside: bool = False
    occluded: bool = False
    rotation: float = 0.0
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnObject:
    """One shape or one track in CVAT.

    Args:
        key: ``"shape:<server id>"`` or ``"track:<server id>"``
        server_id: the id that CVAT gave it
        label: class name
        index: value of the index attribute; 0 when it has none
        group: CVAT's group, 0 for none
        attributes: values of the attributes that hold for the whole object, as text
        keyframes: ascending by frame, one per frame
    """

    key: str
    server_id: int
    label: str
    index: int
    group: int
    attributes: Mapping[str, str]
    keyframes: tuple[DrawnKeyframe, ...]

    @property
    def is_track(self) -> bool:
        """Whether CVAT shows it between its keyframes too."""
        return self.key.startswith("track:")


def read_annotations(
    payload: Mapping[str, Any], labels: Mapping[str, LabelRecord], schema: FieldSchema
) -> tuple[list[DrawnObject], dict[str, int]]:
    """Reads what CVAT answered to ``GET annotations``.

    Args:
        payload: ``{"tags", "shapes", "tracks"}``
        labels: the task's labels by name
        schema: what the run annotates

    Returns:
        the objects of the run's label type, and how many of each other kind there were (they are left alone)
    """
    names = {record.id: name for name, record in labels.items()}
    attribute_names = {spec: attribute for record in labels.values() for attribute, spec in record.attributes.items()}
    accepted = _ACCEPTED[schema.shape_type]
    objects: list[DrawnObject] = []
    others: dict[str, int] = {}
    for kind, entries in (("shape", payload.get("shapes", ())), ("track", payload.get("tracks", ()))):
        for entry in entries:
            shapes = entry["shapes"] if kind == "track" else [entry]
            foreign = next((shape["type"] for shape in shapes if shape["type"] not in accepted), None)
            if foreign is None and entry["label_id"] not in names:
                foreign = "unknown label"
            if foreign is not None or not shapes:
                others[foreign or "empty track"] = others.get(foreign or "empty track", 0) + 1
                continue
            own = _named(entry.get("attributes", ()), attribute_names)
            # Two keyframes on one frame are possible in CVAT; the last one is what its editor shows.
            keyframes = {
                shape["frame"]: _read_shape(shape, attribute_names, own if kind == "shape" else {}) for shape in shapes
            }
            objects.append(
                DrawnObject(
                    key=f"{kind}:{entry['id']}",
                    server_id=int(entry["id"]),
                    label=names[entry["label_id"]],
                    index=_index(own.get(INDEX_ATTRIBUTE, "")),
                    group=int(entry.get("group") or 0),
                    attributes=own,
                    keyframes=tuple(keyframes[frame] for frame in sorted(keyframes)),
                )
            )
    if payload.get("tags"):
        others["tag"] = len(payload["tags"])
    return objects, others


def _named(attributes: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, str]:
    return {names[a["spec_id"]]: str(a["value"]) for a in attributes if a["spec_id"] in names}


def _index(text: str) -> int:
    try:
        return max(0, int(float(text)))
    except ValueError:
        return 0


def _read_shape(shape: Mapping[str, Any], names: Mapping[int, str], own: Mapping[str, str]) -> DrawnKeyframe:
    attributes = own or _named(shape.get("attributes", ()), names)
    return DrawnKeyframe(
        frame=int(shape["frame"]),
        shape_type=shape["type"],
        points=tuple(float(value) for value in shape["points"]),
        outside=bool(shape.get("outside", False)),
        occluded=bool(shape.get("occluded", False)),
        rotation=float(shape.get("rotation") or 0.0),
        attributes={name: value for name, value in attributes.items() if name != INDEX_ATTRIBUTE},
    )


def fingerprint(drawn: DrawnObject, keyframe: DrawnKeyframe) -> str:
    """Names the content of one object on one frame; it changes exactly when a person changed something there."""
    content = [
        drawn.label,
        drawn.index,
        drawn.group,
        sorted((k, v) for k, v in drawn.attributes.items() if k != INDEX_ATTRIBUTE),
        keyframe.shape_type,
        [round(value, 3) for value in keyframe.points],
        keyframe.outside,
        keyframe.occluded,
        round(keyframe.rotation, 3),
        sorted(keyframe.attributes.items()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def digest(objects: Sequence[DrawnObject]) -> str:
    """Names the content of a whole job; it changes exactly when a person changed something there."""
    content = sorted((o.key, k.frame, fingerprint(o, k)) for o in objects for k in o.keyframes)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def attribute_texts(drawn: DrawnObject, keyframe: DrawnKeyframe) -> dict[str, str]:
    """The attribute values of an object on one frame, as CVAT holds them."""
    values = {**drawn.attributes, **keyframe.attributes}
    return {name: text for name, text in values.items() if name != INDEX_ATTRIBUTE}


def drawn_mask(keyframe: DrawnKeyframe, size: tuple[int, int]) -> ObjectMask | None:
    """The pixels of a mask or polygon; None when nothing of it lies on the image."""
    if keyframe.shape_type == "mask":
        x, y, crop = points_to_mask(keyframe.points)
        found = ObjectMask.from_crop(x, y, crop)
        if found is None:
            return None
        height, width = size
        inside = found.box[2] <= width and found.box[3] <= height
        return found if inside else ObjectMask.from_full(found.to_full(size))
    ring = tuple(zip(keyframe.points[0::2], keyframe.points[1::2], strict=True))
    return rasterize((ring,), size)


def update_label(
    label: fo.Detection | None,
    drawn: DrawnObject,
    keyframe: DrawnKeyframe,
    schema: FieldSchema,
    size: tuple[int, int],
    seen: Mapping[str, str] | None = None,
) -> fo.Detection | None:
    """Brings a label to the state that CVAT shows, keeping everything CVAT knows nothing of.

    Args:
        label: the label as it is in FiftyOne; None for a new object
        drawn: the object
        keyframe: its state on the label's frame
        schema: what the run annotates
        size: ``(height, width)`` of the frame
        seen: the attribute values that CVAT held when it was last looked at; only what differs from them is taken over

    Returns:
        a label with geometry, class and attributes set (a copy with the same id where one was given), or None when
        the shape covers nothing of the image
    """
    updated = label.copy() if label is not None else fo.Detection()
    if label is not None:
        updated.id = label.id
    if not _set_geometry(updated, keyframe, schema, size):
        return None
    # Giving a track another class resets its attributes in CVAT, which nobody asked for.
    was_reset = label is not None and drawn.is_track and label.label != drawn.label
    updated.label = drawn.label
    values = attribute_texts(drawn, keyframe)
    for attribute in schema.attributes_of(drawn.label):
        text = values.get(attribute.name)
        if text is None or (label is not None and (attribute.read_only or (seen or {}).get(attribute.name) == text)):
            continue
        held = label[attribute.name] if label is not None and label.has_field(attribute.name) else None
        if was_reset and held is not None and text == attribute.spec().default_value:
            continue
        # What CVAT shows as text may be a number in FiftyOne; untouched, it keeps its type.
        if held is None or attribute.encode(held) != text:
            updated[attribute.name] = _like(held, attribute.decode(text, schema.coerce_text))
    if schema.occluded_attr and (label is None or _occluded(label, schema) is not keyframe.occluded):
        updated[schema.occluded_attr] = keyframe.occluded
    if schema.group_id_attr and (label is None or _group(label, schema) != drawn.group):
        updated[schema.group_id_attr] = drawn.group or None
    return updated


def _like(held: Any, value: Any) -> Any:
    """A text in the type of the number that it takes the place of, where it is one."""
    if isinstance(value, str) and isinstance(held, int | float) and not isinstance(held, bool):
        try:
            return type(held)(value)
        except ValueError:
            return value
    return value


def _set_geometry(label: fo.Detection, keyframe: DrawnKeyframe, schema: FieldSchema, size: tuple[int, int]) -> bool:
    if schema.shape_type == "rectangle":
        x1, y1, x2, y2 = keyframe.points
        label.bounding_box = box_to_detection((x1, y1, x2, y2), size)
        label.mask = None
        if keyframe.rotation or label.has_field(ROTATION_ATTRIBUTE):
            label[ROTATION_ATTRIBUTE] = keyframe.rotation
        return x2 > x1 and y2 > y1
    mask = drawn_mask(keyframe, size)
    placed = None if mask is None else mask_to_detection(mask, size)
    if placed is None:
        return False
    label.bounding_box, crop = placed
    label.mask = np.array(crop)
    label.mask_path = None
    return True


def is_of_type(label: fo.Detection, schema: FieldSchema) -> bool:
    """Whether a label is of the kind that the run annotates; a mask in a file is a mask."""
    return label.has_mask is (schema.shape_type == "mask")


def is_sendable(label: fo.Detection, schema: FieldSchema, size: tuple[int, int]) -> bool:
    """Whether a label can go to CVAT; one that covers nothing of the image can't.

    Raises:
        DataError: it is of a class that the run does not have, or an attribute holds what CVAT can't
    """
    if label.label not in schema.classes:
        raise DataError(
            f"Field {schema.label_field!r} holds a {label.label!r}, which is not among the run's classes "
            f"({', '.join(schema.classes)}). Add it to classes=[...], or leave it out of the view with filter_labels."
        )
    _group(label, schema)
    _rotation(label)
    if schema.shape_type == "mask":
        return detection_to_mask(label, size) is not None
    width, height = label.bounding_box[2:]
    return bool(width > 0 and height > 0)


@dataclass(frozen=True)
class Placed:
    """An existing label on its way to CVAT: where it stands and the index it goes by.

    Args:
        frame: 0-based frame number in the task
        index: from 1
        label: the label; it holds a mask where the run annotates instances
        tracked: whether it belongs to a track, as opposed to a label without an index of its own
    """

    frame: int
    index: int
    label: fo.Detection
    tracked: bool = True


def write_annotations(
    placed: Sequence[Placed],
    frames: Sequence[int],
    labels: Mapping[str, LabelRecord],
    schema: FieldSchema,
    size: tuple[int, int],
) -> dict[str, Any]:
    """Makes the body of a ``PATCH annotations?action=create`` for one job.

    Boxes of one index become a rectangle track with a keyframe on every frame where there is a label and one
    ``outside`` keyframe where it ends; masks become mask shapes, because CVAT's web page can't open mask tracks.

    Args:
        placed: the labels
        frames: all frame numbers of the job, ascending
        labels: the task's labels by name
        schema: what the run annotates
        size: ``(height, width)`` of the frames
    """
    if schema.shape_type == "mask":
        return {"tags": [], "shapes": [_mask_shape(p, labels, schema, size) for p in placed], "tracks": []}
    single = [p for p in placed if not p.tracked]
    by_track: dict[tuple[int, str], list[Placed]] = {}
    for item in placed:
        if item.tracked:
            by_track.setdefault((item.index, item.label.label), []).append(item)
    return {
        "tags": [],
        "shapes": [_box_shape(item, labels, schema, size) for item in single],
        "tracks": [_box_track(items, frames, labels, schema, size) for items in by_track.values()],
    }


def _mask_shape(
    item: Placed, labels: Mapping[str, LabelRecord], schema: FieldSchema, size: tuple[int, int]
) -> dict[str, Any]:
    mask = detection_to_mask(item.label, size)
    if mask is None:
        raise DataError(f"Label {item.label.id} of field {schema.label_field!r} has no mask to send to CVAT.")
    return {
        **_common(item, labels, schema, track=False),
        "type": "mask",
        "points": mask_to_points(mask.x, mask.y, mask.crop),
        "occluded": _occluded(item.label, schema),
        "z_order": 0,
        "rotation": 0.0,
    }


def _box_shape(
    item: Placed, labels: Mapping[str, LabelRecord], schema: FieldSchema, size: tuple[int, int]
) -> dict[str, Any]:
    return {
        **_common(item, labels, schema, track=False),
        "type": "rectangle",
        "points": list(detection_to_box(item.label, size)),
        "occluded": _occluded(item.label, schema),
        "z_order": 0,
        "rotation": _rotation(item.label),
    }


def _box_track(
    items: Sequence[Placed],
    frames: Sequence[int],
    labels: Mapping[str, LabelRecord],
    schema: FieldSchema,
    size: tuple[int, int],
) -> dict[str, Any]:
    by_frame = {item.frame: item for item in items}
    shapes: list[dict[str, Any]] = []
    last: Placed | None = None
    for frame in frames:
        item = by_frame.get(frame)
        shown = item or last
        if shown is None:
            continue
        shapes.append(
            {
                "type": "rectangle",
                "frame": frame,
                "points": list(detection_to_box(shown.label, size)),
                "occluded": _occluded(shown.label, schema),
                "outside": item is None,
                "z_order": 0,
                "rotation": _rotation(shown.label),
                "attributes": _attributes(shown.label, labels, schema, mutable=True),
            }
        )
        last = item
    return {**_common(by_frame[min(by_frame)], labels, schema, track=True), "shapes": shapes}


def _common(item: Placed, labels: Mapping[str, LabelRecord], schema: FieldSchema, track: bool) -> dict[str, Any]:
    record = labels[item.label.label]
    return {
        "label_id": record.id,
        "frame": item.frame,
        "group": _group(item.label, schema),
        "source": "manual",
        "attributes": [
            {"spec_id": record.attributes[INDEX_ATTRIBUTE], "value": str(item.index)},
            *_attributes(item.label, labels, schema, mutable=False if track else None),
        ],
    }


def _attributes(
    label: fo.Detection, labels: Mapping[str, LabelRecord], schema: FieldSchema, mutable: bool | None
) -> list[dict[str, Any]]:
    record = labels[label.label]
    written = []
    for attribute in schema.attributes_of(label.label):
        if mutable is not None and attribute.mutable is not mutable:
            continue
        value = label[attribute.name] if label.has_field(attribute.name) else attribute.default
        if value is not None and attribute.name in record.attributes:
            written.append({"spec_id": record.attributes[attribute.name], "value": attribute.encode(value)})
    return written


def _occluded(label: fo.Detection, schema: FieldSchema) -> bool:
    if not schema.occluded_attr or not label.has_field(schema.occluded_attr):
        return False
    return bool(label[schema.occluded_attr])


def _group(label: fo.Detection, schema: FieldSchema) -> int:
    value = label.get_attribute_value(schema.group_id_attr, None) if schema.group_id_attr else None
    return int(_number(label, schema.group_id_attr or "", value))


def _number(label: fo.Detection, name: str, value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        raise DataError(
            f"The attribute {name!r} of the label {label.id} ({label.label}) is {value!r}; CVAT holds a number there. "
            f"Correct it, or name another attribute."
        ) from None


def _rotation(label: fo.Detection) -> float:
    return _number(label, ROTATION_ATTRIBUTE, label.get_attribute_value(ROTATION_ATTRIBUTE, None))


__all__ = [
    "DrawnKeyframe",
    "DrawnObject",
    "Placed",
    "attribute_texts",
    "digest",
    "drawn_mask",
    "fingerprint",
    "is_of_type",
    "is_sendable",
    "read_annotations",
    "update_label",
    "write_annotations",
]
