"""Labels brought to the state that CVAT shows, keeping everything CVAT knows nothing of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.schema import VALUE_ATTRIBUTE, FieldSchema
from labelprop_cvat.backend.shapes.drawn import GROUP, DrawnKeyframe, DrawnObject, attribute_texts
from labelprop_cvat.backend.shapes.geometry import is_same_place, place_label
from labelprop_cvat.backend.shapes.write import group_of, occluded_of

logger = logging.getLogger(__name__)

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def update_label(
    label: fo.Label | None,
    drawn: DrawnObject,
    keyframe: DrawnKeyframe,
    schema: FieldSchema,
    size: tuple[int, int],
    seen: Mapping[str, str] | None = None,
    outlines: Sequence[Sequence[float]] = (),
    *,
    was_called: str = "",
    is_unmoved: bool = False,
) -> fo.Label | None:
    """Brings a label to the state that CVAT shows; what changed in FiftyOne alone stays.

    Args:
        label: the label as it is in FiftyOne; None for a new one
        drawn: the object
        keyframe: its state on the label's frame
        schema: what the run annotates in the label's field
        size: ``(height, width)`` of the frame
        seen: the attribute values that CVAT held when it was last looked at; only what differs from them is taken over
        outlines: further outlines of the same label, CVAT's points
        was_called: the class that CVAT held then; "" where that is not known
        is_unmoved: whether CVAT holds the geometry that it held then

    Returns:
        a label with geometry, class and attributes set (a copy with the same id where one was given), or None when
        the shape covers nothing of the image
    """
    kind = schema.kind
    if kind.label_class is None:
        raise TypeError(f"Field {schema.label_field!r} holds plain values, not labels.")
    updated = label.copy() if label is not None else kind.label_class()
    if label is not None:
        # A copy would be a label of its own, of an instance of its own.
        updated.id = label.id
        if label.get_attribute_value("instance", None) is not None:
            updated.instance = label.instance
    is_in_place = label is not None and (
        is_unmoved or not schema.allows("spatial_edits") or (not outlines and is_same_place(label, keyframe, size))
    )
    if kind.shape != "tag" and not is_in_place and not place_label(updated, keyframe, size, outlines):
        return None
    _set_attributes(updated, label, drawn, keyframe, schema, seen or {})
    if label is not None and was_called == drawn.label:
        updated.label = label.label
    fixed = schema.read_only if label is not None else ()
    if schema.occluded_attr not in (None, *fixed) and (
        label is None or (not is_unmoved and occluded_of(label, schema) is not keyframe.occluded)
    ):
        updated[schema.occluded_attr] = keyframe.occluded
    # A track has one group, its labels may have several: only another one than before is a person's doing.
    was_grouped = seen is None or seen.get(GROUP, "0") != str(drawn.group)
    if schema.group_id_attr not in (None, *fixed) and (
        label is None or (was_grouped and group_of(label, schema) != drawn.group)
    ):
        updated[schema.group_id_attr] = drawn.group or None
    return updated


def _set_attributes(
    updated: fo.Label,
    label: fo.Label | None,
    drawn: DrawnObject,
    keyframe: DrawnKeyframe,
    schema: FieldSchema,
    seen: Mapping[str, str],
) -> None:
    # Giving a track another class resets its attributes in CVAT, which nobody asked for.
    was_reset = label is not None and drawn.is_track and label.label != drawn.label
    updated.label = drawn.label
    values = attribute_texts(drawn, keyframe)
    for attribute in schema.attributes_of(drawn.label):
        text = values.get(attribute.name)
        if text is None or (label is not None and (attribute.read_only or seen.get(attribute.name) == text)):
            continue
        held = label[attribute.name] if label is not None and label.has_field(attribute.name) else None
        if was_reset and held is not None and text == attribute.spec().default_value:
            continue
        # What CVAT shows as text may be a number in FiftyOne; untouched, it keeps its type.
        if held is not None and attribute.encode(held) == text:
            continue
        value = _like(held, attribute.decode(text, schema.coerce_text))
        fitting = fitted_value(value, schema.declared.get(attribute.name))
        if (value is not None and fitting is None) or not isinstance(held, str | int | float | None):
            logger.warning(
                "%r, the %s of a %s on frame %d of a CVAT job, is nothing that %r could hold; it is left out.",
                text,
                attribute.name,
                drawn.label,
                keyframe.frame,
                schema.label_field,
            )
            continue
        updated[attribute.name] = fitting


def fitted_value(value: Any, declared: fo.Field | None) -> Any:
    """A value as a field of the dataset can hold it; None where it can't."""
    if value is None or declared is None:
        return value
    text = str(value).strip()
    try:
        if isinstance(declared, fo.BooleanField):
            return value if isinstance(value, bool) else _BOOLEANS[text.lower()]
        if isinstance(declared, fo.IntField):
            return int(text) if isinstance(value, str) else int(value) if int(value) == value else None
        if isinstance(declared, fo.FloatField):
            return float(value)
        if isinstance(declared, fo.StringField):
            return value if isinstance(value, str) else text
        declared.validate(value)
    # FiftyOne's fields refuse values with a kind of AssertionError.
    except (AssertionError, KeyError, OverflowError, ValueError):
        return None
    return value


