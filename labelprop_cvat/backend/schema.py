"""FiftyOne label schemas and the CVAT labels that stand for them.

A run annotates one label field. Every class becomes a CVAT label that carries the attributes of its schema and one
more, the immutable number :data:`INDEX_ATTRIBUTE`, which ties the shapes of one object together. It counts from 1;
0 means that nobody gave one yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.cvat import AttributeSpec, LabelSpec
from labelprop_cvat.errors import ConfigurationError

INDEX_ATTRIBUTE = "index"

#: Label attribute that holds a rectangle's rotation, degrees clockwise, where it has one.
ROTATION_ATTRIBUTE = "rotation"

#: CVAT's shape type for each supported label type of FiftyOne.
SHAPE_TYPES: Mapping[str, str] = {"detections": "rectangle", "instances": "mask"}

#: Attribute types of a label schema that CVAT knows as attributes.
ATTRIBUTE_TYPES = ("text", "select", "radio", "checkbox", "number")

#: Attribute types that CVAT has as properties of a shape.
PROPERTY_TYPES = ("occluded", "group_id")

# Minimum, maximum and step of a number that the schema does not limit.
_ANY_NUMBER = ("-1000000000", "1000000000", "1")

# Provenance and bookkeeping of this package and of FiftyOne: they describe a label and are nobody's to annotate.
RESERVED_ATTRIBUTES = frozenset(
    {"confidence", "exemplar_frames", "id", "index", "instance", "keyframe", "mask_path", "source", "tags"}
)


@dataclass(frozen=True)
class Attribute:
    """One attribute of a class.

    Args:
        name: its name in FiftyOne and in CVAT
        type: one of :data:`ATTRIBUTE_TYPES`
        values: the choices of a select or radio, in FiftyOne's own types
        default: the value of a new object, or None
        mutable: whether it may differ from frame to frame of one object
        read_only: whether changes made in CVAT are ignored
    """

    name: str
    type: str
    values: tuple[Any, ...] = ()
    default: Any = None
    mutable: bool = True
    read_only: bool = False

    def spec(self) -> AttributeSpec:
        """The attribute as CVAT wants it."""
        if self.type == "checkbox":
            values: tuple[str, ...] = ("true", "false")
        elif self.type == "number":
            values = tuple(str(value) for value in self.values) or _ANY_NUMBER
        else:
            values = tuple(self.encode(value) for value in self.values)
        return AttributeSpec(
            name=self.name,
            input_type=self.type,
            mutable=self.mutable,
            values=values,
            default_value=self.encode(self.default) if self.default is not None else self._empty(values),
        )

    def _empty(self, values: Sequence[str]) -> str:
        if self.type == "checkbox":
            return "false"
        if self.type == "number":
            return "0" if not self.values else values[0]
        return values[0] if self.type in ("select", "radio") and values else ""

    def encode(self, value: Any) -> str:
        """The text that stands for ``value`` in CVAT; ``""`` for None."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def decode(self, text: str, coerce_text: bool = False) -> Any:
        """The value that ``text`` stands for; None for ``""``.

        Text stays text, so ``"007"`` stays ``"007"``, unless ``coerce_text`` asks for numbers and booleans.
        """
        if text == "":
            return None
        if self.type == "checkbox":
            return text.lower() == "true"
        if self.type == "number":
            return _number(text)
        if self.type in ("select", "radio"):
            for value in self.values:
                if self.encode(value) == text:
                    return value
        if coerce_text:
            return {"true": True, "false": False}.get(text.lower(), _number(text))
        return text


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_FIELD_TYPES: Mapping[type, type] = {
    bool: fo.BooleanField,
    float: fo.FloatField,
    int: fo.IntField,
    str: fo.StringField,
}


def _field_types(attribute: Attribute, coerce_text: bool) -> set[type | None] | None:
    if attribute.type == "number":
        return {fo.FloatField}
    if attribute.type == "text":
        return {None} if coerce_text else None
    if attribute.type in ("select", "radio"):
        return {_FIELD_TYPES.get(type(value)) for value in attribute.values if value is not None}
    return None


@dataclass(frozen=True)
class FieldSchema:
    """What one run annotates: a label field, its classes and their attributes.

    Args:
        label_field: the field, with its ``frames.`` prefix on videos
        label_type: FiftyOne's label type, a key of :data:`SHAPE_TYPES`
        classes: class name -> its attributes, in order
        occluded_attr: label attribute that holds CVAT's "occluded", or None
        group_id_attr: label attribute that holds CVAT's group, or None
        coerce_text: whether text attributes become numbers and booleans where they look like it
    """

    label_field: str
    label_type: str
    classes: Mapping[str, tuple[Attribute, ...]]
    occluded_attr: str | None = None
    group_id_attr: str | None = None
    coerce_text: bool = False
    restrictions: Mapping[str, bool] = field(default_factory=dict)

    @property
    def shape_type(self) -> str:
        """CVAT's type of the shapes: ``"rectangle"`` or ``"mask"``."""
        return SHAPE_TYPES[self.label_type]

    @property
    def properties(self) -> tuple[str, ...]:
        """Label attributes that hold what CVAT has as properties of a shape."""
        named = (self.occluded_attr, self.group_id_attr, ROTATION_ATTRIBUTE)
        return tuple(name for name in named if name)

    def attributes_of(self, label: str) -> tuple[Attribute, ...]:
        """The attributes of a class; none for a class that the schema does not know."""
        return self.classes.get(label, ())

    def field_types(self) -> dict[str, type | None]:
        """FiftyOne's field class of attributes whose values alone would not tell it; None where they have several."""
        found: dict[str, set[type | None]] = {}
        for attributes in self.classes.values():
            for attribute in attributes:
                if (kinds := _field_types(attribute, self.coerce_text)) is not None:
                    found.setdefault(attribute.name, set()).update(kinds)
        return {name: next(iter(kinds)) if len(kinds) == 1 else None for name, kinds in found.items()}

    def labels(self) -> list[LabelSpec]:
        """The CVAT labels of the run."""
        index = AttributeSpec(
            name=INDEX_ATTRIBUTE,
            input_type="number",
            mutable=False,
            values=("0", "1000000", "1"),
            default_value="0",
        )
        return [
            LabelSpec(name=name, attributes=(index, *(attribute.spec() for attribute in attributes)))
            for name, attributes in self.classes.items()
        ]


