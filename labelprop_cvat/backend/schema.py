"""FiftyOne label schemas and the CVAT labels that stand for them.

Every class of every field becomes a CVAT label that carries the attributes of its schema. Objects carry one more, the
immutable number :data:`INDEX_ATTRIBUTE`, which ties the shapes of one object together. It counts from 1; 0 means that
nobody gave one yet. CVAT knows no fields: a class that several fields have goes by ``<class>_<field>`` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.cvat import AttributeSpec, Label, LabelSpec
from labelprop_cvat.backend.skeletons import SKELETON, Skeleton
from labelprop_cvat.errors import ConfigurationError

INDEX_ATTRIBUTE = "index"

#: Label attribute that holds a rectangle's rotation, degrees clockwise, where it has one.
ROTATION_ATTRIBUTE = "rotation"

#: The attribute of a CVAT label that holds the value of a scalar field without classes.
VALUE_ATTRIBUTE = "value"

#: Attribute types of a label schema that CVAT knows as attributes.
ATTRIBUTE_TYPES = ("text", "select", "radio", "checkbox", "number")

#: Attribute types that CVAT has as properties of a shape.
PROPERTY_TYPES = ("occluded", "group_id")

#: Key of an attribute's description that says that its values are nothing that CVAT could hold.
NOT_SCALAR = "not_scalar"

FRAMES_PREFIX = "frames."

#: The largest number that an object may have in CVAT.
LARGEST_INDEX = 1_000_000

# Minimum, maximum and step of a number that the schema does not limit: what a float holds exactly.
_ANY_NUMBER = ("-1000000000000000", "1000000000000000", "1")

_LONGEST_NAME = 64
_LONGEST_VALUE = 4096

# Provenance and bookkeeping of this package and of FiftyOne: they describe a label and are nobody's to annotate.
RESERVED_ATTRIBUTES = frozenset(
    {
        "confidence",
        "exemplar_frames",
        "id",
        "index",
        "instance",
        "keyframe",
        "mask_path",
        "pass_agreement",
        "source",
        "tags",
    }
)


# What a label is by itself. An attribute of such a name would overwrite it.
_OWN_OF_LABELS = frozenset({"attributes", "bounding_box", "label", "mask", "points"})


@dataclass(frozen=True)
class LabelKind:
    """How one label type of FiftyOne lives in CVAT.

    Args:
        name: FiftyOne's name of the type
        returns: FiftyOne's name of the type that a backend gives back for it
        label_class: the class of one label; None for scalars
        shape: CVAT's type of the shapes that are sent: ``"rectangle"``, ``"mask"``, ``"polygon"``, ``"polyline"``,
            ``"points"``, ``"skeleton"`` or ``"tag"``
        accepts: types of shapes that people may draw for it
        single: whether a frame holds one label at most, not a list
        is_tracked: whether labels of one object travel as a CVAT track
        is_propagated: whether other frames can be filled from its labels
    """

    name: str
    returns: str
    label_class: type[fo.Label] | None
    shape: str
    accepts: frozenset[str]
    single: bool
    is_tracked: bool = False
    is_propagated: bool = False

    @property
    def has_index(self) -> bool:
        """Whether labels are objects that go through the sequence under one index."""
        return self.shape != "tag" and self.name != "segmentation"

    @property
    def list_field(self) -> str | None:
        """The attribute that holds the list of labels; None where there is a single one, or a plain value."""
        return None if self.single else self.returns

    def path(self, label_field: str) -> str:
        """The path of the labels of a field."""
        return label_field if self.single else f"{label_field}.{self.list_field}"


def _kinds() -> Iterator[LabelKind]:
    rows: tuple[tuple[str, str, type[fo.Label], str, tuple[str, ...], bool, bool], ...] = (
        ("classification", "classifications", fo.Classification, "tag", (), False, False),
        ("detection", "detections", fo.Detection, "rectangle", ("mask",), True, True),
        # Annotators outline a mask with the polygon tool too.
        ("instance", "detections", fo.Detection, "mask", ("polygon", "rectangle"), False, True),
        ("polyline", "polylines", fo.Polyline, "polyline", ("polygon",), True, False),
        ("polygon", "polylines", fo.Polyline, "polygon", ("polyline",), True, True),
        ("keypoint", "keypoints", fo.Keypoint, "points", ("skeleton",), False, False),
    )
    for name, returns, label_class, shape, others, is_tracked, is_propagated in rows:
        for single in (True, False):
            yield LabelKind(
                name if single else f"{name}s",
                returns,
                label_class,
                shape,
                frozenset({shape, *others}),
                single,
                is_tracked,
                is_propagated,
            )
    yield LabelKind(
        "segmentation", "segmentation", fo.Segmentation, "mask", frozenset({"mask", "polygon", "rectangle"}), True
    )
    yield LabelKind("scalar", "scalar", None, "tag", frozenset({"tag"}), True)


#: What can be annotated, by FiftyOne's name of the label type.
LABEL_KINDS: Mapping[str, LabelKind] = {kind.name: kind for kind in _kinds()}

# Points with names and edges are CVAT's skeletons.
_SKELETON_KINDS: Mapping[str, LabelKind] = {
    name: replace(LABEL_KINDS[name], shape="skeleton") for name in ("keypoint", "keypoints")
}


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
        text = str(value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.type == "checkbox":
            return {"1": "true", "0": "false", "1.0": "true", "0.0": "false"}.get(text, text.lower())
        return text

    def holds(self, text: str) -> bool:
        """Whether CVAT lets people choose or type what ``text`` says, and takes it."""
        if not is_text_of_cvat(text):
            return False
        spec = self.spec()
        if text == spec.default_value:
            return True
        if self.type == "number":
            number = _number(text)
            low, high = (float(limit) for limit in spec.values[:2])
            return isinstance(number, int | float) and low <= number <= high
        return self.type == "text" or text in spec.values

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


def is_text_of_cvat(text: str) -> bool:
    """Whether CVAT takes a text as a value: it has a limit, and no NUL characters."""
    return len(text) <= _LONGEST_VALUE and "\x00" not in text


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
    """What a run annotates in one label field: its classes and their attributes.

    Args:
        label_field: the field, with its ``frames.`` prefix on videos
        label_type: FiftyOne's label type, a key of :data:`LABEL_KINDS`
        classes: class name -> its attributes, in order
        names: class name -> the name of its CVAT label
        occluded_attr: label attribute that holds CVAT's "occluded", or None
        group_id_attr: label attribute that holds CVAT's group, or None
        coerce_text: whether text attributes become numbers and booleans where they look like it
        mask_targets: of segmentations, pixel value or ``"#rrggbb"`` -> class name
        only_keyframes: whether only labels whose ``keyframe`` is True go along, because some are marked so
        read_only: label attributes that changes in CVAT do not reach, of those that it has as properties of a shape
        skeletons: of keypoints whose points have names, class name -> what joins them; otherwise nothing
        declared: attributes whose type the dataset declares, where it was asked with :meth:`declared_in`
    """

    label_field: str
    label_type: str
    classes: Mapping[str, tuple[Attribute, ...]]
    names: Mapping[str, str] = field(default_factory=dict)
    occluded_attr: str | None = None
    group_id_attr: str | None = None
    coerce_text: bool = False
    restrictions: Mapping[str, bool] = field(default_factory=dict)
    mask_targets: Mapping[int | str, str] = field(default_factory=dict)
    only_keyframes: bool = False
    read_only: frozenset[str] = frozenset()
    skeletons: Mapping[str, Skeleton] = field(default_factory=dict)
    declared: Mapping[str, fo.Field] = field(default_factory=dict)

    def declared_in(self, dataset: fo.Dataset) -> FieldSchema:
        """The same, knowing which types a dataset declares for the attributes."""
        path = self.kind.path(self.label_field)
        names = {attribute.name for attributes in self.classes.values() for attribute in attributes}
        found = {name: dataset.get_field(f"{path}.{name}") for name in sorted(names)}
        return replace(self, declared={name: declared for name, declared in found.items() if declared is not None})

    @property
    def kind(self) -> LabelKind:
        """How labels of the field live in CVAT."""
        return (_SKELETON_KINDS if self.skeletons else LABEL_KINDS)[self.label_type]

    @property
    def shape_type(self) -> str:
        """CVAT's type of the shapes."""
        return self.kind.shape

    @property
    def properties(self) -> tuple[str, ...]:
        """Label attributes that hold what CVAT has as properties of a shape."""
        named = (self.occluded_attr, self.group_id_attr, ROTATION_ATTRIBUTE)
        return tuple(name for name in named if name)

    @property
    def has_classes(self) -> bool:
        """Whether its CVAT labels are classes; otherwise the one label holds a value."""
        return not (self.label_type == "scalar" and set(self.classes) == {self.plain_name})

    @property
    def plain_name(self) -> str:
        """The field's name without the prefix of frame fields."""
        return self.label_field.removeprefix(FRAMES_PREFIX)

    def is_per_sample(self, media_type: str) -> bool:
        """Whether the field holds one value for a whole video."""
        return media_type == "video" and not self.label_field.startswith(FRAMES_PREFIX)

    def attributes_of(self, label: str) -> tuple[Attribute, ...]:
        """The attributes of a class; none for a class that the schema does not know."""
        return self.classes.get(label, ())

    def name_of(self, label: str) -> str:
        """The name of the CVAT label of a class."""
        return self.names.get(label, label)

    def allows(self, change: str) -> bool:
        """Whether ``"additions"``, ``"deletions"``, ``"label_edits"``, ``"index_edits"`` or ``"spatial_edits"`` are."""
        return self.restrictions.get(f"allow_{change}", True)

    def field_types(self) -> dict[str, type | None]:
        """FiftyOne's field class of attributes whose values alone would not tell it; None where they have several."""
        found: dict[str, set[type | None]] = {}
        for attributes in self.classes.values():
            for attribute in attributes:
                if (kinds := _field_types(attribute, self.coerce_text)) is not None:
                    found.setdefault(attribute.name, set()).update(kinds)
        return {name: next(iter(kinds)) if len(kinds) == 1 else None for name, kinds in found.items()}

    def labels(self) -> list[LabelSpec]:
        """The CVAT labels of the field."""
        index = AttributeSpec(
            name=INDEX_ATTRIBUTE,
            input_type="number",
            mutable=False,
            values=("0", str(LARGEST_INDEX), "1"),
            default_value="0",
        )
        own = (index,) if self.kind.has_index else ()
        specs = {
            name: LabelSpec(name=self.name_of(name), attributes=(*own, *(attribute.spec() for attribute in attributes)))
            for name, attributes in self.classes.items()
        }
        joined = {name: skeleton.joined_to(specs[name]) for name, skeleton in self.skeletons.items()}
        return [*{**specs, **joined}.values()]


