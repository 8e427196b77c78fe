"""Reading and mending the labels of a run's own fields, frame by frame position of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
from bson import ObjectId, json_util
from fiftyone import ViewField as F

from labelprop_cvat.backend.ledger import SequenceRecord
from labelprop_cvat.backend.schema import FRAMES_PREFIX, FieldSchema
from labelprop_cvat.labels import instance_id
from labelprop_cvat.sequences import every_sample, view_values

#: The attribute that says where a label comes from.
SOURCE = "source"


def as_chosen(samples: fo.core.collections.SampleCollection) -> fo.core.collections.SampleCollection:
    """The collection as the user chose it, without the filters by label type that FiftyOne's ``annotate()`` adds.

    Those filters take labels whose mask lies in a file for boxes.
    """
    stages = list(getattr(samples, "_stages", ()))
    kept = list(stages)
    for number in reversed(range(len(stages))):
        if not isinstance(stages[number], fo.FilterLabels):
            break
        if _is_mask_filter(stages[number], samples._dataset):
            del kept[number]
    if len(kept) == len(stages):
        return samples
    view = samples._base_view
    for stage in kept:
        view = view._add_view_stage(stage, validate=False)
    return view


def _is_mask_filter(stage: fo.FilterLabels, dataset: fo.Dataset) -> bool:
    own = json_util.dumps(stage._kwargs())
    added = (
        dataset.filter_labels(stage.field, has_mask, only_matches=False)._stages[-1]
        for has_mask in (F("mask").exists(), ~F("mask").exists())
    )
    return any(json_util.dumps(entry._kwargs()) == own for entry in added)


def labels_at(
    samples: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    schema: FieldSchema,
    positions: Iterable[int],
    *,
    keyframes_only: bool = False,
) -> dict[int, list[Any]]:
    """Reads the labels of some frames.

    Args:
        samples: where to read; labels that a view filters out are not there
        record: the sequence
        schema: the label field and its type
        positions: 0-based positions in the sequence
        keyframes_only: leave out labels whose ``keyframe`` attribute is not True

    Returns:
        the labels (of scalar fields, the value) by position; positions without any are left out. A field that holds
        one value for a whole video has it at position 0
    """
    field, wanted = schema.label_field, sorted(set(positions))
    if not wanted or samples._root_dataset.get_field(field) is None:
        return {}
    if schema.is_per_sample(record.media_type):
        held = every_sample(samples._root_dataset).select(record.sample_ids[0]).values(field)
        labels = _listed(held[0] if held else None, schema)
        return {0: labels} if labels else {}
    by_ref = {record.ref(position): position for position in wanted}
    values = view_values(as_chosen(samples), by_ref, field, _keyframes if keyframes_only else None)
    found = {by_ref[ref]: _listed(value, schema) for ref, value in values.items()}
    return {position: labels for position, labels in sorted(found.items()) if labels}


def propagated_schema(schema: FieldSchema, output_field: str) -> FieldSchema:
    """How to read what was propagated from a field's labels, which are detections whatever the field holds."""
    return replace(schema, label_field=output_field, label_type="instances")


def _listed(value: Any, schema: FieldSchema) -> list[Any]:
    if value is None:
        return []
    return [value] if schema.kind.list_field is None else list(value[schema.kind.list_field])


def _keyframes(view: fo.core.collections.SampleCollection, field: str) -> fo.core.collections.SampleCollection:
    if view.get_field(field) is None:
        return view
    return view.filter_labels(field, F("keyframe") == True)  # noqa: E712 - builds an expression


def has_labels_field(dataset: fo.Dataset, record: SequenceRecord, field: str, position: int) -> bool:
    """Whether a frame holds a value in a field, if only an empty list of labels."""
    if dataset.get_field(field) is None:
        return False
    name = field.removeprefix(FRAMES_PREFIX)
    if record.media_type != "video":
        return dataset[record.sample_ids[position]][name] is not None
    frames = dataset[record.sample_ids[0]].frames
    number = record.frame_numbers[position]
    return number in frames and frames[number][name] is not None


def frame_ids(dataset: fo.Dataset, record: SequenceRecord, positions: Iterable[int]) -> dict[int, str]:
    """The ids of a video's frame documents by position; documents that do not exist yet are made."""
    sample = dataset[record.sample_ids[0]]
    numbers = {record.frame_numbers[position]: position for position in positions}
    missing = [number for number in numbers if number not in sample.frames]
    if missing:
        for number in missing:
            sample.frames[number] = fo.Frame()
        sample.save()
    view = (
        every_sample(dataset, "video")
        .select(sample.id)
        .match_frames(F("frame_number").is_in(list(numbers)), omit_empty=False)
    )
    found_numbers, ids = view.values(["frames.frame_number", "frames.id"])
    return {numbers[number]: frame_id for number, frame_id in zip(found_numbers[0], ids[0], strict=True)}