def field_schema(
    label_schema: Mapping[str, Mapping[str, Any]] | None,
    *,
    occluded_attr: str | None = None,
    group_id_attr: str | None = None,
    coerce_text: bool = False,
) -> FieldSchema:
    """Reads the label schema that FiftyOne built for a run.

    Args:
        label_schema: FiftyOne's ``{label_field: {"type", "classes", "attributes", ...}}``
        occluded_attr: label attribute for CVAT's "occluded"; overrides one of type ``"occluded"`` in the schema
        group_id_attr: label attribute for CVAT's group; overrides one of type ``"group_id"`` in the schema
        coerce_text: see :class:`FieldSchema`

    Raises:
        ConfigurationError: no field, several fields, no classes, a class twice, or an attribute that CVAT can't hold
    """
    if not label_schema or None in label_schema:
        raise ConfigurationError(
            "backend='labelprop' needs to know what to annotate; got no label field. "
            'Pass label_field="...", label_type="instances" or "detections", and classes=[...].'
        )
    if len(label_schema) != 1:
        raise ConfigurationError(
            f"A labelprop run annotates one label field, got {len(label_schema)}: {', '.join(label_schema)}. "
            "Start one run for each."
        )
    ((label_field, info),) = label_schema.items()
    shared, properties = _attributes(info.get("attributes") or {}, label_field)
    classes: dict[str, tuple[Attribute, ...]] = {}
    for entry in info.get("classes") or ():
        names, own = _class_entry(entry)
        extra, more_properties = _attributes(own, label_field)
        properties = {**properties, **more_properties}
        merged = {attribute.name: attribute for attribute in (*shared, *extra)}
        for name in names:
            if name != name.strip() or not name:
                raise ConfigurationError(
                    f"The class {name!r} of field {label_field!r} is empty or has spaces around it, which CVAT "
                    "takes away. Take them away."
                )
            if name in classes:
                raise ConfigurationError(f"Class {name!r} is listed twice for field {label_field!r}; list it once.")
            classes[name] = tuple(merged.values())
    if not classes:
        raise ConfigurationError(
            f"Field {label_field!r} has no classes to annotate. Pass classes=[...] with at least one name."
        )
    return FieldSchema(
        label_field=label_field,
        label_type=info["type"],
        classes=classes,
        occluded_attr=occluded_attr or properties.get("occluded"),
        group_id_attr=group_id_attr or properties.get("group_id"),
        coerce_text=coerce_text,
        restrictions={name: bool(value) for name, value in info.items() if name.startswith("allow_")},
    )


def _class_entry(entry: Any) -> tuple[list[str], Mapping[str, Any]]:
    if isinstance(entry, Mapping):
        names = entry["classes"]
        return ([names] if isinstance(names, str) else list(names)), entry.get("attributes") or {}
    return [str(entry)], {}


def _attributes(
    specification: Mapping[str, Mapping[str, Any]], label_field: str
) -> tuple[list[Attribute], dict[str, str]]:
    attributes: list[Attribute] = []
    properties: dict[str, str] = {}
    for name, info in specification.items():
        kind = info.get("type", "text")
        if kind in PROPERTY_TYPES:
            properties[kind] = name
            continue
        if name in RESERVED_ATTRIBUTES:
            continue
        if kind not in ATTRIBUTE_TYPES:
            raise ConfigurationError(
                f"Attribute {name!r} of field {label_field!r} has type {kind!r}; CVAT knows "
                f"{', '.join((*ATTRIBUTE_TYPES, *PROPERTY_TYPES))}."
            )
        values = tuple(info.get("values") or ())
        if kind == "number" and len(values) not in (0, 3):
            raise ConfigurationError(
                f"Attribute {name!r} of field {label_field!r} is a number; its values are minimum, maximum "
                f"and step, got {list(values)}."
            )
        if kind in ("select", "radio") and not values:
            raise ConfigurationError(
                f"Attribute {name!r} of field {label_field!r} is a {kind} and needs a list of values."
            )
        attributes.append(
            Attribute(
                name=name,
                type=kind,
                values=values,
                default=info.get("default"),
                mutable=bool(info.get("mutable", True)),
                read_only=bool(info.get("read_only", False)),
            )
        )
    return attributes, properties


__all__ = [
    "ATTRIBUTE_TYPES",
    "INDEX_ATTRIBUTE",
    "PROPERTY_TYPES",
    "RESERVED_ATTRIBUTES",
    "ROTATION_ATTRIBUTE",
    "SHAPE_TYPES",
    "Attribute",
    "FieldSchema",
    "field_schema",
]
