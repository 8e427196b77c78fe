"""Which frames go to CVAT, as which tasks and jobs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import PurePath

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewField as F

from labelprop_cvat.backend.keyframes import labels_at
from labelprop_cvat.backend.ledger import (
    EXEMPLARS,
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
    for sequence, segments in planned:
        record = sequence_record(samples, sequence, segments, schema, independent)
        ledger.sequences[record.key] = record
        # A collection has no other name than its dataset, which the task's name begins with.
        shown = name if sequence.key == COLLECTION_KEY else f"{name} {sequence.name}"
        chosen = {number: segment.exemplars for number, segment in enumerate(segments)}
        tasks += _tasks(sequence, chosen, shown, "", segment_size, task_size)
    if not tasks:
        raise DataError(
            "There is nothing to annotate: no frame was chosen as an exemplar. Choose some with exemplars='every:10', "
            "or widen frame_start, frame_stop and frame_step."
        )
    ledger.rounds.append(RoundRecord(number=1, kind=EXEMPLARS, created=_now(), tasks=tasks))
    return ledger


def plan_next_round(
    samples: fo.core.collections.SampleCollection,
    ledger: Ledger,
    sequences: Mapping[str, FrameSequence],
    chosen: Mapping[str, Collection[int]],
    schema: RunSchema,
    *,
    offers: Mapping[str, str],
    segment_size: int | None = None,
    task_size: int | None = None,
) -> RoundRecord:
    """Lays out a further round of exemplars and enters it into the ledger; laid out as the first one.

    Args:
        samples: the collection that the run was made on
        ledger: changed
        sequences: the sequences of the ledger by key
        chosen: for some sequences the positions that people shall annotate now, none of which they were sent before
        schema: what the run annotates
        offers: for some label fields the field whose propagated labels go along to be corrected
        segment_size: at most so many frames in a job
        task_size: at most so many frames in a task

    Raises:
        DataError: nothing is chosen, or a frame lies in no temporal segment or is in a job already; nothing was changed
    """
    number = 1 + max((round_.number for round_ in ledger.rounds), default=0)
    kept = {key: sorted(set(positions)) for key, positions in chosen.items() if positions}
    if not kept:
        raise DataError("There is nothing to annotate: no frame was chosen for the next round.")
    parts: dict[str, dict[int, list[int]]] = {}
    for key, positions in kept.items():
        record = ledger.sequences[key]
        sent = {p for task, job in ledger.annotation_jobs() if task.sequence == key for p in job.positions}
        if again := sorted(sent.intersection(positions)):
            raise DataError(
                f"The frames {', '.join(map(str, again))} of {record.name} (counted from 0) are in a job of the run "
                f"already. Change them there, and load again; choose other frames for the next round."
            )
        for position in positions:
            parts.setdefault(key, {}).setdefault(record.segment_at(position), []).append(position)
    tasks: list[TaskRecord] = []
    for key, by_segment in parts.items():
        record, sequence = ledger.sequences[key], sequences[key]
        for place, positions in by_segment.items():
            segment = record.segments[place]
            segment.exemplars = sorted({*segment.exemplars, *positions})
        for field in schema:
            _number_objects(samples, record, field, {*kept[key]})
        first = next((task.name for task in ledger.tasks() if task.sequence == key), record.name)
        tasks += _tasks(sequence, by_segment, first, f" round {number}", segment_size, task_size)
    for task in tasks:
        task.offers = dict(offers)
    round_ = RoundRecord(number=number, kind=EXEMPLARS, created=_now(), tasks=tasks)
    ledger.rounds.append(round_)
    return round_


def is_on_its_way(round_: RoundRecord, chosen: Mapping[str, Collection[int]]) -> bool:
    """Whether a round holds just these frames, by key of the sequence, and did not arrive in CVAT yet."""
    held: dict[str, set[int]] = {}
    for task in round_.tasks:
        held.setdefault(task.sequence, set()).update(task.positions())
    is_same = bool(held) and held == {key: set(positions) for key, positions in chosen.items() if positions}
    return is_same and any(task.step != "ready" for task in round_.tasks)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _tasks(
    sequence: FrameSequence,
    chosen: Mapping[int, Sequence[int]],
    name: str,
    suffix: str,
    segment_size: int | None,
    task_size: int | None,
) -> Iterator[TaskRecord]:
    """The tasks of one sequence; ``chosen`` holds the positions of some of its segments by their number."""
    limit = min((size for size in (segment_size, task_size) if size), default=None)
    jobs = [
        JobRecord(segment=number, positions=list(part))
        for number, positions in sorted(chosen.items())
        for part in _parts(positions, limit)
    ]
    for number, group in enumerate(_task_groups(jobs, task_size)):
        ending = suffix + ("" if number == 0 else f" part {number + 1}")
        yield TaskRecord(
            sequence=sequence.key,
            name=task_name(name, ending),
            marker=f"labelprop:{ObjectId()}",
            jobs=group,
            file_names=unique_file_names(sequence, [p for job in group for p in job.positions]),
        )


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
    samples: fo.core.collections.SampleCollection,
    record: SequenceRecord,
    schema: FieldSchema,
    new: Container[int] | None = None,
) -> set[int]:
    """Checks the labels that go along and gives each object of them a number that no other has.

    Args:
        samples: the collection
        record: the sequence, whose identities get the numbers
        schema: the field
        new: the frames whose labels go along now, where others did before; all when left out

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
        is_told = new is not None and position not in new
        for label in labels:
            if not is_of_type(label, schema):
                others += not is_told
            elif not is_of_class(label, schema):
                strangers[class_of(label, schema)] += not is_told
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
            elif not is_told:
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
    strangers = +strangers
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


def task_name(name: str, ending: str) -> str:
    """The name of a task: as much of a name as CVAT takes before the ending."""
    return name[: _NAME_LENGTH - len(ending)].strip() + ending


def frame_name(name: str) -> str:
    """What a frame is called in CVAT whose file is called ``name``; files may be called almost anything."""
    fit = _UNFIT.sub("_", name)
    return fit if fit.strip() not in ("", ".", "..") else f"_{fit.strip()}_"


def unique_file_names(sequence: FrameSequence, positions: Sequence[int]) -> list[str]:
    """What annotators see above each frame: unique, in order, and telling where the frame comes from."""
    if sequence.media_type == "video":
        return [f"frame_{sequence.frames[position].frame_number:06d}.jpg" for position in positions]
    names = [frame_name(PurePath(sequence.filepaths[position]).name) for position in positions]
    if len({name.lower() for name in names}) == len(names):
        return names
    return [f"{position:06d}_{name}" for position, name in zip(positions, names, strict=True)]
