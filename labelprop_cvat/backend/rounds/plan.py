"""Which frames go to CVAT, as which tasks and jobs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import PurePath

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewField as F

from labelprop_cvat.backend.keyframes import labels_at
from labelprop_cvat.backend.ledger import (
    JobRecord,
    Ledger,
    RoundRecord,
    SegmentRecord,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.schema import FieldSchema, RunSchema
from labelprop_cvat.backend.shapes import class_of, is_of_class, is_of_type, is_sendable
from labelprop_cvat.errors import DataError
from labelprop_cvat.sequences import COLLECTION_KEY, members_of
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

# CVAT's limit for the name of a task.
_NAME_LENGTH = 256

# How many classes a warning names.
_SHOWN = 10

# What file names may hold and the names of CVAT's frames had better not.
_UNFIT = re.compile(r"""[\\/:*?"<>|%#&\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]""")


@dataclass(frozen=True)
class PlannedSegment:
    """A temporal segment and the frame positions of it that people shall annotate, ascending."""

    start: int
    stop: int
    label: str
    exemplars: tuple[int, ...]


def plan_exemplar_round(
    samples: fo.core.collections.SampleCollection,
    planned: Sequence[tuple[FrameSequence, Sequence[PlannedSegment]]],
    schema: RunSchema,
    *,
    url: str,
    name: str,
    segment_size: int | None = None,
    task_size: int | None = None,
    independent: bool = False,
) -> Ledger:
    """Lays out the first round: one task a sequence, one job a temporal segment, only exemplar frames.

    Args:
        samples: the collection, to see which indices are taken
        planned: the sequences with their segments
        schema: what the run annotates
        url: address of the server
        name: what the tasks are called, before the name of the sequence
        segment_size: at most so many frames in a job; longer ones are cut into several
        task_size: at most so many frames in a task; more jobs go into further tasks
        independent: the images are no sequence in time; each has its own size

    Raises:
        DataError: no sequence has an exemplar
    """
    ledger = Ledger(url=url)
    tasks: list[TaskRecord] = []
    limit = min((size for size in (segment_size, task_size) if size), default=None)
    for sequence, segments in planned:
        record = sequence_record(samples, sequence, segments, schema, independent)
        ledger.sequences[record.key] = record
        jobs = [
            JobRecord(segment=number, positions=list(part))
            for number, segment in enumerate(segments)
            for part in _parts(segment.exemplars, limit)
        ]
        # A collection has no other name than its dataset, which the task's name begins with.
        shown = name if sequence.key == COLLECTION_KEY else f"{name} {sequence.name}"
        for number, group in enumerate(_task_groups(jobs, task_size)):
            suffix = "" if number == 0 else f" part {number + 1}"
            tasks.append(
                TaskRecord(
                    sequence=record.key,
                    name=shown[: _NAME_LENGTH - len(suffix)].strip() + suffix,
                    marker=f"labelprop:{ObjectId()}",
                    jobs=group,
                    file_names=_file_names(sequence, [p for job in group for p in job.positions]),
                )
            )
    if not tasks:
        raise DataError(
            "There is nothing to annotate: no frame was chosen as an exemplar. Choose some with exemplars='every:10', "
            "or widen frame_start, frame_stop and frame_step."
        )
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    ledger.rounds.append(RoundRecord(number=1, kind="exemplars", created=now, tasks=tasks))
    return ledger


def sequence_record(
    samples: fo.core.collections.SampleCollection,
    sequence: FrameSequence,
    segments: Sequence[PlannedSegment],
    schema: RunSchema,
    independent: bool,
) -> SequenceRecord:
    """Enters a sequence: its frames and segments, and which numbers the objects of each field have or may get.

    Args:
        samples: the collection, to see which indices are taken
        sequence: the sequence
        segments: its segments with the frames that people annotate
        schema: what the run annotates
        independent: the images are no sequence in time; each has its own size
    """
    is_video = sequence.media_type == "video"
    sizes = [list(size) for size in sequence.frame_sizes] if independent else []
    record = SequenceRecord(
        key=sequence.key,
        name=sequence.name,
        media_type=sequence.media_type,
        size=sizes[0] if sizes else list(sequence.size),
        sample_ids=[sequence.frames[0].sample_id] if is_video else [ref.sample_id for ref in sequence.frames],
        frame_numbers=[int(ref.frame_number or 0) for ref in sequence.frames] if is_video else [],
        segments=[SegmentRecord(s.start, s.stop, s.label, list(s.exemplars)) for s in segments],
        sizes=sizes if len({tuple(size) for size in sizes}) > 1 else [],
        independent=independent,
    )
    for field in schema:
        identities = record.identities(field.label_field)
        indices = _indices_in_field(samples, record, field)
        identities.next_index = 1 + max([0, *indices])
        sent = _number_objects(samples, record, field)
        # A keyframe at home is a person's, who may well mean the same object again; a model's label is nobody's.
        identities.reserved = sorted(indices - sent - _indices_in_field(samples, record, field, of_keyframes=True))
    return record


