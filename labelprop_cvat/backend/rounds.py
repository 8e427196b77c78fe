"""One trip to CVAT and back: plan, upload, collect.

A plan is made before anything is written anywhere. An upload walks each task through the steps of
:data:`~labelprop_cvat.backend.ledger.STEPS` and writes every step down before it begins the next, so that a killed one
goes on where it stopped. Collecting reads finished jobs only and changes nothing until FiftyOne has merged the labels.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

import cv2
import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.backend.cvat import CVATClient, Job, LabelMap, UploadFile
from labelprop_cvat.backend.keyframes import Finish, labels_at
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    JobRecord,
    LabelRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SegmentRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.schema import INDEX_ATTRIBUTE, FieldSchema
from labelprop_cvat.backend.shapes import (
    DrawnObject,
    Placed,
    fingerprint,
    read_annotations,
    update_label,
    write_annotations,
)
from labelprop_cvat.backend.tracks import Claim, KnownIdentity, resolve_identities, visible_frames
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

Save = Callable[[], None]

_JPEG_QUALITY = 95
_FINISHED_STAGE = "acceptance"


# --- plan ----------------------------------------------------------------------------------------------------------


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
    schema: FieldSchema,
    *,
    url: str,
    name: str,
    segment_size: int | None = None,
    task_size: int | None = None,
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

    Raises:
        DataError: no sequence has an exemplar
    """
    ledger = Ledger(url=url)
    tasks: list[TaskRecord] = []
    limit = min((size for size in (segment_size, task_size) if size), default=None)
    for sequence, segments in planned:
        record = _sequence_record(samples, sequence, segments, schema)
        ledger.sequences[record.key] = record
        jobs = [
            JobRecord(segment=number, positions=list(part))
            for number, segment in enumerate(segments)
            for part in _parts(segment.exemplars, limit)
        ]
        for number, group in enumerate(_task_groups(jobs, task_size)):
            suffix = "" if number == 0 else f" part {number + 1}"
            tasks.append(
                TaskRecord(
                    sequence=record.key,
                    name=f"{name} {sequence.name}{suffix}".strip(),
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


def _sequence_record(
    samples: fo.core.collections.SampleCollection,
    sequence: FrameSequence,
    segments: Sequence[PlannedSegment],
    schema: FieldSchema,
) -> SequenceRecord:
    is_video = sequence.media_type == "video"
    record = SequenceRecord(
        key=sequence.key,
        name=sequence.name,
        media_type=sequence.media_type,
        size=list(sequence.size),
        sample_ids=[sequence.frames[0].sample_id] if is_video else [ref.sample_id for ref in sequence.frames],
        frame_numbers=[int(ref.frame_number or 0) for ref in sequence.frames] if is_video else [],
        segments=[SegmentRecord(s.start, s.stop, s.label, list(s.exemplars)) for s in segments],
    )
    indices = _indices_in_field(samples, record, schema.label_field)
    sent = {
        label.index
        for labels in labels_at(samples, record, schema.label_field, _exemplars(record)).values()
        for label in labels
        if label.index is not None
    }
    record.reserved = sorted(indices - sent)
    record.next_index = 1 + max([0, *indices])
    return record


def _exemplars(record: SequenceRecord) -> list[int]:
    return [position for segment in record.segments for position in segment.exemplars]


def _indices_in_field(
    samples: fo.core.collections.SampleCollection, record: SequenceRecord, label_field: str
) -> set[int]:
    dataset = samples._root_dataset
    if dataset.get_field(label_field) is None:
        return set()
    return {int(i) for i in dataset.select(record.sample_ids).distinct(f"{label_field}.detections.index")}


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
    names = [PurePath(sequence.filepaths[position]).name for position in positions]
    if len({name.lower() for name in names}) == len(names):
        return names
    return [f"{position:06d}_{name}" for position, name in zip(positions, names, strict=True)]


# --- upload --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UploadOptions:
    """How tasks are made in CVAT; the names are those of FiftyOne's CVAT backend."""

    image_quality: int = 75
    use_cache: bool = True
    use_zip_chunks: bool = True
    chunk_size: int | None = None
    task_assignees: tuple[str, ...] = ()
    job_assignees: tuple[str, ...] = ()
    issue_trackers: tuple[str, ...] = ()
    project_id: int | None = None


def upload_round(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    sequences: Mapping[str, FrameSequence],
    ledger: Ledger,
    schema: FieldSchema,
    options: UploadOptions,
    save: Save,
    progress: bool | None = None,
) -> None:
    """Brings every task that is not in CVAT yet there. May be called again after any failure.

    Args:
        client: connection to the server
        samples: the collection that the run was made on; its labels go along
        sequences: the sequences of the ledger by key
        ledger: changed as the upload goes on
        schema: what the run annotates
        options: how tasks are made
        save: writes the ledger down; called after every step
        progress: whether to show a progress bar; None asks FiftyOne's configuration
    """
    assignees = {name: client.find_user(name).id for name in {*options.task_assignees, *options.job_assignees}}
    tasks = list(ledger.tasks())
    total = sum(len(task.positions()) for task in tasks)
    with fo.ProgressBar(total=total, progress=progress, iters_str="frames") as bar:
        for number, task in enumerate(tasks):
            sequence = sequences[task.sequence]
            if task.step == "planned":
                _create_task(client, task, number, schema, options, assignees)
                save()
            if task.step == "created":
                _upload_frames(client, task, sequence, options)
                task.step = "uploaded"
                save()
            if task.step == "uploaded":
                _upload_labels(client, samples, task, ledger.sequences[task.sequence], schema)
                _assign_jobs(client, task, options, assignees)
                task.step = "ready"
                save()
            bar.update(len(task.positions()))


def _create_task(
    client: CVATClient,
    task: TaskRecord,
    number: int,
    schema: FieldSchema,
    options: UploadOptions,
    assignees: Mapping[str, int],
) -> None:
    assignee = _cycled(options.task_assignees, number)
    created = client.create_task(
        task.name,
        None if options.project_id is not None else schema.labels(),
        project_id=options.project_id,
        assignee_id=assignees[assignee] if assignee else None,
        bug_tracker=_cycled(options.issue_trackers, number),
        marker=task.marker,
    )
    task.id = created.id
    task.step = "created"


def _cycled(values: Sequence[str], number: int) -> str | None:
    return values[number % len(values)] if values else None


@contextmanager
def _files(task: TaskRecord, sequence: FrameSequence) -> Iterator[list[UploadFile]]:
    positions = task.positions()
    if sequence.media_type != "video":
        yield [
            UploadFile(name, Path(sequence.filepaths[position]))
            for name, position in zip(task.file_names, positions, strict=True)
        ]
        return
    with tempfile.TemporaryDirectory(prefix="labelprop-") as folder:
        files = []
        for name, position in zip(task.file_names, positions, strict=True):
            path = Path(folder) / name
            frame = sequence.source[position]
            cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            files.append(UploadFile(name, path))
        yield files


def _upload_frames(client: CVATClient, task: TaskRecord, sequence: FrameSequence, options: UploadOptions) -> None:
    names = iter(task.file_names)
    with _files(task, sequence) as files:
        client.upload_images(
            _task_id(task),
            files,
            jobs=[[next(names) for _ in job.positions] for job in task.jobs],
            image_quality=options.image_quality,
            use_cache=options.use_cache,
            use_zip_chunks=options.use_zip_chunks,
            chunk_size=options.chunk_size,
        )


def _task_id(task: TaskRecord) -> int:
    if task.id is None:
        raise DataError(f"The upload of the task {task.name!r} was interrupted before CVAT gave it a number.")
    return task.id


def _upload_labels(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    task: TaskRecord,
    record: SequenceRecord,
    schema: FieldSchema,
) -> None:
    labels = LabelMap(client.labels(_task_id(task)))
    task.labels = {
        name: LabelRecord(
            labels.label(name).id,
            {
                attribute: labels.label(name).attribute(attribute).id
                for attribute in (INDEX_ATTRIBUTE, *(a.name for a in schema.attributes_of(name)))
            },
        )
        for name in schema.classes
    }
    _match_jobs(task, client.jobs(_task_id(task)))
    existing = labels_at(samples, record, schema.label_field, task.positions())
    for job in task.jobs:
        placed = _placed(existing, job, record, schema)
        if not placed:
            continue
        frames = range(job.start_frame, job.start_frame + len(job.positions))
        body = write_annotations(placed, frames, task.labels, schema, _size(record))
        there, _ = read_annotations(client.annotations(job_id=job.id), task.labels, schema)
        missing = _without(body, {drawn.index for drawn in there})
        if any(missing.values()):
            client.create_annotations(missing, job_id=job.id)
            there, _ = read_annotations(client.annotations(job_id=job.id), task.labels, schema)
        _remember(task, job, there, placed)


def _match_jobs(task: TaskRecord, jobs: Sequence[Job]) -> None:
    found = [len(job.frames) for job in jobs]
    expected = [len(job.positions) for job in task.jobs]
    if found != expected:
        raise DataError(
            f"CVAT made jobs of {found} frames in task {task.id}, expected {expected}. Delete the task and try again."
        )
    for record, job in zip(task.jobs, jobs, strict=True):
        record.id, record.start_frame, record.stage, record.state = job.id, job.start_frame, job.stage, job.state


def _size(record: SequenceRecord) -> tuple[int, int]:
    return record.size[0], record.size[1]


def _of_type(label: fo.Detection, schema: FieldSchema) -> bool:
    has_mask = label.mask is not None or label.mask_path is not None
    return has_mask is (schema.shape_type == "mask")


def _placed(
    existing: Mapping[int, Sequence[fo.Detection]], job: JobRecord, record: SequenceRecord, schema: FieldSchema
) -> list[Placed]:
    """The labels of a job's frames, each with an index; the same ones after an interruption."""
    placed: list[Placed] = []
    known = {label_id: int(key.split(":")[0]) for key, label_id in record.label_ids.items()}
    for number, position in enumerate(job.positions):
        used: set[int] = set()
        for label in existing.get(position, ()):
            if not _of_type(label, schema):
                continue
            index = known.get(label.id) or label.index
            if index is None or index < 1 or (index in used and label.id not in known):
                if label.index is not None and label.index >= 1:
                    logger.warning(
                        "Two labels of field %r have index %d on frame %d of %s; the second goes by %d.",
                        schema.label_field,
                        label.index,
                        position,
                        record.name,
                        record.next_index,
                    )
                index, record.next_index = record.next_index, record.next_index + 1
            used.add(index)
            record.label_ids[f"{index}:{position}"] = label.id
            if label.instance is not None:
                record.instances.setdefault(str(index), str(label.instance.id))
            placed.append(
                Placed(frame=job.start_frame + number, index=index, label=label, tracked=label.index == index)
            )
    return placed


def _without(body: Mapping[str, Any], indices: Collection[int]) -> dict[str, Any]:
    """Leaves out what an interrupted upload brought to the server already. Objects of one index travel together."""
    if not indices:
        return dict(body)

    def is_new(entry: Mapping[str, Any]) -> bool:
        return int(entry["attributes"][0]["value"]) not in indices

    return {"tags": [], "shapes": [s for s in body["shapes"] if is_new(s)], "tracks": [t for t in body["tracks"] if is_new(t)]}


def _remember(task: TaskRecord, job: JobRecord, there: Sequence[DrawnObject], placed: Sequence[Placed]) -> None:
    """Notes what the server holds right after the upload: later changes are changes against this."""
    label_ids = {(item.index, item.frame): item.label.id for item in placed}
    for drawn in there:
        sightings = {
            str(_position(job, keyframe.frame)): SightingRecord(
                label_ids[drawn.index, keyframe.frame], fingerprint(drawn, keyframe)
            )
            for keyframe in drawn.keyframes
            if (drawn.index, keyframe.frame) in label_ids
        }
        task.objects[drawn.key] = ObjectRecord(index=drawn.index, claim=drawn.index, sightings=sightings)


def _position(job: JobRecord, frame: int) -> int | None:
    place = frame - job.start_frame
    position = job.positions[place] if 0 <= place < len(job.positions) else NO_POSITION
    return None if position == NO_POSITION else position


def _assign_jobs(
    client: CVATClient, task: TaskRecord, options: UploadOptions, assignees: Mapping[str, int]
) -> None:
    for number, job in enumerate(task.jobs):
        name = _cycled(options.job_assignees, number)
        if name and job.id is not None:
            client.update_job(job.id, assignee_id=assignees[name])
            job.assignee = name


# --- collect -------------------------------------------------------------------------------------------------------


@dataclass
class CollectedSequence:
    """What the finished jobs of one sequence hold.

    Attributes:
        labels: position -> label id -> the label as it shall be
        finishes: position -> label id -> what FiftyOne's merge does not carry over
        removed: position -> ids of labels that people deleted
        absences: segment number -> ``[index, position]`` where a person ended a track
        objects: task number -> key -> the object as settled now
    """

    labels: dict[int, dict[str, fo.Detection]] = field(default_factory=dict)
    finishes: dict[int, dict[str, Finish]] = field(default_factory=dict)
    removed: dict[int, set[str]] = field(default_factory=dict)
    absences: dict[int, list[list[int]]] = field(default_factory=dict)
    objects: dict[int, dict[str, ObjectRecord]] = field(default_factory=dict)
    label_ids: dict[str, str] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    next_index: int = 1


@dataclass
class Collected:
    """What one look at the server found; nothing of it is in the ledger until :func:`commit_collected`."""

    sequences: dict[str, CollectedSequence] = field(default_factory=dict)
    finished: list[tuple[TaskRecord, JobRecord, int]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Sight:
    """One object of a finished job, with the frames on which CVAT shows it."""

    task: int
    job: JobRecord
    drawn: DrawnObject
    visible: frozenset[int]


def refresh_jobs(client: CVATClient, ledger: Ledger, schema: FieldSchema) -> None:
    """Reads stage, state and assignee of every job, and checks that tasks and labels are what the ledger says.

    Raises:
        CVATRefusal: a task is gone
        DataError: a label was renamed or deleted, or the jobs of a task changed
    """
    for task in ledger.tasks():
        if task.step != "ready":
            continue
        _check_labels(client, task, schema)
        by_id = {job.id: job for job in client.jobs(_task_id(task))}
        for record in task.jobs:
            job = by_id.get(record.id or 0)
            if job is None:
                raise DataError(
                    f"Job {record.id} of task {task.id} ({task.name}) is gone from CVAT. Nothing was changed. Restore "
                    f"it, or call results.forget_task({task.id}) to go on without its task."
                )
            record.stage, record.state = job.stage, job.state
            record.assignee = job.assignee.username if job.assignee else None


def _check_labels(client: CVATClient, task: TaskRecord, schema: FieldSchema) -> None:
    names = {label.id: label.name for label in client.labels(_task_id(task))}
    for name, record in task.labels.items():
        if names.get(record.id) == name:
            continue
        now = f"is called {names[record.id]!r} now" if record.id in names else "is gone"
        raise DataError(
            f"The label {name!r} of task {task.id} ({task.name}) {now} in CVAT, so its objects can't be told apart any "
            f"more. Nothing was changed. Give the label its name back in CVAT, then load again."
        )


def is_finished(job: JobRecord, job_states: Collection[str]) -> bool:
    """Whether a job is collected: its state is among ``job_states``, or it was accepted."""
    return job.state in job_states or job.stage == _FINISHED_STAGE


def collect_round(
    client: CVATClient,
    dataset: fo.Dataset,
    ledger: Ledger,
    schema: FieldSchema,
    *,
    job_states: Collection[str],
    missing: str,
    progress: bool | None = None,
) -> Collected:
    """Reads all finished jobs.

    Args:
        client: connection to the server
        dataset: where the labels are
        ledger: read, not changed, but for the states of its jobs
        schema: what the run annotates
        job_states: states in which a job counts as finished
        missing: what an object that is missing on an exemplar means: ``"unknown"`` or ``"absent"``
        progress: whether to show a progress bar; None asks FiftyOne's configuration
    """
    refresh_jobs(client, ledger, schema)
    collected = Collected()
    sights: dict[str, list[_Sight]] = {key: [] for key in ledger.sequences}
    looked_at: dict[str, list[tuple[JobRecord, frozenset[int]]]] = {key: [] for key in ledger.sequences}
    finished = [
        (number, task, job)
        for number, task in enumerate(ledger.tasks())
        for job in task.jobs
        if task.step == "ready" and is_finished(job, job_states)
    ]
    with fo.ProgressBar(total=len(finished), progress=progress, iters_str="jobs") as bar:
        for number, task, job in finished:
            drawn, others = read_annotations(client.annotations(job_id=job.id), task.labels, schema)
            deleted = frozenset(client.data_meta(job_id=job.id).deleted_frames)
            collected.others.update(others)
            collected.finished.append((task, job, len(drawn)))
            sights[task.sequence] += [_sight(number, job, entry, deleted) for entry in drawn]
            positions = {_position(job, frame) for frame in deleted}
            looked_at[task.sequence].append((job, frozenset(p for p in job.positions if p not in positions and p != NO_POSITION)))
            bar.update()
    for key, jobs in looked_at.items():
        if jobs:
            collected.sequences[key] = _settle(
                dataset, ledger, ledger.sequences[key], schema, sights[key], jobs, missing
            )
    if collected.others:
        logger.warning(
            "Left alone in CVAT because the run annotates %s: %s.",
            schema.label_type,
            ", ".join(f"{count} x {kind}" for kind, count in sorted(collected.others.items())),
        )
    return collected


def _sight(task: int, job: JobRecord, drawn: DrawnObject, deleted: frozenset[int]) -> _Sight:
    frames = [job.start_frame + place for place in range(len(job.positions))]
    keyframes = [(keyframe.frame, keyframe.outside) for keyframe in drawn.keyframes]
    shown = visible_frames(keyframes, frames) if drawn.is_track else {k for k, outside in keyframes if not outside}
    positions = {_position(job, frame) for frame in shown if frame not in deleted}
    return _Sight(task, job, drawn, frozenset(p for p in positions if p is not None))


def _settle(
    dataset: fo.Dataset,
    ledger: Ledger,
    record: SequenceRecord,
    schema: FieldSchema,
    sights: Sequence[_Sight],
    jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    missing: str,
) -> CollectedSequence:
    positions = frozenset().union(*(kept for _, kept in jobs))
    known = {
        key: entry
        for task in ledger.tasks()
        if task.sequence == record.key
        for key, entry in task.objects.items()
    }
    ordered = sorted(sights, key=lambda sight: (sight.drawn.is_track, sight.drawn.server_id))
    indices = resolve_identities(
        [
            Claim(sight.drawn.key, order, sight.drawn.label, sight.drawn.index, sight.visible)
            for order, sight in enumerate(ordered)
        ],
        {key: KnownIdentity(entry.index, entry.claim) for key, entry in known.items()},
        reserved=record.reserved,
        next_index=record.next_index,
    )
    result = CollectedSequence(
        label_ids=dict(record.label_ids),
        instances=dict(record.instances),
        next_index=max([record.next_index, *(1 + index for index in indices.values())]),
    )
    existing = {
        label.id: label
        for labels in labels_at(dataset, record, schema.label_field, positions).values()
        for label in labels
    }
    used: set[str] = set()
    for sight in ordered:
        entry = _settle_object(
            sight, indices[sight.drawn.key], known.get(sight.drawn.key), record, schema, existing, positions, used, result
        )
        result.objects.setdefault(sight.task, {})[sight.drawn.key] = entry
    _find_removed(known.values(), record, positions, used, result)
    if missing == "absent":
        _add_missing(record, ordered, indices, jobs, result)
    return result


def _settle_object(
    sight: _Sight,
    index: int,
    before: ObjectRecord | None,
    record: SequenceRecord,
    schema: FieldSchema,
    existing: Mapping[str, fo.Detection],
    positions: Collection[int],
    used: set[str],
    result: CollectedSequence,
) -> ObjectRecord:
    entry = ObjectRecord(index=index, claim=sight.drawn.index)
    for keyframe in sight.drawn.keyframes:
        position = _position(sight.job, keyframe.frame)
        if position is None or position not in positions:
            continue
        if keyframe.outside:
            result.absences.setdefault(sight.job.segment, []).append([index, position])
            continue
        seen = before.sightings.get(str(position)) if before else None
        place = f"{index}:{position}"
        label_id = _label_id(seen, record.label_ids.get(place), used)
        print_now = fingerprint(sight.drawn, keyframe)
        label = existing.get(label_id)
        if label is None or seen is None or seen.label_id != label_id or seen.fingerprint != print_now:
            label = update_label(label, sight.drawn, keyframe, schema, _size(record))
            if label is None:
                logger.warning(
                    "Object %d (%s) covers nothing of frame %d of %s; it is left out there.",
                    index,
                    sight.drawn.label,
                    position,
                    record.name,
                )
                continue
            label.id = label_id
        used.add(label_id)
        entry.sightings[str(position)] = SightingRecord(label_id, print_now)
        result.label_ids[place] = label_id
        instance = result.instances.setdefault(str(index), _instance_id(label))
        label.index = index
        result.labels.setdefault(position, {})[label_id] = label
        result.finishes.setdefault(position, {})[label_id] = Finish(index=index, instance=instance)
    return entry


def _label_id(seen: SightingRecord | None, by_place: str | None, used: Collection[str]) -> str:
    for candidate in (seen.label_id if seen else None, by_place):
        if candidate is not None and candidate not in used:
            return candidate
    return str(ObjectId())


def _instance_id(label: fo.Detection) -> str:
    return str(label.instance.id) if label.instance is not None else str(ObjectId())


def _find_removed(
    known: Collection[ObjectRecord],
    record: SequenceRecord,
    positions: Collection[int],
    used: Collection[str],
    result: CollectedSequence,
) -> None:
    for entry in known:
        for place, seen in entry.sightings.items():
            if int(place) in positions and seen.label_id not in used:
                result.removed.setdefault(int(place), set()).add(seen.label_id)
    gone = {label_id for ids in result.removed.values() for label_id in ids}
    result.label_ids = {place: label_id for place, label_id in result.label_ids.items() if label_id not in gone}


def _add_missing(
    record: SequenceRecord,
    sights: Sequence[_Sight],
    indices: Mapping[str, int],
    jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    result: CollectedSequence,
) -> None:
    """An exemplar that does not show an object of its segment says that the object is not there."""
    for number in range(len(record.segments)):
        looked_at = frozenset().union(*(kept for job, kept in jobs if job.segment == number))
        visible: dict[int, set[int]] = {}
        for sight in sights:
            if sight.job.segment == number:
                visible.setdefault(indices[sight.drawn.key], set()).update(sight.visible)
        said = result.absences.setdefault(number, [])
        for index, seen in visible.items():
            said += [[index, position] for position in sorted(looked_at - seen) if [index, position] not in said]


def commit_collected(ledger: Ledger, collected: Collected) -> None:
    """Takes what was collected into the ledger, once FiftyOne has merged the labels."""
    tasks = list(ledger.tasks())
    for key, found in collected.sequences.items():
        record = ledger.sequences[key]
        record.label_ids = found.label_ids
        record.instances = found.instances
        record.next_index = found.next_index
        for number, objects in found.objects.items():
            tasks[number].objects.update(objects)
        jobs = [job for task, job, _ in collected.finished if task.sequence == key]
        looked_at = {str(position) for job in jobs for position in job.positions}
        alive = {object_key for objects in found.objects.values() for object_key in objects}
        for task in tasks:
            if task.sequence == key:
                for object_key, entry in list(task.objects.items()):
                    if object_key not in alive and looked_at.issuperset(entry.sightings):
                        del task.objects[object_key]
        for number in {job.segment for job in jobs}:
            record.segments[number].absences = sorted(found.absences.get(number, []))
    for _, job, count in collected.finished:
        job.collected, job.objects = True, count


def segment_is_collected(ledger: Ledger, key: str, number: int) -> bool:
    """Whether every job of a segment has been collected."""
    jobs = [job for task, job in ledger.jobs() if task.sequence == key and job.segment == number]
    return bool(jobs) and all(job.collected for job in jobs)


def check_project(client: CVATClient, project_id: int, schema: FieldSchema) -> None:
    """Checks that a project has the labels and attributes that the run needs.

    Raises:
        ConfigurationError: one is missing; the message names it
    """
    labels = {label.name: {a.name for a in label.attributes} for label in client.labels(project_id=project_id)}
    for name in schema.classes:
        wanted = [INDEX_ATTRIBUTE, *(attribute.name for attribute in schema.attributes_of(name))]
        lacking = [attribute for attribute in wanted if attribute not in labels.get(name, set())]
        if name not in labels or lacking:
            what = f"label {name!r}" if name not in labels else f"attribute {lacking[0]!r} of label {name!r}"
            raise ConfigurationError(
                f"CVAT project {project_id} has no {what}. Add it there ({INDEX_ATTRIBUTE!r} is an immutable number from "
                f"0), or let the run make a project of its own with project_name=."
            )


__all__ = [
    "Collected",
    "CollectedSequence",
    "PlannedSegment",
    "UploadOptions",
    "check_project",
    "collect_round",
    "commit_collected",
    "is_finished",
    "plan_exemplar_round",
    "refresh_jobs",
    "segment_is_collected",
    "upload_round",
]