@dataclass(frozen=True)
class Finish:
    """What FiftyOne's merge does not carry over, for one label.

    Args:
        index: number of the object in this field; None for labels without
        instance: id of its ``fo.Instance``; None leaves it as it is
        values: attributes that are no part of the label schema, such as ``rotation``
        keyframe: whether the label is marked as one
    """

    index: int | None
    instance: str | None
    values: Mapping[str, Any] = field(default_factory=dict)
    keyframe: bool = True


def finish_merge(
    dataset: fo.Dataset,
    record: SequenceRecord,
    schema: FieldSchema,
    label_field: str,
    finishes: Mapping[int, Mapping[str, Finish]],
) -> None:
    """Sets index, instance and ``keyframe`` on freshly merged labels, which FiftyOne's merge drops or renumbers.

    Args:
        dataset: the dataset
        record: the sequence
        schema: what the run annotates in the field
        label_field: the field that the labels were merged into
        finishes: position -> label id -> values
    """
    if not finishes:
        return
    name = label_field.removeprefix(FRAMES_PREFIX)
    every = [finish for entries in finishes.values() for finish in entries.values()]
    add = dataset.add_frame_field if record.media_type == "video" else dataset.add_sample_field
    for attribute, kind, is_needed in (
        ("keyframe", fo.BooleanField, any(finish.keyframe for finish in every)),
        (SOURCE, fo.StringField, any(SOURCE in finish.values for finish in every)),
    ):
        path = f"{schema.kind.path(label_field)}.{attribute}"
        if is_needed and dataset.get_field(path) is None:
            add(path.removeprefix(FRAMES_PREFIX), kind)
    if not isinstance(dataset.get_field(f"{schema.kind.path(label_field)}.{SOURCE}"), (fo.StringField, type(None))):
        # The user's own, of another type.
        finishes = {
            position: {
                label_id: replace(finish, values={k: v for k, v in finish.values.items() if k != SOURCE})
                for label_id, finish in entries.items()
            }
            for position, entries in finishes.items()
        }
    ids = [record.sample_ids[0]] if record.media_type == "video" else [record.sample_ids[p] for p in finishes]
    by_sample = {} if record.media_type == "video" else {record.sample_ids[p]: p for p in finishes}
    view = every_sample(dataset, record.media_type).select(ids).select_fields(label_field)
    for sample in view.iter_samples(autosave=True):
        if record.media_type == "video":
            for position, wanted in finishes.items():
                _finish_labels(sample.frames[record.frame_numbers[position]][name], schema, wanted)
        else:
            _finish_labels(sample[name], schema, finishes[by_sample[sample.id]])
    if record.media_type == "video":
        # Frames that the caller holds in memory; FiftyOne forgets some when it saves in batches.
        fo.core.frame.Frame._reload_docs(dataset._frame_collection_name, sample_ids=ids)


def merge_slices(
    dataset: fo.Dataset,
    record: SequenceRecord,
    schema: FieldSchema,
    label_field: str,
    values: Mapping[int, Any],
) -> None:
    """Sets the values of a scalar field where the dataset has group slices.

    FiftyOne's merge of plain values reaches samples of the active slice only.

    Args:
        dataset: the dataset
        record: the sequence
        schema: what the run annotates in the field
        label_field: the field that the values are merged into
        values: by position; None deletes
    """
    if dataset.media_type != fom.GROUP or schema.kind.label_class is not None:
        return
    name = label_field.removeprefix(FRAMES_PREFIX)
    of_frames = record.media_type == "video" and not schema.is_per_sample(record.media_type)
    for position, value in values.items():
        sample = dataset[record.sample_ids[0 if record.media_type == "video" else position]]
        place = sample.frames[record.frame_numbers[position]] if of_frames else sample
        held = place[name] if place.has_field(name) else None
        kind = "deletions" if value is None else "additions" if held is None else None
        if held != value and (kind is None or schema.allows(kind)):
            place[name] = value
            sample.save()


def _finish_labels(value: Any, schema: FieldSchema, wanted: Mapping[str, Finish]) -> None:
    if value is None:
        return
    labels = [value] if schema.kind.list_field is None else value[schema.kind.list_field]
    for label in labels:
        finish = wanted.get(label.id)
        if finish is None:
            continue
        if schema.kind.has_index:
            label.index = finish.index
        if finish.keyframe:
            label["keyframe"] = True
        for name, entry in finish.values.items():
            label[name] = entry
        if finish.instance is not None and instance_id(label) != finish.instance:
            label.instance = fo.Instance(id=ObjectId(finish.instance))
        if label.get_attribute_value("mask_path", None) is not None and label.mask is not None:
            label.mask_path = None


__all__ = [
    "FRAMES_PREFIX",
    "SOURCE",
    "Finish",
    "as_chosen",
    "finish_merge",
    "frame_ids",
    "has_labels_field",
    "labels_at",
    "merge_slices",
    "propagated_schema",
]