@dataclass(frozen=True)
class RunSchema:
    """What one run annotates, in the order of the label schema."""

    fields: tuple[FieldSchema, ...]

    def __iter__(self) -> Iterator[FieldSchema]:
        return iter(self.fields)

    def __getitem__(self, label_field: str) -> FieldSchema:
        return next(entry for entry in self.fields if entry.label_field == label_field)

    @property
    def propagated(self) -> tuple[FieldSchema, ...]:
        """The fields whose labels can fill other frames."""
        return tuple(entry for entry in self.fields if entry.kind.is_propagated)

    def labels(self) -> list[LabelSpec]:
        """The CVAT labels of the run, each once."""
        return list({label.name: label for entry in self.fields for label in entry.labels()}.values())

    def owners(self, name: str) -> list[tuple[FieldSchema, str]]:
        """The fields that a CVAT label stands for, each with its name of the class."""
        return [(entry, own) for entry in self.fields for own in entry.classes if entry.name_of(own) == name]


def run_schema(
    label_schema: Mapping[str, Mapping[str, Any]] | None,
    *,
    occluded_attr: str | None = None,
    group_id_attr: str | None = None,
    coerce_text: bool = False,
) -> RunSchema:
    """Reads the label schema that FiftyOne built for a run.

    Args:
        label_schema: FiftyOne's ``{label_field: {"type", "classes", "attributes", ...}}``
        occluded_attr: label attribute for CVAT's "occluded" in every field that names none itself
        group_id_attr: label attribute for CVAT's group in every field that names none itself
        coerce_text: see :class:`FieldSchema`

    Raises:
        ConfigurationError: no field, no classes, a class twice, or an attribute that CVAT can't hold
    """
    if not label_schema or None in label_schema:
        raise ConfigurationError(
            "backend='labelprop' needs to know what to annotate; got no label field. "
            'Pass label_field="...", label_type="instances" or "detections", and classes=[...].'
        )
    fields = [
        _field_schema(name, info, occluded_attr, group_id_attr, coerce_text) for name, info in label_schema.items()
    ]
    inherited = any(info.get(INHERITED) for info in label_schema.values())
    return RunSchema(tuple(fields if inherited else _with_names(fields)))


