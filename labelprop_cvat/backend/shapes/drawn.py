"""What CVAT holds, read once and named by what it means for the run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labelprop_cvat.backend.ledger import LabelRecord
from labelprop_cvat.backend.schema import INDEX_ATTRIBUTE, FieldSchema, RunSchema
from labelprop_cvat.backend.shapes.nodes import flat_skeleton

#: FiftyOne's type of the labels that shapes make in a field that does not expect them.
UNEXPECTED_TYPES: Mapping[str, str] = {
    "rectangle": "detections",
    "mask": "detections",
    "polygon": "polylines",
    "polyline": "polylines",
    "points": "keypoints",
    "skeleton": "keypoints",
    "tag": "classifications",
}


@dataclass(frozen=True)
class DrawnKeyframe:
    """One shape in CVAT, alone or as a keyframe of a track; or one tag.

    Args:
        frame: 0-based frame number in the task
        shape_type: CVAT's type of shape, or ``"tag"``
        points: CVAT's points; none for a tag. A skeleton's are those of its nodes in their order, NaN for one that is
            not there
        outside: whether the object is not there
        occluded: CVAT's own flag
        rotation: degrees clockwise
        z_order: higher ones lie on top
        attributes: values by attribute name, as text
    """

    frame: int
    shape_type: str
    points: tuple[float, ...]
    outside: bool = False
    occluded: bool = False
    rotation: float = 0.0
    z_order: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnObject:
    """One tag, shape or track in CVAT.

    Args:
        key: ``"tag:<server id>"``, ``"shape:<server id>"`` or ``"track:<server id>"``
        server_id: the id that CVAT gave it
        label_field: the field that it belongs to
        label: class name in that field
        index: value of the index attribute; 0 when it has none
        group: CVAT's group, 0 for none
        attributes: values of the attributes that hold for the whole object, as text
        keyframes: ascending by frame, one per frame
    """

    key: str
    server_id: int
    label_field: str
    label: str
    index: int
    group: int
    attributes: Mapping[str, str]
    keyframes: tuple[DrawnKeyframe, ...]

    @property
    def is_track(self) -> bool:
        """Whether CVAT shows it between its keyframes too."""
        return self.key.startswith("track:")


@dataclass
class Drawings:
    """The content of a job.

    Args:
        objects: what belongs to the run's fields
        unexpected: of a kind that the field of its class does not hold, though another field might
        others: how many there were of each kind that no field could hold
    """

    objects: list[DrawnObject] = field(default_factory=list)
    unexpected: list[DrawnObject] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def everything(self) -> list[DrawnObject]:
        """What people may have worked on."""
        return [*self.objects, *self.unexpected]


def read_annotations(payload: Mapping[str, Any], labels: Mapping[str, LabelRecord], schema: RunSchema) -> Drawings:
    """Reads what CVAT answered to ``GET annotations``.

    Args:
        payload: ``{"tags", "shapes", "tracks"}``
        labels: the task's labels by name
        schema: what the run annotates
    """
    names = {record.id: name for name, record in labels.items()}
    attributes = {spec: attribute for record in labels.values() for attribute, spec in record.attributes.items()}
    owners = {name: schema.owners(name) for name in labels}
    nodes = {record.id: tuple(record.nodes.values()) for record in labels.values()}
    found = Drawings()
    for kind, given in _entries(payload):
        entry = flat_skeleton(given, nodes.get(given["label_id"], ()))
        shapes = entry["shapes"] if kind == "track" else [entry]
        if not shapes:
            found.others["empty track"] += 1
            continue
        types = {"tag"} if kind == "tag" else {str(shape["type"]) for shape in shapes}
        possible = owners.get(names.get(entry["label_id"], ""), [])
        owner = next((own for own in possible if types <= own[0].kind.accepts), None)
        if owner is not None:
            found.objects.append(_read_object(kind, entry, shapes, owner, attributes))
        elif possible and len(types) == 1 and types <= UNEXPECTED_TYPES.keys():
            found.unexpected.append(_read_object(kind, entry, shapes, possible[0], attributes))
        else:
            found.others[min(types) if possible else "unknown label"] += 1
    return found


def _entries(payload: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in ("tag", "shape", "track"):
        for entry in payload.get(f"{kind}s", ()):
            yield kind, entry


def _read_object(
    kind: str,
    entry: Mapping[str, Any],
    shapes: Sequence[Mapping[str, Any]],
    owner: tuple[FieldSchema, str],
    names: Mapping[int, str],
) -> DrawnObject:
    own = _named(entry.get("attributes", ()), names)
    # Two keyframes on one frame are possible in CVAT; the last one is what its editor shows.
    keyframes = {
        int(shape["frame"]): _read_shape(shape, names, {} if kind == "track" else own, "tag" if kind == "tag" else None)
        for shape in shapes
    }
    return DrawnObject(
        key=f"{kind}:{entry['id']}",
        server_id=int(entry["id"]),
        label_field=owner[0].label_field,
        label=owner[1],
        index=_index(own.get(INDEX_ATTRIBUTE, "")),
        group=int(entry.get("group") or 0),
        attributes=own,
        keyframes=tuple(keyframes[frame] for frame in sorted(keyframes)),
    )


def _named(attributes: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, str]:
    return {names[a["spec_id"]]: str(a["value"]) for a in attributes if a["spec_id"] in names}


def _index(text: str) -> int:
    try:
        return max(0, int(float(text)))
    except (ValueError, OverflowError):
        return 0


def _read_shape(
    shape: Mapping[str, Any], names: Mapping[int, str], own: Mapping[str, str], shape_type: str | None
) -> DrawnKeyframe:
    attributes = own or _named(shape.get("attributes", ()), names)
    return DrawnKeyframe(
        frame=int(shape["frame"]),
        shape_type=shape_type or str(shape["type"]),
        points=tuple(float(value) for value in shape.get("points") or ()),
        outside=bool(shape.get("outside", False)),
        occluded=bool(shape.get("occluded", False)),
        rotation=float(shape.get("rotation") or 0.0),
        z_order=int(shape.get("z_order") or 0),
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
    if keyframe.z_order:
        content.append(keyframe.z_order)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def shape_name(keyframe: DrawnKeyframe) -> str:
    """Names the geometry of a keyframe: it stays the same when the object goes on under another id or class."""
    content = [
        keyframe.shape_type,
        [round(value, 3) for value in keyframe.points],
        keyframe.occluded,
        round(keyframe.rotation, 3),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def digest(objects: Sequence[DrawnObject]) -> str:
    """Names the content of a whole job; it changes exactly when a person changed something there."""
    content = sorted((o.key, k.frame, fingerprint(o, k)) for o in objects for k in o.keyframes)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


#: Stands among attribute values for CVAT's group; no attribute of CVAT can be called so.
GROUP = "\x00group"


def attribute_texts(drawn: DrawnObject, keyframe: DrawnKeyframe) -> dict[str, str]:
    """The attribute values of an object on one frame, as CVAT holds them, and its :data:`GROUP` where it has one."""
    values = {**drawn.attributes, **keyframe.attributes}
    texts = {name: text for name, text in values.items() if name != INDEX_ATTRIBUTE}
    return {**texts, GROUP: str(drawn.group)} if drawn.group else texts


__all__ = [
    "GROUP",
    "UNEXPECTED_TYPES",
    "Drawings",
    "DrawnKeyframe",
    "DrawnObject",
    "attribute_texts",
    "digest",
    "fingerprint",
    "read_annotations",
    "shape_name",
]