def _like(held: Any, value: Any) -> Any:
    """A text in the type of the number that it takes the place of, where it is one."""
    if isinstance(value, str) and isinstance(held, int | float) and not isinstance(held, bool):
        try:
            return type(held)(value)
        except ValueError:
            return value
    return value


def new_label(drawn: DrawnObject, keyframe: DrawnKeyframe, size: tuple[int, int]) -> fo.Label | None:
    """A label of the kind that a shape makes by itself, whatever its field expects.

    Returns:
        a box, mask, polygon, line, set of points or classification; None when it covers nothing of the image
    """
    classes: Mapping[str, type[fo.Label]] = {
        "rectangle": fo.Detection,
        "mask": fo.Detection,
        "polygon": fo.Polyline,
        "polyline": fo.Polyline,
        "points": fo.Keypoint,
        "skeleton": fo.Keypoint,
        "tag": fo.Classification,
    }
    label = classes[keyframe.shape_type](label=drawn.label)
    for name, text in attribute_texts(drawn, keyframe).items():
        if text and name != GROUP:
            label[name] = text
    return label if keyframe.shape_type == "tag" or place_label(label, keyframe, size) else None


def scalar_value(
    drawn: DrawnObject, keyframe: DrawnKeyframe, schema: FieldSchema, declared: fo.Field | None, held: Any
) -> Any:
    """The value that a tag of a scalar field stands for.

    Args:
        drawn: the tag
        keyframe: its only one
        schema: what the run annotates in the field
        declared: the field as the dataset declares it; None for a new one
        held: the value that the frame has in FiftyOne; it stays where the tag's text is no value of the field
    """
    text = attribute_texts(drawn, keyframe).get(VALUE_ATTRIBUTE, "") if not schema.has_classes else drawn.label
    if text == "":
        return None
    if held is not None and text == ("true" if held is True else "false" if held is False else str(held)):
        return held
    value: Any = text
    try:
        if isinstance(declared, fo.BooleanField):
            value = _BOOLEANS[text.strip().lower()]
        elif isinstance(declared, fo.IntField):
            value = int(text)
        elif isinstance(declared, fo.FloatField):
            value = float(text)
    except (KeyError, ValueError):
        logger.warning(
            "The tag %r on frame %d is no value of the field %r, which holds %s; the frame keeps %r.",
            text,
            keyframe.frame,
            schema.label_field,
            type(declared).__name__,
            held,
        )
        return held
    return value


__all__ = ["new_label", "scalar_value", "update_label"]
