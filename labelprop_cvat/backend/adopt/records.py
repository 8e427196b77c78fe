"""The ledger of a run whose tasks were in CVAT before it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

import fiftyone as fo

from labelprop_cvat.backend.adopt.fields import STOCK_ID_ATTRIBUTE
from labelprop_cvat.backend.adopt.places import Place
from labelprop_cvat.backend.adopt.tasks import Content, FoundTask, contents, joined_tracks
from labelprop_cvat.backend.cvat import CVATClient, LabelMap
from labelprop_cvat.backend.keyframes import labels_at
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    JobRecord,
    LabelRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.rounds import PlannedSegment, sequence_record
from labelprop_cvat.backend.schema import INDEX_ATTRIBUTE, RunSchema
from labelprop_cvat.backend.shapes import DrawnObject, read_annotations
from labelprop_cvat.errors import DataError
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import TemporalSegment

logger = logging.getLogger(__name__)


def adopted_ledger(
    samples: fo.core.collections.SampleCollection,
    tasks: Sequence[FoundTask],
    places: Mapping[int, Mapping[int, Place]],
    segments: Mapping[str, Sequence[TemporalSegment]],
    sequences: Mapping[str, FrameSequence],
    schema: RunSchema,
    *,
    url: str,
    index_attribute: str,
    independent: bool,
) -> Ledger:
    """Enters tasks as if the run had made them, all of them ready to be collected.

    A frame that several jobs of a task share belongs to the first of them. A task whose frames lie in several
    sequences is entered once for each.

    Args:
        samples: the collection, to see which indices are taken
        tasks: what CVAT has
        places: where the frames of each task are, by its number
        segments: the temporal segments of each sequence
        sequences: by key
        schema: what the run annotates
        url: address of the server
        index_attribute: the attribute of CVAT's labels that tells which object a shape is of
        independent: the images are no sequence in time

    Raises:
        DataError: none of the frames lies in a segment
    """
    ledger = Ledger(url=url)
    records: list[TaskRecord] = []
    for key, sequence in sequences.items():
        own = {found.task.id: _positions(places[found.task.id], key, segments[key]) for found in tasks}
        annotated = {position for positions in own.values() for position in positions.values()}
        if not annotated:
            continue
        ledger.sequences[key] = sequence_record(
            samples,
            sequence,
            [
                PlannedSegment(
                    entry.segment.start,
                    entry.segment.stop,
                    entry.label,
                    tuple(p for p in range(entry.segment.start, entry.segment.stop) if p in annotated),
                )
                for entry in segments[key]
            ],
            schema,
            independent,
        )
        for found in tasks:
            jobs = _jobs(found, own[found.task.id], ledger.sequences[key])
            if jobs:
                records.append(_task(found, key, jobs, schema, index_attribute))
    if not records:
        raise DataError("None of the tasks' frames lies in a temporal segment of the samples; nothing is adopted.")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    ledger.rounds.append(RoundRecord(number=1, kind="adopted", created=now, tasks=records))
    return ledger


def _positions(places: Mapping[int, Place], key: str, segments: Iterable[TemporalSegment]) -> dict[int, int]:
    """Positions in one sequence by frame of a task; frames outside every segment are left out."""
    covered = {p for entry in segments for p in range(entry.segment.start, entry.segment.stop)}
    own = {frame: position for frame, (sequence, position) in places.items() if sequence == key}
    left_out = sum(position not in covered for position in own.values())
    if left_out:
        logger.warning("%d frames of the tasks lie in no temporal segment of %s; they are left out.", left_out, key)
    return {frame: position for frame, position in own.items() if position in covered}


def _jobs(found: FoundTask, positions: Mapping[int, int], record: SequenceRecord) -> list[JobRecord]:
    jobs: list[JobRecord] = []
    taken: set[int] = set()
    for job in found.jobs:
        held = [NO_POSITION if frame in taken else positions.get(frame, NO_POSITION) for frame in job.frames]
        taken.update(job.frames)
        first = next((position for position in held if position != NO_POSITION), None)
        if first is None:
            continue
        jobs.append(
            JobRecord(
                segment=record.segment_at(first),
                positions=held,
                start_frame=job.start_frame,
                id=job.id,
                stage=job.stage,
                state=job.state,
                assignee=job.assignee.username if job.assignee else None,
                sent=True,
            )
        )
    return jobs


def _task(found: FoundTask, key: str, jobs: list[JobRecord], schema: RunSchema, index_attribute: str) -> TaskRecord:
    frames = [frame for job in jobs for frame in range(job.start_frame, job.start_frame + len(job.positions))]
    return TaskRecord(
        sequence=key,
        name=found.task.name,
        marker="",
        jobs=jobs,
        file_names=[found.file_name(frame) for frame in frames],
        step="ready",
        id=found.task.id,
        adopted=True,
        labels=_labels(found, schema, index_attribute),
    )


def _labels(found: FoundTask, schema: RunSchema, index_attribute: str) -> dict[str, LabelRecord]:
    """The task's labels that the run annotates, as far as the task has them."""
    labels = LabelMap(found.labels)
    records = {}
    for spec in schema.labels():
        if spec.name not in labels:
            continue
        label = labels.label(spec.name)
        held = {attribute.name: attribute.id for attribute in label.attributes}
        known = {attribute.name: held[attribute.name] for attribute in spec.attributes if attribute.name in held}
        known.pop(INDEX_ATTRIBUTE, None)
        if index_attribute in held:
            known[INDEX_ATTRIBUTE] = held[index_attribute]
        nodes = {sub.name: sub.id for sub in label.sublabels}
        records[spec.name] = LabelRecord(
            label.id, known, {sub.name: nodes[sub.name] for sub in spec.sublabels if sub.name in nodes}
        )
    return records


