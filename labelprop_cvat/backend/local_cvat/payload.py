"""Annotation payloads: what CVAT checks in them, and what it silently drops or fills in.

A payload is ``{"version": 0, "tags": [], "shapes": [], "tracks": []}``. CVAT checks little: no frame ranges, no image
bounds, no RLE sums, no match of shape and label types. Neither does this module, on purpose: a client tested here
must not learn to lean on checks that the real server lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .replies import ServerFaultError, invalid
from .storage import Transaction

SHAPE_TYPES = ("rectangle", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")
Payload = dict[str, Any]
_ABSENT = object()
_MAX_VALUE = 4096


def empty_payload() -> Payload:
    return {"version": 0, "tags": [], "shapes": [], "tracks": []}


# Reading


class _Reader:
    """Takes known keys out of one JSON object and gathers what is wrong with it, as CVAT words it."""

    def __init__(self, source: Any) -> None:
        self.errors: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        if not isinstance(source, Mapping):
            self.errors["non_field_errors"] = [f"Invalid data. Expected a dictionary, but got {type(source).__name__}."]
            source = {}
        self._source = source

    def take(
        self,
        name: str,
        convert: Callable[[Any], Any],
        *,
        default: Any = _ABSENT,
        nullable: bool = False,
        optional: bool = False,
    ) -> None:
        value = self._source.get(name, _ABSENT)
        if value is _ABSENT:
            if default is not _ABSENT:
                self.values[name] = default() if callable(default) else default
            elif not optional:
                self.errors[name] = ["This field is required."]
            return
        if value is None:
            if nullable:
                self.values[name] = None
            else:
                self.errors[name] = ["This field may not be null."]
            return
        try:
            self.values[name] = convert(value)
        except _FieldError as error:
            self.errors[name] = error.detail


class _FieldError(Exception):
    def __init__(self, detail: Any) -> None:
        super().__init__(str(detail))
        self.detail = detail


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _FieldError(["A valid integer is required."])
    try:
        number = int(value)
    except (ValueError, OverflowError):
        raise _FieldError(["A valid integer is required."]) from None
    if isinstance(value, float) and number != value:
        raise _FieldError(["A valid integer is required."])
    return number


def _natural(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise _FieldError(["Ensure this value is greater than or equal to 0."])
    return number


def _real(value: Any) -> float | int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _FieldError(["A valid number is required."]) from None


def _rotation(value: Any) -> float | int:
    angle = _real(value)
    if not 0 <= angle <= 360:
        bound = "greater than or equal to 0" if angle < 0 else "less than or equal to 360"
        raise _FieldError([f"Ensure this value is {bound}."])
    return angle


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1) or (isinstance(value, str) and value.lower() in ("true", "false", "1", "0")):
        return str(value).lower() in ("true", "1")
    raise _FieldError(["Must be a valid boolean."])


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _FieldError(["Not a valid string."])
    return str(value)


def _attribute_value(value: Any) -> str:
    text = _text(value)
    if len(text) > _MAX_VALUE:
        raise _FieldError([f"Ensure this field has no more than {_MAX_VALUE} characters."])
    return text


def _shape_type(value: Any) -> str:
    if value not in SHAPE_TYPES:
        raise _FieldError([f'"{value}" is not a valid choice.'])
    return str(value)


def _numbers(value: Any) -> list[float | int]:
    if not isinstance(value, list):
        raise _FieldError([f'Expected a list of items but got type "{type(value).__name__}".'])
    errors: dict[str, Any] = {}
    numbers: list[float | int] = []
    for position, item in enumerate(value):
        try:
            numbers.append(_real(item))
        except _FieldError as error:
            errors[str(position)] = error.detail
    if errors:
        raise _FieldError(errors)
    return numbers


def _list_of(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _FieldError(
                {"non_field_errors": [f'Expected a list of items but got type "{type(value).__name__}".']}
            )
        items: list[Any] = []
        errors: list[Any] = []
        for item in value:
            try:
                items.append(read(item))
                errors.append({})
            except _FieldError as error:
                errors.append(error.detail)
        if any(errors):
            # The real server names only the objects at fault.
            raise _FieldError([error for error in errors if error])
        return items

    return convert


def _attribute(source: Any) -> dict[str, Any]:
    reader = _Reader(source)
    reader.take("spec_id", _integer)
    reader.take("value", _attribute_value)
    return _finish(reader)


def _finish(reader: _Reader) -> dict[str, Any]:
    if reader.errors:
        raise _FieldError(reader.errors)
    return reader.values


def _take_identity(reader: _Reader) -> None:
    reader.take("id", _integer, optional=True, nullable=True)
    reader.take("frame", _natural)
    reader.take("label_id", _natural)
    reader.take("group", _natural, default=None, nullable=True)
    reader.take("source", _text, default="manual")
    reader.take("attributes", _list_of(_attribute), default=list)


def _take_geometry(reader: _Reader) -> None:
    reader.take("type", _shape_type)
    reader.take("occluded", _boolean, default=False)
    reader.take("outside", _boolean, default=False)
    reader.take("z_order", _integer, default=0)
    reader.take("rotation", _rotation, default=0)
    reader.take("points", _numbers, default=list)


def _check_points(values: dict[str, Any]) -> None:
    count = len(values["points"])
    expected = {
        "rectangle": count == 4,
        "ellipse": count == 4,
        "cuboid": count == 16,
        "polygon": count >= 6 and count % 2 == 0,
        "polyline": count >= 4 and count % 2 == 0,
        "points": count >= 2 and count % 2 == 0,
        "mask": count >= 6,
        "skeleton": True,
    }
    if not expected[values["type"]]:
        raise _FieldError({"points": [f"invalid length for shape type '{values['type']}'"]})


def _tag(source: Any) -> dict[str, Any]:
    reader = _Reader(source)
    _take_identity(reader)
    return _drop_null_id(_finish(reader))


def _shape(source: Any) -> dict[str, Any]:
    reader = _Reader(source)
    _take_identity(reader)
    _take_geometry(reader)
    reader.take("elements", _list_of(_shape), default=list)
    values = _finish(reader)
    _check_points(values)
    return _drop_null_id(values)


def _tracked_shape(source: Any) -> dict[str, Any]:
    reader = _Reader(source)
    reader.take("id", _integer, optional=True, nullable=True)
    reader.take("frame", _natural)
    reader.take("attributes", _list_of(_attribute), default=list)
    _take_geometry(reader)
    values = _finish(reader)
    _check_points(values)
    return _drop_null_id(values)


def _track(source: Any) -> dict[str, Any]:
    reader = _Reader(source)
    _take_identity(reader)
    reader.take("shapes", _list_of(_tracked_shape), default=list)
    reader.take("elements", _list_of(_track), default=list)
    return _drop_null_id(_finish(reader))


def _drop_null_id(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("id", 0) is None:
        del values["id"]
    return values


def read_payload(source: Any) -> Payload:
    """A payload with known keys only and every default in place.

    Raises:
        RefusalError: 400 naming the faulty fields
    """
    reader = _Reader(source)
    reader.take("version", _natural, default=0)
    reader.take("tags", _list_of(_tag), default=list)
    reader.take("shapes", _list_of(_shape), default=list)
    reader.take("tracks", _list_of(_track), default=list)
    if reader.errors:
        raise invalid(reader.errors)
    return {**reader.values, "version": 0}


# Labels


@dataclass(frozen=True)
class LabelAttributes:
    """The attributes of one label: default values by spec id, mutable ones apart."""

    mutable: Mapping[int, str]
    immutable: Mapping[int, str]

    @property
    def every(self) -> dict[int, str]:
        return {**self.mutable, **self.immutable}


class LabelBook:
    """The labels that a task's annotations may use."""

    def __init__(self, tx: Transaction, task_id: int) -> None:
        project_id = tx.value("SELECT project_id FROM task WHERE id = ?", task_id)
        column, owner = ("task_id", task_id) if project_id is None else ("project_id", project_id)
        self._labels: dict[int, LabelAttributes] = {
            row["id"]: LabelAttributes({}, {}) for row in tx.all(f"SELECT id FROM label WHERE {column} = ?", owner)
        }
        mutable: dict[int, dict[int, str]] = {identity: {} for identity in self._labels}
        immutable: dict[int, dict[int, str]] = {identity: {} for identity in self._labels}
        query = f"SELECT a.* FROM attribute a JOIN label l ON l.id = a.label_id WHERE l.{column} = ? ORDER BY a.id"
        for row in tx.all(query, owner):
            (mutable if row["mutable"] else immutable)[row["label_id"]][row["id"]] = row["default_value"]
        for identity in self._labels:
            self._labels[identity] = LabelAttributes(mutable[identity], immutable[identity])

    def label(self, label_id: int) -> LabelAttributes:
        """Raises RefusalError 400 for a label of another task."""
        found = self._labels.get(label_id)
        if found is None:
            raise invalid([f"label_id `{label_id}` is invalid"])
        return found

    def check(self, payload: Payload) -> None:
        """Check labels and attribute levels.

        Raises:
            RefusalError: 400 for an unknown label or an attribute at the wrong level
            ServerFaultError: for a track without shapes
        """
        for tag in payload["tags"]:
            _check_specs(tag["attributes"], self.label(tag["label_id"]).every)
        for shape in payload["shapes"]:
            self._check_shape(shape)
        for track in payload["tracks"]:
            self._check_track(track)

    def _check_shape(self, shape: Payload) -> None:
        _check_specs(shape["attributes"], self.label(shape["label_id"]).every)
        for element in shape["elements"]:
            self._check_shape(element)

    def _check_track(self, track: Payload) -> None:
        label = self.label(track["label_id"])
        if not track["shapes"]:
            raise ServerFaultError("a track without shapes")
        _check_specs(track["attributes"], label.immutable)
        for shape in track["shapes"]:
            _check_specs(shape["attributes"], label.mutable)
        for element in track["elements"]:
            self._check_track(element)

    def fill(self, payload: Payload) -> None:
        """Complete attributes as a GET does: defaults, and mutable values carried forward along each track."""
        for tag in payload["tags"]:
            tag["attributes"] = _with_defaults(tag["attributes"], self.label(tag["label_id"]).every)
        for shape in payload["shapes"]:
            self._fill_shape(shape)
        for track in payload["tracks"]:
            self._fill_track(track)

    def _fill_shape(self, shape: Payload) -> None:
        shape["attributes"] = _with_defaults(shape["attributes"], self.label(shape["label_id"]).every)
        for element in shape["elements"]:
            self._fill_shape(element)

    def _fill_track(self, track: Payload) -> None:
        label = self.label(track["label_id"])
        track["attributes"] = _with_defaults(track["attributes"], label.immutable)
        current: Mapping[int, str] = label.mutable
        for shape in track["shapes"]:
            shape["attributes"] = _with_defaults(shape["attributes"], current)
            current = {item["spec_id"]: item["value"] for item in shape["attributes"]}
        for element in track["elements"]:
            self._fill_track(element)


def _check_specs(attributes: Iterable[Payload], allowed: Mapping[int, str]) -> None:
    for item in attributes:
        if item["spec_id"] not in allowed:
            raise invalid([f"spec_id `{item['spec_id']}` is invalid"])


def _with_defaults(attributes: list[Payload], defaults: Mapping[int, str]) -> list[Payload]:
    present = {item["spec_id"] for item in attributes}
    missing = [{"spec_id": spec, "value": value} for spec, value in defaults.items() if spec not in present]
    return attributes + missing


__all__ = ["SHAPE_TYPES", "LabelBook", "Payload", "empty_payload", "read_payload"]
