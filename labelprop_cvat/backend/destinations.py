"""Where the labels of a load go."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.utils.annotations as foua

from labelprop_cvat.backend.calls import asked_to_load
from labelprop_cvat.backend.schema import FRAMES_PREFIX, FieldSchema, RunSchema
from labelprop_cvat.errors import ConfigurationError, DataError


def check_destinations(dataset: fo.Dataset, schema: RunSchema) -> None:
    """Checks where the ``load_annotations()`` that is going on brings labels, before anything is loaded.

    FiftyOne overlooks names that the run does not have, would write labels of frames to samples, and finds out that a
    field is of another type when it has merged the fields before it.

    Args:
        dataset: the dataset of the run
        schema: what the run annotates

    Raises:
        ConfigurationError: ``dest_field`` names a field that the run does not annotate, mixes up samples and frames, or
            brings two fields to one place
        DataError: a field holds something else than the labels that belong there
    """
    fields = [field.label_field for field in schema]
    asked = asked_to_load("dest_field")
    if isinstance(asked, str):
        asked = dict.fromkeys(fields, asked) if len(fields) == 1 else {}
    given = dict(asked or {})
    for field, destination in given.items():
        if field not in fields:
            raise ConfigurationError(
                f"dest_field names {field!r}, which this run does not annotate; it annotates "
                f"{', '.join(map(repr, fields))}."
            )
        plain = str(destination or "").removeprefix(FRAMES_PREFIX)
        if not plain or "." in plain or plain in _reserved(dataset):
            raise ConfigurationError(
                f"dest_field={destination!r} is no name of a field that labels could be loaded into. Give another name."
            )
        if field.startswith(FRAMES_PREFIX) is not str(destination).startswith(FRAMES_PREFIX):
            is_of_frames = field.startswith(FRAMES_PREFIX)
            right = f"{FRAMES_PREFIX}{plain}" if is_of_frames else plain
            raise ConfigurationError(
                f"{field!r} is a field of {'video frames' if is_of_frames else 'samples'}, so its labels can't be "
                f"loaded into {destination!r}. Pass dest_field={right!r}."
            )
    for field, destination in given.items():
        others = [name for name in fields if name != field]
        if destination in others or destination in [given.get(name) for name in others]:
            raise ConfigurationError(
                f"dest_field brings {field!r} to {destination!r}, where other labels of this run go. Give each field a "
                f"place of its own."
            )
    for field in schema:
        destination = given.get(field.label_field, field.label_field)
        check_type(dataset, field, field.label_field)
        if destination != field.label_field:
            check_type(dataset, field, destination)


def _reserved(dataset: fo.Dataset) -> set[str]:
    """Names that FiftyOne keeps for itself."""
    own = dataset._get_default_sample_fields(include_private=True)
    return {*own, *dataset._get_default_frame_fields(include_private=True)} if dataset._has_frame_fields() else {*own}


def check_type(dataset: fo.Dataset, schema: FieldSchema, label_field: str) -> None:
    """Checks that a field of the dataset, where it exists, can hold the labels of a field of a run.

    Raises:
        DataError: it holds something else
    """
    declared = dataset.get_field(label_field)
    if declared is None:
        return
    embedded = declared.document_type if isinstance(declared, fo.EmbeddedDocumentField) else None
    found = embedded.__name__ if embedded is not None else type(declared).__name__
    if schema.kind.label_class is None:
        if embedded is not None or isinstance(declared, fo.ListField | fo.DictField):
            raise _misplaced(schema, label_field, "a plain value", found)
        return
    expected = foua._LABEL_TYPES_MAP[schema.label_type]
    if embedded is None or not issubclass(embedded, expected):
        raise _misplaced(schema, label_field, expected.__name__, found)


def _misplaced(schema: FieldSchema, label_field: str, expected: str, found: str) -> DataError:
    if label_field == schema.label_field:
        rename = "rename_frame_field" if label_field.startswith(FRAMES_PREFIX) else "rename_sample_field"
        return DataError(
            f"The field {label_field!r} holds {found} now; this run needs {expected} there. Nothing was changed. Give "
            f"what is there another name with dataset.{rename}(), then load again."
        )
    return DataError(
        f"dest_field={label_field!r} holds {found}; the labels of {schema.label_field!r} need {expected}. Nothing was "
        f"changed. Give the name of another field, or of a new one."
    )


__all__ = ["check_destinations", "check_type"]