def _number_objects(
    samples: fo.core.collections.SampleCollection, record: SequenceRecord, schema: FieldSchema
) -> set[int]:
    """Checks the labels that go along and gives each object of them a number that no other has.

    Returns:
        the indices of the labels that go along
    """
    classes: dict[int, str] = {}
    sent: set[int] = set()
    others = 0
    strangers: Counter[str | None] = Counter()
    identities = record.identities(schema.label_field)
    found = labels_at(samples, record, schema, _exemplars(record))
    for position, labels in found.items():
        for label in labels:
            if not is_of_type(label, schema):
                others += 1
            elif not is_of_class(label, schema):
                strangers[class_of(label, schema)] += 1
            elif is_sendable(label, schema, record.size_at(position)):
                if not schema.kind.has_index or label.index is None:
                    continue
                sent.add(label.index)
                if label.index >= 1 and classes.setdefault(label.index, label.label) == label.label:
                    continue
                alias = f"{label.index}:{label.label}"
                if alias not in identities.aliases:
                    identities.aliases[alias] = identities.next_index
                    identities.next_index += 1
            else:
                logger.warning(
                    "%.40s of %r is nothing on frame %d of %s that CVAT could hold; it stays at home.",
                    f"The label {label.id}" if isinstance(label, fo.Label) else f"The value {label!r}",
                    schema.label_field,
                    position,
                    record.name,
                )
    if others:
        logger.warning(
            "%d labels of %r on exemplars of %s are no %s; they stay at home. Pass another label_type to send those.",
            others,
            schema.label_field,
            record.name,
            schema.label_type,
        )
    if strangers:
        logger.warning(
            "%d labels of %r on exemplars of %s are of classes that the run does not have (%s; it has %s); they stay "
            "at home. What people shall see must be in classes=[...], or among the labels of the project.",
            strangers.total(),
            schema.label_field,
            record.name,
            _some(strangers),
            _some(schema.classes),
        )
    return sent


def _some(names: Iterable[str | None]) -> str:
    """The first few names, for people to read."""
    shown = [repr(name) for name in islice(names, _SHOWN + 1)]
    return ", ".join(shown[:_SHOWN]) + (" and more" if len(shown) > _SHOWN else "")


def _exemplars(record: SequenceRecord) -> list[int]:
    return [position for segment in record.segments for position in segment.exemplars]


def _indices_in_field(
    samples: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    schema: FieldSchema,
    of_keyframes: bool = False,
) -> set[int]:
    dataset, label_field = samples._root_dataset, schema.label_field
    if not schema.kind.has_index or dataset.get_field(label_field) is None:
        return set()
    view = members_of(dataset).select(record.sample_ids)
    if of_keyframes:
        view = view.filter_labels(label_field, F("keyframe") == True)  # noqa: E712 - builds an expression
    return {int(index) for index in view.distinct(f"{schema.kind.path(label_field)}.index")}


def _parts(positions: Sequence[int], limit: int | None) -> Iterator[Sequence[int]]:
    step = limit or max(1, len(positions))
    for start in range(0, len(positions), step):
        yield positions[start : start + step]


def _task_groups(jobs: Sequence[JobRecord], task_size: int | None) -> list[list[JobRecord]]:
    groups: list[list[JobRecord]] = []
    held = 0
    for job in jobs:
        if not groups or (task_size and held + len(job.positions) > task_size):
            groups.append([])
            held = 0
        job.start_frame = held
        groups[-1].append(job)
        held += len(job.positions)
    return groups


def _file_names(sequence: FrameSequence, positions: Sequence[int]) -> list[str]:
    """What annotators see above each frame: unique, in order, and telling where the frame comes from."""
    if sequence.media_type == "video":
        return [f"frame_{sequence.frames[position].frame_number:06d}.jpg" for position in positions]
    names = [_UNFIT.sub("_", PurePath(sequence.filepaths[position]).name) for position in positions]
    if len({name.lower() for name in names}) == len(names):
        return names
    return [f"{position:06d}_{name}" for position, name in zip(positions, names, strict=True)]
