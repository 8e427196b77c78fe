"""What people did in finished jobs, as labels of FiftyOne."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
from bson import ObjectId

from labelprop_cvat.backend.cvat import CVATClient, NotFound
from labelprop_cvat.backend.keyframes import Finish, labels_at
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    JobRecord,
    Ledger,
    ObjectRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.backend.shapes import (
    DrawnObject,
    attribute_texts,
    digest,
    fingerprint,
    read_annotations,
    update_label,
)
from labelprop_cvat.backend.tracks import Claim, KnownIdentity, resolve_identities, visible_frames
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import instance_id

logger = logging.getLogger(__name__)

_FINISHED_STAGE = "acceptance"


@dataclass
class CollectedSequence:
    """What the finished jobs of one sequence hold.

    Attributes:
        labels: position -> label id -> the label as it shall be
        finishes: position -> label id -> what FiftyOne's merge does not carry over
        removed: position -> ids of labels that people deleted
        absences: segment number -> ``[index, position]`` where a person ended a track
        objects: task number -> key -> the object as settled now
        looked_at: positions of the finished jobs' frames
        label_ids: the sequence record's, brought up to date
        places: the same the other way round
    """

    labels: dict[int, dict[str, fo.Detection]] = field(default_factory=dict)
    finishes: dict[int, dict[str, Finish]] = field(default_factory=dict)
    removed: dict[int, set[str]] = field(default_factory=dict)
    absences: dict[int, list[list[int]]] = field(default_factory=dict)
    objects: dict[int, dict[str, ObjectRecord]] = field(default_factory=dict)
    looked_at: frozenset[int] = frozenset()
    label_ids: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    next_index: int = 1


@dataclass(frozen=True)
class FinishedJob:
    """One finished job as it was read."""

    task: TaskRecord
    job: JobRecord
    objects: int
    digest: str
    deleted: list[int]


@dataclass
class Collected:
    """What one look at the server found; nothing of it is in the ledger until :func:`commit_collected`."""

    sequences: dict[str, CollectedSequence] = field(default_factory=dict)
    finished: list[FinishedJob] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Sight:
    """One object of a finished job, with the frames on which CVAT shows it."""

    task: int
    job: JobRecord
    drawn: DrawnObject
    visible: frozenset[int]


def refresh_jobs(client: CVATClient, ledger: Ledger) -> None:
    """Reads stage, state and assignee of every job, and checks that tasks and labels are what the ledger says.

    Raises:
        DataError: a task or job is gone, or a label was renamed or deleted
    """
    for task in ledger.tasks():
        if task.step != "ready":
            continue
        try:
            _check_labels(client, task)
        except NotFound as error:
            raise DataError(
                f"Task {task.id} ({task.name}) is gone from CVAT, or hidden from this login. Nothing was changed. Call "
                f"dataset.load_annotation_results(...).forget_task({task.id}) to go on without it."
            ) from error
        by_id = {job.id: job for job in client.jobs(task.server_id)}
        for record in task.jobs:
            job = by_id.get(record.id or 0)
            if job is None:
                raise DataError(
                    f"Job {record.id} of task {task.id} ({task.name}) is gone from CVAT. Nothing was changed. Restore "
                    f"it, or call results.forget_task({task.id}) to go on without its task."
                )
            record.stage, record.state = job.stage, job.state
            record.assignee = job.assignee.username if job.assignee else None


def _check_labels(client: CVATClient, task: TaskRecord) -> None:
    names = {label.id: label.name for label in client.labels(task.server_id)}
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
    refresh_jobs(client, ledger)
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
            gone = sorted(p for frame in deleted if (p := job.position_of(frame)) is not None)
            collected.finished.append(FinishedJob(task, job, len(drawn), digest(drawn), gone))
            sights[task.sequence] += [_sight(number, job, entry, deleted) for entry in drawn]
            looked_at[task.sequence].append((job, frozenset(job.positions) - {NO_POSITION, *gone}))
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
    positions = {job.position_of(frame) for frame in shown if frame not in deleted}
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
        key: entry for task in ledger.tasks() if task.sequence == record.key for key, entry in task.objects.items()
    }
    ordered = sorted(sights, key=lambda sight: (sight.drawn.is_track, sight.drawn.server_id))
    fixed = known if schema.restrictions.get("allow_index_edits") is False else {}
    indices = resolve_identities(
        [
            Claim(
                sight.drawn.key,
                order,
                sight.drawn.label,
                fixed[sight.drawn.key].claim if sight.drawn.key in fixed else sight.drawn.index,
                sight.visible,
            )
            for order, sight in enumerate(ordered)
        ],
        {key: KnownIdentity(entry.index, entry.claim) for key, entry in known.items()},
        reserved=record.reserved,
        next_index=record.next_index,
    )
    result = CollectedSequence(
        looked_at=positions,
        label_ids=dict(record.label_ids),
        places={label_id: place for place, label_id in record.label_ids.items()},
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
        key = sight.drawn.key
        result.objects.setdefault(sight.task, {})[key] = _settle_object(
            sight, indices[key], known.get(key), record, schema, existing, positions, used, result
        )
    _find_removed(known.values(), positions, used, result)
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
    claim = before.claim if before is not None and sight.drawn.index == 0 else sight.drawn.index
    entry = ObjectRecord(index=index, claim=claim)
    for keyframe in sight.drawn.keyframes:
        position = sight.job.position_of(keyframe.frame)
        if position is None or position not in positions:
            continue
        seen = before.sightings.get(str(position)) if before else None
        print_now = fingerprint(sight.drawn, keyframe)
        untouched = seen is not None and seen.fingerprint == print_now
        texts = attribute_texts(sight.drawn, keyframe)
        if keyframe.outside:
            if seen is not None and untouched and not seen.label_id:
                # Our own mark of where the labels of a track end; no person said anything.
                entry.sightings[str(position)] = seen
            else:
                result.absences.setdefault(sight.job.segment, []).append([index, position])
            continue
        place = f"{index}:{position}"
        label_id = _label_id(seen, record.label_ids.get(place), used, f"{sight.drawn.key}:{position}", sight.job)
        label = existing.get(label_id)
        if label is None and untouched and seen is not None and seen.label_id == label_id:
            # Deleted in FiftyOne since, and nobody touched it in CVAT.
            entry.sightings[str(position)] = seen
            used.add(label_id)
            continue
        shown = label.index if label is not None and untouched else None
        if label is None or not untouched or seen is None or seen.label_id != label_id:
            known_texts = seen.attributes if seen is not None else None
            label = update_label(label, sight.drawn, keyframe, schema, record.frame_size, known_texts)
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
        entry.sightings[str(position)] = SightingRecord(label_id, print_now, texts)
        left = result.places.get(label_id, place)
        if left != place and result.label_ids.get(left) == label_id:
            del result.label_ids[left]
        result.label_ids[place], result.places[label_id] = label_id, place
        own = instance_id(label)
        instance = own or result.instances.get(str(index)) or str(ObjectId())
        result.instances.setdefault(str(index), instance)
        in_field = record.own_index(index) if shown is None else shown
        label.index = in_field
        values = {name: label[name] for name in schema.properties if label.has_field(name)}
        result.labels.setdefault(position, {})[label_id] = label
        result.finishes.setdefault(position, {})[label_id] = Finish(in_field, instance, values)
    return entry


def _label_id(
    seen: SightingRecord | None, by_place: str | None, used: Collection[str], name: str, job: JobRecord
) -> str:
    for candidate in (seen.label_id if seen else None, by_place):
        if candidate and candidate not in used:
            return candidate
    # The same id on every look, so that two looks at once make one label.
    return hashlib.sha256(f"{job.id}:{name}".encode()).hexdigest()[:24]


def _find_removed(
    known: Collection[ObjectRecord],
    positions: Collection[int],
    used: Collection[str],
    result: CollectedSequence,
) -> None:
    for entry in known:
        for place, seen in entry.sightings.items():
            if int(place) in positions and seen.label_id and seen.label_id not in used:
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


def reserve_identities(ledger: Ledger, collected: Collected) -> None:
    """Notes which ids labels and objects will have, before FiftyOne merges them.

    A process that is killed between the merge and :func:`commit_collected` then finds its own labels again, instead of
    adding them a second time.
    """
    tasks = list(ledger.tasks())
    for key, found in collected.sequences.items():
        record = ledger.sequences[key]
        record.label_ids = {**record.label_ids, **found.label_ids}
        record.instances = found.instances
        record.next_index = found.next_index
        for number, objects in found.objects.items():
            for object_key, entry in objects.items():
                tasks[number].objects.setdefault(object_key, ObjectRecord(entry.index, entry.claim))


def commit_collected(ledger: Ledger, collected: Collected, *, own_field: bool, keep_removed: bool) -> None:
    """Takes what was collected into the ledger, once FiftyOne has merged the labels.

    Args:
        ledger: changed
        collected: what was found
        own_field: whether the labels were merged into the run's own field. Otherwise that field still has to learn of
            the changes, so they stay changes
        keep_removed: whether labels that were deleted in CVAT stay in FiftyOne
    """
    tasks = list(ledger.tasks())
    for key, found in collected.sequences.items():
        record = ledger.sequences[key]
        jobs = [done.job for done in collected.finished if done.task.sequence == key]
        for number in {job.segment for job in jobs}:
            record.segments[number].absences = sorted(found.absences.get(number, []))
        record.next_index = found.next_index
        record.instances = found.instances
        if not own_field:
            continue
        kept = record.label_ids if keep_removed else {}
        record.label_ids = {**kept, **found.label_ids}
        for number, objects in found.objects.items():
            tasks[number].objects.update(objects)
        looked_at = {str(position) for job in jobs for position in job.positions}
        alive = {object_key for objects in found.objects.values() for object_key in objects}
        for task in tasks:
            if task.sequence == key:
                for object_key, entry in list(task.objects.items()):
                    if object_key not in alive and looked_at.issuperset(entry.sightings):
                        del task.objects[object_key]
    for done in collected.finished:
        done.job.collected, done.job.objects = True, done.objects
        done.job.digest, done.job.deleted = done.digest, done.deleted


def has_new_work(client: CVATClient, task: TaskRecord, schema: FieldSchema) -> bool:
    """Whether somebody drew or changed something in a task that was not loaded yet."""
    for job in task.jobs:
        if job.id is None:
            continue
        try:
            drawn, _ = read_annotations(client.annotations(job_id=job.id), task.labels, schema)
        except NotFound:
            continue
        if digest(drawn) != (job.digest or digest([])):
            return True
    return False


def segment_is_collected(ledger: Ledger, key: str, number: int) -> bool:
    """Whether every job of a segment has been collected."""
    jobs = [job for task, job in ledger.jobs() if task.sequence == key and job.segment == number]
    return bool(jobs) and all(job.collected for job in jobs)