#: Key of a field's description that says that its classes are the labels of a CVAT project, under their names there.
INHERITED = "inherited"

#: Key of a field's description that holds pairs of a class and the name of its CVAT label, where they differ.
NAMES = "names"


def _with_names(fields: Sequence[FieldSchema]) -> list[FieldSchema]:
    """A class that several fields have needs a CVAT label in each of them."""
    held = Counter(name for entry in fields for name in entry.classes)
    called = Counter(entry.plain_name for entry in fields)
    named = []
    for entry in fields:
        suffix = entry.plain_name if called[entry.plain_name] == 1 else entry.label_field
        names = {name: f"{name}_{suffix}" if held[name] > 1 else name for name in entry.classes}
        for name, shown in names.items():
            if len(shown) > _LONGEST_NAME:
                raise ConfigurationError(
                    f"The class {name!r} of field {entry.label_field!r} is called {shown!r} in CVAT, which takes "
                    f"names of at most {_LONGEST_NAME} characters. Give it a shorter name."
                )
        named.append(replace(entry, names=names))
    counts = Counter(name for entry in named for name in entry.names.values())
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"Two classes of different fields would both be called {twice!r} in CVAT. Rename one of them."
        )
    return named


def _field_schema(
    label_field: str,
    info: Mapping[str, Any],
    occluded_attr: str | None,
    group_id_attr: str | None,
    coerce_text: bool,
) -> FieldSchema:
    label_type = str(info["type"])
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
    if not classes and label_type == "scalar":
        classes = {label_field.removeprefix(FRAMES_PREFIX): (Attribute(VALUE_ATTRIBUTE, "text"),)}
    if not classes:
        raise ConfigurationError(
            f"Field {label_field!r} has no classes to annotate. Pass classes=[...] with at least one name."
        )
    is_spatial = LABEL_KINDS[label_type].shape != "tag"
    described = [info.get("attributes") or {}, *(_class_entry(entry)[1] for entry in info.get("classes") or ())]
    fixed = {name for attributes in described for name, entry in attributes.items() if entry.get("read_only")}
    return FieldSchema(
        label_field=label_field,
        label_type=label_type,
        classes=classes,
        occluded_attr=(properties.get("occluded") or occluded_attr) if is_spatial else None,
        group_id_attr=properties.get("group_id") or group_id_attr,
        coerce_text=coerce_text,
        names=dict(info.get(NAMES) or ()),
        restrictions={name: bool(value) for name, value in info.items() if name.startswith("allow_")},
        mask_targets=dict(info.get("mask_targets") or {}),
        only_keyframes=bool(info.get("only_keyframes", False)),
        read_only=frozenset(fixed & {*properties.values()}),
        skeletons=_skeletons(info, classes),
    )