# --- identities -------------------------------------------------------------------------------------------------------


def settle_identities(
    samples: fo.core.collections.SampleCollection,
    ledger: Ledger,
    tasks: Sequence[FoundTask],
    schema: RunSchema,
    client: CVATClient,
) -> None:
    """Notes what is known of the objects beforehand: everything else is settled when they are collected.

    - parts of a track that CVAT takes for one, in jobs that share frames, are one object
    - shapes that FiftyOne's own backend sent are the labels that they were made from
    - labels that are in the field already are the objects of their index, where CVAT's labels have one
    """
    found_by_id = {found.task.id: found for found in tasks}
    for task in ledger.tasks():
        record, number = ledger.sequences[task.sequence], task.server_id
        if any(INDEX_ATTRIBUTE in label.attributes for label in task.labels.values()):
            _tie_by_index(samples, task, record, schema)
        found = found_by_id[number]
        if not found.shares_frames and not _stock_specs(found):
            continue
        held = contents(client, found)
        drawn = _drawn(task, held, schema)
        sources = _sources(samples, found, task, record, schema, held)
        for key, labels in sources.items():
            own = next((label.index for label in labels.values() if label.index and label.index >= 1), None)
            index = own or _new_index(record, drawn[key][1])
            task.objects[key] = _object(*drawn[key], index, {place: label.id for place, label in labels.items()})
        for keys in joined_tracks(client, found, held) if found.shares_frames else ():
            parts = [drawn[key] for key in keys if key in drawn and drawn[key][1].index == 0 and key not in sources]
            if len(parts) > 1:
                index = _new_index(record, parts[0][1])
                task.objects.update({part.key: _object(job, part, index, {}) for job, part in parts})


def _new_index(record: SequenceRecord, drawn: DrawnObject) -> int:
    identities = record.identities(drawn.label_field)
    index, identities.next_index = identities.next_index, identities.next_index + 1
    return index


def _tie_by_index(
    samples: fo.core.collections.SampleCollection, task: TaskRecord, record: SequenceRecord, schema: RunSchema
) -> None:
    positions = sorted({position for position in task.positions() if position != NO_POSITION})
    for field in schema:
        if not field.kind.has_index:
            continue
        label_ids = record.identities(field.label_field).label_ids
        for position, labels in labels_at(samples, record, field, positions).items():
            for label in labels:
                if label.index is not None and label.index >= 1:
                    label_ids.setdefault(f"{label.index}:{position}", label.id)


def _drawn(task: TaskRecord, held: Sequence[Content], schema: RunSchema) -> dict[str, tuple[JobRecord, DrawnObject]]:
    jobs = {job.id: job for job in task.jobs}
    return {
        drawn.key: (jobs[content.job.id], drawn)
        for content in held
        if content.job.id in jobs
        for drawn in read_annotations(content.annotations, task.labels, schema).objects
    }


def _object(job: JobRecord, drawn: DrawnObject, index: int, label_ids: Mapping[int, str]) -> ObjectRecord:
    """An object that was seen nowhere yet, so that whatever CVAT holds of it is taken for changed."""
    positions = {job.position_of(keyframe.frame) for keyframe in drawn.keyframes} - {None}
    sightings = {str(position): SightingRecord(label_ids.get(position or 0, "")) for position in positions}
    return ObjectRecord(drawn.label_field, index, drawn.index, 0, sightings)


def _sources(
    samples: fo.core.collections.SampleCollection,
    found: FoundTask,
    task: TaskRecord,
    record: SequenceRecord,
    schema: RunSchema,
    held: Sequence[Content],
) -> dict[str, dict[int, fo.Label]]:
    """The labels that FiftyOne's own backend made shapes and tracks of: position -> label, by key."""
    specs = _stock_specs(found)
    if not specs:
        return {}
    positions = sorted({p for p in task.positions() if p != NO_POSITION})
    labels: dict[str, dict[str, fo.Label]] = defaultdict(dict)
    for field in schema:
        if field.kind.has_index:
            for entries in labels_at(samples, record, field, positions).values():
                labels[field.label_field].update({label.id: label for label in entries})
    sources: dict[str, dict[int, fo.Label]] = {}
    for key, (job, drawn) in _drawn(task, held, schema).items():
        for frame, label_id in _stock_ids(key, held, specs):
            position, label = job.position_of(frame), labels[drawn.label_field].get(label_id)
            if position is not None and label is not None:
                sources.setdefault(key, {})[position] = label
    return sources


def _stock_specs(found: FoundTask) -> set[int]:
    return {a.id for label in found.labels for a in label.attributes if a.name == STOCK_ID_ATTRIBUTE}


def _stock_ids(key: str, held: Sequence[Content], specs: set[int]) -> list[tuple[int, str]]:
    kind, number = key.split(":")
    return [
        (int(shape["frame"]), str(attribute["value"]))
        for content in held
        for entry in content.annotations[f"{kind}s"]
        if str(entry["id"]) == number
        for shape in (entry["shapes"] if kind == "track" else [entry])
        for attribute in (*(shape.get("attributes") or ()), *(entry.get("attributes") or ()))
        if attribute["spec_id"] in specs and attribute["value"]
    ]


__all__ = ["adopted_ledger", "settle_identities"]
