"""What is known of the frames of sequences, read in one go and without any mask."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import cv2
import fiftyone as fo
import fiftyone.core.media as fom
from bson import ObjectId

from labelprop_cvat.labels import SOURCE_MANUAL, SOURCE_REVIEWED
from labelprop_cvat.sequences import FRAMES_PREFIX, FrameRef, every_sample
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)


#: The exemplar score from which a frame is an exemplar, see :func:`labelprop_cvat.workflow.select`.
EXEMPLAR_FROM = 0.5

_BATCH = 20_000


@dataclass(frozen=True)
class FactFields:
    """The fields that are read, each in normal form; None for what is not asked about.

    Args:
        segments: temporal segments
        given: labels that people set
        filled: labels that were propagated from them
        quality: J of each frame, as an evaluation wrote it
    """

    segments: str | None = None
    given: str | None = None
    filled: str | None = None
    quality: str | None = None


@dataclass(frozen=True)
class FrameFacts:
    """One frame.

    Args:
        segment: label of its temporal segment
        score: its exemplar score
        given: number of labels in the field of what people set
        filled: number of labels in the field that is filled
        by_people: those of them that people set
        reviewed: those of them that a reviewer changed or found right
        lowest: lowest confidence of the filled labels
        mean: mean confidence of them
        quality: J of the frame, where an evaluation says so
    """

    segment: str | None = None
    score: float | None = None
    given: int = 0
    filled: int = 0
    by_people: int = 0
    reviewed: int = 0
    lowest: float | None = None
    mean: float | None = None
    quality: float | None = None


@dataclass
class Facts:
    """What was read.

    Args:
        frames: facts by frame; frames of which the database knows nothing are not there
        stretches: of videos whose segments are a field of the video, by sample: label, first and last frame number
            (from 1, both inclusive), exemplar scores by frame number
    """

    frames: dict[FrameRef, FrameFacts] = field(default_factory=dict)
    stretches: dict[str, list[tuple[str, int, int, dict[int, float]]]] = field(default_factory=dict)


def frames_of(sequence: FrameSequence, facts: Facts) -> tuple[FrameRef, ...]:
    """The frames of a sequence, without decoding a video: of a whole one as many as its metadata or header counts."""
    if sequence.media_type != fom.VIDEO or sequence.is_indexed:
        return sequence.frames
    (sample_id,) = sequence.sample_ids
    count = sequence.expected_frames or _counted_frames(sequence.filepaths[0])
    if not count:
        return sequence.frames
    return tuple(FrameRef(sample_id, number) for number in range(1, count + 1))


def _counted_frames(path: str) -> int:
    capture = cv2.VideoCapture(path)
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
    finally:
        capture.release()


def read_facts(dataset: fo.Dataset, sequences: Sequence[FrameSequence], fields: FactFields) -> Facts:
    """Reads the facts about the frames of some sequences; others than it takes say nothing.

    Args:
        dataset: holds them
        sequences: whose frames
        fields: what is asked about
    """
    facts = Facts()
    for media_type in (fom.IMAGE, fom.VIDEO):
        ids = [i for sequence in sequences if sequence.media_type == media_type for i in sequence.sample_ids]
        if not ids:
            continue
        project = _projection(dataset, fields, in_frames=media_type == fom.VIDEO)
        if project:
            facts.frames.update(_read(dataset, ids, project, in_frames=media_type == fom.VIDEO))
        if media_type == fom.VIDEO:
            facts.stretches = _read_stretches(dataset, ids, fields.segments)
    return facts


def _read(
    dataset: fo.Dataset, ids: Sequence[str], project: Mapping[str, Any], *, in_frames: bool
) -> Iterator[tuple[FrameRef, FrameFacts]]:
    collection = dataset._frame_collection if in_frames else dataset._sample_collection
    key = "_sample_id" if in_frames else "_id"
    for start in range(0, len(ids), _BATCH):
        wanted = [ObjectId(sample_id) for sample_id in dict.fromkeys(ids[start : start + _BATCH])]
        rows = collection.aggregate(
            [{"$match": {key: {"$in": wanted}}}, {"$project": {"_sample_id": 1, "frame_number": 1, **project}}],
            allowDiskUse=True,
        )
        for row in rows:
            number = row.pop("frame_number", None) if in_frames else None
            row.pop("frame_number", None)
            ref = FrameRef(str(row.pop("_sample_id", None) if in_frames else row["_id"]), number)
            row.pop("_id", None)
            row.pop("_sample_id", None)
            yield ref, FrameFacts(**row)


def _projection(dataset: fo.Dataset, fields: FactFields, *, in_frames: bool) -> dict[str, Any]:
    """What MongoDB works out for each frame."""
    found: dict[str, Any] = {}
    path, kind = _place(dataset, fields.segments, in_frames)
    if kind is fo.Classifications:
        found["segment"] = {"$arrayElemAt": [f"${path}.classifications.label", 0]}
        found["score"] = {"$arrayElemAt": [f"${path}.classifications.exemplar_score", 0]}
    elif kind is fo.Classification:
        found["segment"], found["score"] = f"${path}.label", f"${path}.exemplar_score"
    path, kind = _place(dataset, fields.given, in_frames)
    if path is not None and (labels := _list_of(kind)):
        found["given"] = _length(f"${path}.{labels}")
    path, kind = _place(dataset, fields.filled, in_frames)
    if path is not None and (labels := _list_of(kind)):
        whole = f"${path}.{labels}"
        said = [{"$eq": ["$$this.keyframe", True]}, {"$eq": ["$$this.source", SOURCE_MANUAL]}]
        found["filled"] = _length(whole)
        found["by_people"] = _length(_those_of(whole, {"$or": said}))
        found["reviewed"] = _length(_those_of(whole, {"$eq": ["$$this.source", SOURCE_REVIEWED]}))
        found["lowest"], found["mean"] = {"$min": f"{whole}.confidence"}, {"$avg": f"{whole}.confidence"}
    path, kind = _place(dataset, fields.quality, in_frames)
    if kind is fo.FloatField:
        found["quality"] = f"${path}"
    return found


def _place(dataset: fo.Dataset, name: str | None, in_frames: bool) -> tuple[str | None, Any]:
    """The path in the database and the type of a field, if it is one of this level."""
    if name is None or name.startswith(FRAMES_PREFIX) is not in_frames:
        return None, None
    known = dataset.get_field(name)
    if known is None:
        return None, None
    path = known.db_field or name.removeprefix(FRAMES_PREFIX)
    return path, getattr(known, "document_type", None) or type(known)


def _list_of(kind: Any) -> str | None:
    return getattr(kind, "_LABEL_LIST_FIELD", None)


def _length(array: Any) -> dict[str, Any]:
    return {"$cond": [{"$isArray": array}, {"$size": array}, 0]}


def _those_of(array: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    return {"$filter": {"input": array, "cond": condition}}


def _read_stretches(
    dataset: fo.Dataset, ids: Sequence[str], name: str | None
) -> dict[str, list[tuple[str, int, int, dict[int, float]]]]:
    path, kind = _place(dataset, name, in_frames=False)
    if path is None or kind is not fo.TemporalDetections:
        return {}
    view = every_sample(dataset, fom.VIDEO).select(list(dict.fromkeys(ids)))
    wanted = ["label", "support", "exemplar_frames", "exemplar_scores"]
    there = [part for part in wanted if dataset.get_field(f"{name}.detections.{part}") is not None]
    columns = view.values(["id", *(f"{name}.detections.{part}" for part in there)])
    found = {}
    for sample_id, *values in zip(*columns, strict=True):
        parts = {part: value or [] for part, value in zip(there, values, strict=True)}
        rows = []
        for place, support in enumerate(parts.get("support", ())):
            if not support or len(support) != 2:
                continue
            entry = {part: value[place] for part, value in parts.items()}
            scores = zip(entry.get("exemplar_frames") or (), entry.get("exemplar_scores") or (), strict=False)
            rows.append((str(entry.get("label")), int(support[0]), int(support[1]), dict(scores)))
        found[sample_id] = sorted(rows, key=lambda row: row[1:3])
    return found


def stored_segments(
    frames: Sequence[FrameRef], facts: Facts
) -> tuple[list[tuple[int, int, str]], dict[int, float | None]]:
    """The temporal segments that are stored of a sequence.

    Args:
        frames: those of the sequence, in order
        facts: what was read

    Returns:
        first and last (exclusive) 0-based position and label of each, in order; exemplar scores by position
    """
    stretches = facts.stretches.get(frames[0].sample_id) if frames and frames[0].frame_number is not None else None
    scores: dict[int, float | None] = {}
    if stretches:
        place_of = {ref.frame_number: position for position, ref in enumerate(frames)}
        found = []
        for label, first, last, scored in stretches:
            inside = [place_of[number] for number in range(first, last + 1) if number in place_of]
            if inside:
                found.append((inside[0], inside[-1] + 1, label))
                scores.update({place_of[number]: score for number, score in scored.items() if number in place_of})
        return found, scores
    nothing = FrameFacts()
    known = [facts.frames.get(ref, nothing) for ref in frames]
    scores = {position: fact.score for position, fact in enumerate(known) if fact.score is not None}
    return labelled_runs([fact.segment for fact in known]), scores


def labelled_frames(dataset: fo.Dataset, names: Sequence[str]) -> dict[str, int]:
    """On how many frames of a dataset each of some label fields holds labels; fields that hold none are left out.

    Args:
        dataset: the dataset
        names: fields in normal form
    """
    found: dict[str, int] = {}
    for in_frames in (False, True):
        sums = {}
        for number, name in enumerate(names):
            path, kind = _place(dataset, name, in_frames)
            if path is not None and (labels := _list_of(kind)):
                held = {"$gt": [_length(f"${path}.{labels}"), 0]}
                sums[f"field_{number}"] = {"$sum": {"$cond": [held, 1, 0]}}
        if not sums:
            continue
        collection = dataset._frame_collection if in_frames else dataset._sample_collection
        for row in collection.aggregate([{"$group": {"_id": None, **sums}}]):
            found.update({name: row.get(f"field_{number}", 0) for number, name in enumerate(names)})
    return {name: count for name, count in found.items() if count}


def labelled_runs(labels: Sequence[Any | None]) -> list[tuple[int, int, Any]]:
    """Runs of equal values as first and last (exclusive) position and value; None belongs to none."""
    found, start = [], 0
    for label, run in groupby(labels):
        stop = start + sum(1 for _ in run)
        if label is not None:
            found.append((start, stop, label))
        start = stop
    return found


__all__ = [
    "EXEMPLAR_FROM",
    "FactFields",
    "Facts",
    "FrameFacts",
    "frames_of",
    "labelled_frames",
    "labelled_runs",
    "read_facts",
    "stored_segments",
]
