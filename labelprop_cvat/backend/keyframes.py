"""Reading and mending the labels of a run's own field, frame by frame position of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import fiftyone.core.view as fov
from bson import ObjectId, json_util
from fiftyone import ViewField as F

from labelprop_cvat.backend.ledger import SequenceRecord
from labelprop_cvat.labels import instance_id
from labelprop_cvat.sequences import members_of

FRAMES_PREFIX = "frames."


def as_chosen(samples: fo.core.collections.SampleCollection, field: str) -> fo.core.collections.SampleCollection:
    """The collection as the user chose it, without the filter by label type that FiftyOne's ``annotate()`` adds.

    That filter takes labels whose mask lies in a file for boxes.
    """
    stages = getattr(samples, "_stages", ())
    if not stages or not isinstance(stages[-1], fo.FilterLabels):
        return samples
    last = json_util.dumps(stages[-1]._kwargs())
    for has_mask in (F("mask").exists(), ~F("mask").exists()):
        added = samples._dataset.filter_labels(field, has_mask, only_matches=False)._stages[-1]
        if json_util.dumps(added._kwargs()) == last:
            return fov.DatasetView._build(samples._dataset, samples._serialize()[:-1])
    return samples


def labels_at(
    samples: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    field: str,
    positions: Iterable[int],
    *,
    keyframes_only: bool = False,
) -> dict[int, list[fo.Detection]]:
    """Reads the labels of some frames.

    Args:
        samples: where to read; labels that a view filters out are not there
        record: the sequence
        field: the label field, with its ``frames.`` prefix on videos
        positions: 0-based positions in the sequence
        keyframes_only: leave out labels whose ``keyframe`` attribute is not True

    Returns:
        the labels by position; positions without labels are left out
    """
    wanted = sorted(set(positions))
    if not wanted or samples._root_dataset.get_field(field) is None:
        return {}
    source = members_of(as_chosen(samples, field))
    if record.media_type == "video":
        found = _video_labels(source, record, field, wanted, keyframes_only)
    else:
        found = _image_labels(source, record, field, wanted, keyframes_only)
    return {position: labels for position, labels in sorted(found.items()) if labels}


def _image_labels(
    source: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    field: str,
    positions: list[int],
    keyframes_only: bool,
) -> dict[int, list[fo.Detection]]:
    by_id = {record.sample_ids[position]: position for position in positions}
    view = source.select(list(by_id))
    if keyframes_only:
        view = view.filter_labels(field, F("keyframe") == True)  # noqa: E712 - builds an expression
    ids, labels = view.values(["id", f"{field}.detections"])
    return {by_id[sample_id]: list(entry or ()) for sample_id, entry in zip(ids, labels, strict=True)}


def _video_labels(
    source: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    field: str,
    positions: list[int],
    keyframes_only: bool,
) -> dict[int, list[fo.Detection]]:
    by_number = {record.frame_numbers[position]: position for position in positions}
    view = source.select(record.sample_ids[0])
    if len(by_number) < len(record):
        view = view.match_frames(F("frame_number").is_in(list(by_number)), omit_empty=False)
    if keyframes_only:
        view = view.filter_labels(field, F("keyframe") == True)  # noqa: E712 - builds an expression
    numbers, labels = view.values(["frames.frame_number", f"{field}.detections"])
    if not numbers:
        return {}
    return {
        by_number[number]: list(entry or ())
        for number, entry in zip(numbers[0] or (), labels[0] or (), strict=True)
        if number in by_number
    }


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
    view = dataset.select(sample.id).match_frames(F("frame_number").is_in(list(numbers)), omit_empty=False)
    found_numbers, ids = view.values(["frames.frame_number", "frames.id"])
    return {numbers[number]: frame_id for number, frame_id in zip(found_numbers[0], ids[0], strict=True)}


@dataclass(frozen=True)
class Finish:
    """What FiftyOne's merge does not carry over, for one label.

    Args:
        index: number of the object in this field
        instance: id of its ``fo.Instance``
        values: attributes that are no part of the label schema, such as ``rotation``
    """

    index: int
    instance: str
    values: Mapping[str, Any] = field(default_factory=dict)


def finish_merge(
    dataset: fo.Dataset, record: SequenceRecord, field: str, finishes: Mapping[int, Mapping[str, Finish]]
) -> None:
    """Sets index, instance and ``keyframe`` on freshly merged labels, which FiftyOne's merge drops or renumbers.

    Args:
        dataset: the dataset
        record: the sequence
        field: the field that the labels were merged into
        finishes: position -> label id -> values
    """
    if not finishes:
        return
    name = field.removeprefix(FRAMES_PREFIX)
    if dataset.get_field(f"{field}.detections.keyframe") is None:
        add = dataset.add_frame_field if record.media_type == "video" else dataset.add_sample_field
        add(f"{name}.detections.keyframe", fo.BooleanField)
    ids = [record.sample_ids[0]] if record.media_type == "video" else [record.sample_ids[p] for p in finishes]
    by_sample = {} if record.media_type == "video" else {record.sample_ids[p]: p for p in finishes}
    view = dataset.select(ids).select_fields(field)
    for sample in view.iter_samples(autosave=True):
        if record.media_type == "video":
            for position, wanted in finishes.items():
                _finish_labels(sample.frames[record.frame_numbers[position]][name], wanted)
        else:
            _finish_labels(sample[name], finishes[by_sample[sample.id]])


def _finish_labels(labels: fo.Detections | None, wanted: Mapping[str, Finish]) -> None:
    for label in labels.detections if labels is not None else ():
        finish = wanted.get(label.id)
        if finish is None:
            continue
        label.index = finish.index
        label["keyframe"] = True
        for name, value in finish.values.items():
            label[name] = value
        if instance_id(label) != finish.instance:
            label.instance = fo.Instance(id=ObjectId(finish.instance))
        if label.mask is not None and label.mask_path is not None:
            label.mask_path = None


__all__ = ["FRAMES_PREFIX", "Finish", "finish_merge", "frame_ids", "labels_at"]