def plain_schema(label_schema: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """A label schema in the one form that FiftyOne can read when it merges what people did.

    Args:
        label_schema: as it was given; class names may be numbers, a group of classes may be a single name or lack
            attributes

    Raises:
        ConfigurationError: a class is no name
    """
    if not label_schema or None in label_schema:
        return label_schema if label_schema is None else dict(label_schema)
    plain: dict[str, Any] = {}
    for label_field, info in label_schema.items():
        classes = info.get("classes")
        if isinstance(classes, str | Mapping):
            classes = [classes]
        plain[label_field] = {**info, "classes": [_plain_class(entry, label_field) for entry in classes or ()]}
        plain[label_field]["attributes"] = {
            name: {**(described or {})} for name, described in (info.get("attributes") or {}).items()
        }
    return plain


def _plain_class(entry: Any, label_field: str) -> Any:
    if isinstance(entry, Mapping):
        names = entry.get("classes")
        names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else names
        return {
            **entry,
            "classes": [_class_name(name, label_field) for name in names],
            "attributes": dict(entry.get("attributes") or {}),
        }
    return _class_name(entry, label_field)


def _class_name(name: Any, label_field: str) -> str:
    if isinstance(name, bool) or not isinstance(name, str | Integral):
        raise ConfigurationError(
            f"The classes of field {label_field!r} are names, got {name!r} among them. Give texts, or dicts with "
            '"classes" and "attributes".'
        )
    return str(name)


def _skeletons(info: Mapping[str, Any], classes: Iterable[str]) -> dict[str, Skeleton]:
    """The skeletons of a field's classes: their own, or else that of the field."""
    described = dict.fromkeys(classes, info.get(SKELETON))
    for entry in info.get("classes") or ():
        if isinstance(entry, Mapping) and entry.get(SKELETON):
            described.update(dict.fromkeys(_class_entry(entry)[0], entry[SKELETON]))
    return {name: Skeleton.from_dict(values) for name, values in described.items() if values}


def _class_entry(entry: Any) -> tuple[list[str], Mapping[str, Any]]:
    if isinstance(entry, Mapping):
        names = entry["classes"]
        return ([names] if isinstance(names, str) else [str(name) for name in names]), entry.get("attributes") or {}
    return [str(entry)], {}


def _attributes(
    specification: Mapping[str, Mapping[str, Any]], label_field: str
) -> tuple[list[Attribute], dict[str, str]]:
    attributes: list[Attribute] = []
    properties: dict[str, str] = {}
    for name, info in specification.items():
        kind = info.get("type", "text")
        if kind in PROPERTY_TYPES:
            if kind in properties:
                raise ConfigurationError(
                    f"The attributes {properties[kind]!r} and {name!r} of field {label_field!r} both have type "
                    f"{kind!r}; CVAT has one of it. Give one of them another type."
                )
            properties[kind] = name
            continue
        if name in RESERVED_ATTRIBUTES or info.get(NOT_SCALAR):
            continue
        if name in _OWN_OF_LABELS:
            raise ConfigurationError(
                f"Attribute {name!r} of field {label_field!r} would overwrite what every label has under that name. "
                "Give it another name."
            )
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


def inherited_schema(label_schema: Mapping[str, Mapping[str, Any]], labels: Iterable[Label]) -> dict[str, Any]:
    """The label schema of a run whose tasks take the labels of a CVAT project.

    Args:
        label_schema: FiftyOne's; of each field only its type, restrictions and mask targets count
        labels: the project's labels
    """
    project = list(labels)
    fields = list(label_schema)
    inherited: dict[str, Any] = {}
    for name, info in label_schema.items():
        kind = LABEL_KINDS[str(info["type"])]
        plain = name.removeprefix(FRAMES_PREFIX)
        skeletons = _project_skeletons(info, project) if kind.shape == "points" else {}
        info = {key: value for key, value in info.items() if key != SKELETON}
        fitting = [
            label
            for label in project
            if (label.name in skeletons if skeletons else label.type in ("any", "", *kind.accepts))
        ]
        if len(fields) > 1:
            # A class that several fields have carries the name of its field in CVAT.
            others = tuple(f"_{other.removeprefix(FRAMES_PREFIX)}" for other in fields if other != name)
            fitting = [
                label for label in fitting if label.name.endswith(f"_{plain}") or not label.name.endswith(others)
            ]
        if kind.name == "scalar" and [label.name for label in fitting if label.name == plain]:
            inherited[name] = {**info, "classes": [], "attributes": {}, INHERITED: True}
            continue
        own = _own_names([label.name for label in fitting], plain, _names_in(info.get("classes")), len(fields) > 1)
        classes: list[dict[str, Any]] = [
            {"classes": [own[label.name]], "attributes": _as_described(label)} for label in fitting if label.name in own
        ]
        for entry, label in zip(classes, (label for label in fitting if label.name in own), strict=True):
            if label.name in skeletons:
                entry[SKELETON] = skeletons[label.name]
        inherited[name] = {**info, "classes": classes, "attributes": {}, INHERITED: True}
        inherited[name][NAMES] = [[mine, shown] for shown, mine in own.items() if mine != shown]
    return inherited


def _own_names(labels: Sequence[str], field: str, known: Container[str], is_one_of_several: bool) -> dict[str, str]:
    """The field's own names of a project's labels, which may carry the field's name as ``<class>_<field>`` there.

    Args:
        labels: names of labels in CVAT
        field: the field
        known: classes that the field is known to have; they tell what is meant
        is_one_of_several: whether the run has other fields, so that labels are expected to carry their field's name
    """
    suffix = f"_{field}"
    own = {}
    for label in labels:
        short = label.removesuffix(suffix)
        is_short = short != label and short and label not in known and (is_one_of_several or short in known)
        own[label] = short if is_short else label
    # Where the project has both, the one that carries the field's name is the field's.
    taken = {mine for label, mine in own.items() if mine != label}
    return {label: mine for label, mine in own.items() if mine != label or mine not in taken}


def _names_in(classes: Iterable[Any] | None) -> set[str]:
    return {name for entry in classes or () for name in _class_entry(entry)[0]}


def _project_skeletons(info: Mapping[str, Any], project: Iterable[Label]) -> dict[str, dict[str, Any]]:
    """The skeletons among a project's labels, points in the order that the dataset gives them, if it does."""
    own = Skeleton.from_dict(info[SKELETON]) if info.get(SKELETON) else None
    found = {}
    for label in project:
        if label.type == "skeleton":
            is_own = own is not None and own.is_of(label)
            found[label.name] = own if is_own and own else Skeleton(tuple(sub.name for sub in label.sublabels))
    return {name: skeleton.to_dict() for name, skeleton in found.items()}


def _as_described(label: Label) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for attribute in label.attributes:
        if attribute.name == INDEX_ATTRIBUTE:
            continue
        entry: dict[str, Any] = {"type": attribute.input_type, "mutable": attribute.mutable}
        if attribute.input_type in ("select", "radio", "number"):
            entry["values"] = list(attribute.values)
        if attribute.default_value:
            entry["default"] = attribute.default_value
        described[attribute.name] = entry
    return described


__all__ = [
    "ATTRIBUTE_TYPES",
    "FRAMES_PREFIX",
    "INDEX_ATTRIBUTE",
    "LABEL_KINDS",
    "LARGEST_INDEX",
    "NOT_SCALAR",
    "PROPERTY_TYPES",
    "RESERVED_ATTRIBUTES",
    "ROTATION_ATTRIBUTE",
    "VALUE_ATTRIBUTE",
    "Attribute",
    "FieldSchema",
    "LabelKind",
    "RunSchema",
    "inherited_schema",
    "is_text_of_cvat",
    "run_schema",
]
