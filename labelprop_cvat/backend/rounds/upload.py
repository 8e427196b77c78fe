"""Planned tasks on their way to CVAT, step by step."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo

from labelprop_cvat.backend.cvat import CVATClient, DataFailed, Job, LabelMap, LabelMissing, UploadFile
from labelprop_cvat.backend.keyframes import labels_at, propagated_schema
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
from labelprop_cvat.backend.rounds.plan import unique_file_names
from labelprop_cvat.backend.rounds.review import (
    VERDICT,
    VERDICTS,
    is_fit,
    plain,
    review_content,
    review_schema,
    tell_of_losses,
)
from labelprop_cvat.backend.schema import FieldSchema, RunSchema
from labelprop_cvat.backend.shapes import (
    DrawnObject,
    Origin,
    Placed,
    Written,
    attribute_texts,
    digest,
    fingerprint,
    is_of_type,
    is_sendable,
    read_annotations,
    shape_name,
    write_annotations,
)
from labelprop_cvat.errors import DataError
from labelprop_cvat.labels import instance_id
from labelprop_cvat.progress import progress_bar
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

Save = Callable[[], None]

#: The labels that people set, of the segment of a review job: by label field and position.
PeopleOf = Callable[[TaskRecord, JobRecord], Mapping[str, Mapping[int, Sequence[fo.Label]]]]

_JPEG_QUALITY = 95

#: The stage of CVAT's jobs in which people review.
REVIEW_STAGE = "validation"

# A label that nobody numbered shows the same object as a propagated one where their boxes share so much.
_COVERS = 0.5

# Pixels by which the outline of a propagated mask may miss it, for a field of polygons.
_OUTLINE_TOLERANCE = 1


@dataclass(frozen=True)
class UploadOptions:
    """How tasks are made in CVAT; the names are those of FiftyOne's CVAT backend.

    ``job_reviewers`` get the jobs of reviews.
    """

    image_quality: int = 75
    use_cache: bool = True
    use_zip_chunks: bool = True
    chunk_size: int | None = None
    task_assignees: tuple[str, ...] = ()
    job_assignees: tuple[str, ...] = ()
    job_reviewers: tuple[str, ...] = ()
    issue_trackers: tuple[str, ...] = ()
    project_id: int | None = None


def upload_round(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    sequences: Mapping[str, FrameSequence],
    ledger: Ledger,
    schema: RunSchema,
    options: UploadOptions,
    save: Save,
    progress: bool | None = None,
    people_of: PeopleOf | None = None,
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
        people_of: the labels that people set in the segment of a job; needed for reviews
    """
    names = {*options.task_assignees, *options.job_assignees, *options.job_reviewers}
    assignees = {name: client.find_user(name).id for name in names}
    rounds = {id(task): round_ for round_ in ledger.rounds for task in round_.tasks}
    tasks = list(ledger.tasks())
    waiting = [task for task in tasks if task.step != "ready"]
    total = sum(len(task.positions()) for task in waiting)
    with progress_bar(total, progress=progress) as bar:
        for number, task in enumerate(tasks):
            if task.step == "ready":
                continue
            sequence, round_ = sequences[task.sequence], rounds[id(task)]
            shown = review_schema(schema, round_.options.get("review_as")) if round_.is_review else schema
            while task.step in ("planned", "created"):
                if task.step == "planned":
                    _create_task(client, task, number, shown, options, assignees)
                    save()
                if not task.video:
                    _upload_frames(client, task, sequence, options)
                elif not _upload_video(client, task, ledger.sequences[task.sequence], sequence, options):
                    # What is there stands in the way of images.
                    client.delete_task(task.server_id)
                    task.video, task.file_names = [], unique_file_names(sequence, task.positions())
                    task.id, task.step = None, "planned"
                    save()
                    continue
                task.step = "uploaded"
                save()
            if task.step == "uploaded":
                first = next(t for t in tasks if t.sequence == task.sequence)
                # Jobs are dealt out in turn, those of annotators and of reviewers each among themselves.
                alike = [t for t in tasks[:number] if rounds[id(t)].is_review is round_.is_review]
                before = sum(len(earlier.jobs) for earlier in alike)
                if round_.is_review:
                    people = people_of or _nobody
                    _upload_review(client, samples, ledger, task, schema, round_, save, people)
                    _hand_to_reviewers(client, task, before, options.job_reviewers, assignees)
                else:
                    record = ledger.sequences[task.sequence]
                    _upload_labels(client, samples, task, record, schema, save, task is first)
                    _assign_jobs(client, task, before, options.job_assignees, assignees)
                task.step = "ready"
                save()
            bar.update(len(task.positions()))


def _nobody(task: TaskRecord, job: JobRecord) -> Mapping[str, Mapping[int, Sequence[fo.Label]]]:
    return {}


def _create_task(
    client: CVATClient,
    task: TaskRecord,
    number: int,
    schema: RunSchema,
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


def _upload_video(
    client: CVATClient, task: TaskRecord, record: SequenceRecord, sequence: FrameSequence, options: UploadOptions
) -> bool:
    """Sends a part of the video itself.

    Returns:
        whether CVAT sees the frames in it that FiftyOne does; otherwise images of them must be sent
    """
    first, last = task.video
    path = Path(sequence.filepaths[0])
    expected = len(task.positions())
    try:
        found = client.upload_video(
            task.server_id,
            path,
            start_frame=first,
            stop_frame=last,
            image_quality=options.image_quality,
            use_cache=options.use_cache,
            use_zip_chunks=options.use_zip_chunks,
            chunk_size=options.chunk_size,
        )
        sizes = {(frame.height, frame.width) for frame in client.data_meta(task_id=task.server_id).frames}
    except DataFailed as error:
        logger.warning("CVAT cannot use the video %s, so images of its frames are sent. %s", path.name, error)
        return False
    if found == expected and sizes == {record.size_at(0)}:
        return True
    logger.warning(
        "CVAT sees %d frames in the part %d..%d of the video %s (%s pixels), where there are %d of %s; images of them "
        "are sent instead.",
        found,
        first,
        last,
        path.name,
        ", ".join(f"{width}x{height}" for height, width in sizes),
        expected,
        "x".join(map(str, record.size_at(0)[::-1])),
    )
    return False


def _upload_frames(client: CVATClient, task: TaskRecord, sequence: FrameSequence, options: UploadOptions) -> None:
    names = iter(task.file_names)
    with _files(task, sequence) as files:
        client.upload_images(
            task.server_id,
            files,
            jobs=[[next(names) for _ in job.positions] for job in task.jobs],
            image_quality=options.image_quality,
            use_cache=options.use_cache,
            use_zip_chunks=options.use_zip_chunks,
            chunk_size=options.chunk_size,
        )


def _upload_labels(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    task: TaskRecord,
    record: SequenceRecord,
    schema: RunSchema,
    save: Save,
    is_first: bool,
) -> None:
    task.labels = task_labels(client, task.server_id, schema)
    _match_jobs(task, client.jobs(task.server_id))
    positions = [position for position in task.positions() if position != NO_POSITION]
    existing = {field.label_field: labels_at(samples, record, field, positions) for field in schema}
    for job in task.jobs:
        if job.sent:
            continue
        holds_whole = is_first and job is task.jobs[0]
        placed = [
            item for field in schema for item in _placed(existing[field.label_field], job, record, field, holds_whole)
        ]
        offered = [item for field in schema for item in _offered(samples, task, job, record, field, placed)]
        cut_off = job.sending
        if (placed or offered) and not cut_off:
            job.offered = {}
            for item in offered:
                at = job.position_of(item.frame)
                job.offered.setdefault(item.schema.label_field, []).append([item.index, -1 if at is None else at])
            job.sending = True
            save()
        _send_labels(client, task, job, [*placed, *offered], schema, cut_off, {item.label.id for item in offered})
        job.sent = True
        save()


def task_labels(client: CVATClient, task_id: int, schema: RunSchema) -> dict[str, LabelRecord]:
    """The labels of a task that the run needs, by their name in CVAT.

    Raises:
        LabelMissing: one is not there
    """
    labels = LabelMap(client.labels(task_id))
    found = {}
    for spec in schema.labels():
        label = labels.label(spec.name)
        held = {attribute.name: attribute.id for attribute in label.attributes}
        nodes = {sub.name: sub.id for sub in label.sublabels}
        if missing := [sub.name for sub in spec.sublabels if sub.name not in nodes]:
            raise LabelMissing(
                f'The skeleton "{spec.name}" of task {task_id} has no point "{missing[0]}"; it has '
                f"{', '.join(nodes) or 'none'}. Give the skeleton in CVAT the points of the dataset's skeleton."
            )
        found[spec.name] = LabelRecord(
            label.id,
            {a.name: held[a.name] for a in spec.attributes if a.name in held},
            {sub.name: nodes[sub.name] for sub in spec.sublabels},
        )
    return found


def _send_labels(
    client: CVATClient,
    task: TaskRecord,
    job: JobRecord,
    placed: Sequence[Placed],
    schema: RunSchema,
    cut_off: bool,
    offered: Collection[str],
) -> None:
    """Brings a job's labels to CVAT and notes what the server holds then: later changes are changes against this.

    Those with the ids ``offered`` are no labels of the run's fields yet.
    """
    frames = range(job.start_frame, job.start_frame + len(job.positions))
    written = write_annotations(placed, frames, task.labels)
    for entries in written.origins.values():
        entries[:] = [_without(origin, offered) for origin in entries]
    _send_written(client, task, job, written, schema, cut_off)


def _send_written(
    client: CVATClient,
    task: TaskRecord,
    job: JobRecord,
    written: Written,
    schema: RunSchema,
    cut_off: bool,
    *,
    is_review: bool = False,
) -> None:
    """Brings the content of a job to CVAT, and notes what the server holds then."""

    def read(annotations: Mapping[str, Any]) -> list[DrawnObject]:
        found = read_annotations(annotations, task.labels, schema).objects
        return [plain(schema, drawn) for drawn in found] if is_review else found

    if cut_off:
        there = read(client.annotations(job_id=job.id))
        numbered, origins = _with_made_up_ids(written.body), {}
        for kind, entries in written.origins.items():
            origins.update({f"{kind[:-1]}:{-n}": origin for n, origin in enumerate(entries, start=1)})
        expected = read(numbered)
        if _arrived(there, expected):
            _link(task, job, there, expected, origins)
            return
    mine: dict[str, Origin] = {}
    if any(written.body[kind] for kind in written.origins):
        created = client.create_annotations(written.body, job_id=job.id, resume=True)
        for kind, entries in written.origins.items():
            for entry, origin in zip(created[kind], entries, strict=True):
                mine[f"{kind[:-1]}:{entry['id']}"] = origin
    sent = [drawn for drawn in read(client.annotations(job_id=job.id)) if drawn.key in mine]
    for drawn in sent:
        task.objects[drawn.key] = _object_record(drawn, job, mine[drawn.key])
    job.digest = digest(sent)


def _upload_review(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    ledger: Ledger,
    task: TaskRecord,
    schema: RunSchema,
    round_: RoundRecord,
    save: Save,
    people_of: PeopleOf,
) -> None:
    """Brings the propagated labels of a task's jobs to CVAT, and the doubts about them as issues."""
    review_as = round_.options.get("review_as")
    task.labels = task_labels(client, task.server_id, review_schema(schema, review_as))
    if not all(VERDICT in record.attributes for record in task.labels.values()):
        logger.warning(
            "The labels of task %d (%s) come from its project and have no attribute %r (a select of %s, not mutable), "
            "so reviewers cannot give verdicts there.",
            task.server_id,
            task.name,
            VERDICT,
            ", ".join(VERDICTS),
        )
    _match_jobs(task, client.jobs(task.server_id))
    for job in task.jobs:
        if not job.sent:
            people = people_of(task, job)
            content = review_content(samples._root_dataset, ledger, task, job, schema, review_as, people)
            cut_off = job.sending
            if any(content.written.body[kind] for kind in content.written.origins) and not cut_off:
                job.sending = True
                save()
            _send_written(client, task, job, content.written, schema, cut_off, is_review=True)
            tell_of_losses(content.losses, task.name)
            if content.unshown:
                logger.warning(
                    "%s: %d labels are not shown to reviewers, since they have no mask or outline, or cover nothing of "
                    "the frame. Boxes among masks are seen with review_as='polygons'.",
                    task.name,
                    content.unshown,
                )
            job.sent = True
            save()
        _raise_issues(client, job, ledger.sequences[task.sequence])
        save()


def _raise_issues(client: CVATClient, job: JobRecord, record: SequenceRecord) -> None:
    """Writes doubts into a job as issues at the place of their objects; those that are there stay."""
    waiting = [issue for issue in job.issues if issue.id is None and issue.position in job.positions]
    if not waiting or job.id is None:
        return
    there = {(issue.frame, issue.comments[0].message): issue.id for issue in client.issues(job.id) if issue.comments}
    for issue in waiting:
        frame = job.start_frame + job.positions.index(issue.position)
        if (known := there.get((frame, issue.message))) is None:
            place = _on_frame(issue.place, record.size_at(issue.position))
            known = client.create_issue(job.id, frame, place, issue.message).id
        issue.id = known


def _on_frame(place: Sequence[float], size: tuple[int, int]) -> list[float]:
    """The part of a box that is on the frame; the middle of the frame where there is none."""
    height, width = size
    left, top, right, bottom = place or (0.0, 0.0, 0.0, 0.0)
    left, top, right, bottom = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
    return [left, top, right, bottom] if left < right and top < bottom else [width / 2, height / 2]


def _hand_to_reviewers(
    client: CVATClient, task: TaskRecord, before: int, names: Sequence[str], assignees: Mapping[str, int]
) -> None:
    """Opens the jobs of a review for review, and deals them out."""
    for number, job in enumerate(task.jobs, start=before):
        name = _cycled(names, number)
        if job.id is None or (job.stage == REVIEW_STAGE and job.assignee == name):
            continue
        # A job that is at the stage already may be somebody's by now; setting it again would begin it anew.
        stage = None if job.stage == REVIEW_STAGE else REVIEW_STAGE
        client.update_job(job.id, stage=stage, assignee_id=assignees[name] if name else ...)
        job.stage, job.assignee = REVIEW_STAGE, name


def _without(origin: Origin, offered: Collection[str]) -> Origin:
    kept = {frame: label_id for frame, label_id in origin.label_ids.items() if label_id not in offered}
    return replace(origin, label_ids=kept)


def _object_record(sent: DrawnObject, job: JobRecord, origin: Origin) -> ObjectRecord:
    """What is known of an object that was sent: its identity, and the content that later looks compare with."""
    sightings = {
        str(job.position_of(keyframe.frame)): SightingRecord(
            origin.label_ids.get(keyframe.frame, ""),
            fingerprint(sent, keyframe),
            attribute_texts(sent, keyframe),
            shape_name(keyframe),
            keyframe.frame in origin.by_person,
            sent.label,
            keyframe.frame in origin.machine and not keyframe.outside,
        )
        for keyframe in sent.keyframes
    }
    return ObjectRecord(origin.label_field, origin.index, sent.index, origin.part, sightings)


def _with_made_up_ids(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        kind: [{**entry, "id": -number} for number, entry in enumerate(body[kind], start=1)]
        for kind in ("tags", "shapes", "tracks")
    }


def _place(drawn: DrawnObject) -> tuple[Any, ...]:
    """Class and geometry of an object: what stays the same when only its index is changed."""
    shapes = tuple((k.frame, k.outside, shape_name(k)) for k in drawn.keyframes)
    return drawn.label_field, drawn.label, drawn.key.split(":")[0], shapes


def _arrived(there: Sequence[DrawnObject], expected: Sequence[DrawnObject]) -> bool:
    """Whether labels of which nobody heard again reached CVAT: one that is there untouched tells."""
    found = {(drawn.index, _place(drawn)) for drawn in there}
    return any((sent.index, _place(sent)) in found for sent in expected)


def _link(
    task: TaskRecord,
    job: JobRecord,
    there: Sequence[DrawnObject],
    expected: Sequence[DrawnObject],
    origins: Mapping[str, Origin],
) -> None:
    """Finds again what was sent, changed by people or not. What is not there was deleted: nothing is sent twice."""
    left = {drawn.key: drawn for drawn in there}
    missing = list(expected)
    as_sent = sorted((d.index, _place(d)) for d in there) == sorted((d.index, _place(d)) for d in expected)
    for same in (_same_and_untouched, _same_index_and_frame, _same_place):
        for sent in list(missing):
            drawn = next((drawn for drawn in left.values() if same(drawn, sent)), None)
            if drawn is not None:
                task.objects[drawn.key] = _object_record(sent, job, origins[sent.key])
                del left[drawn.key]
                missing.remove(sent)
    for sent in missing:
        task.objects[f"gone:{job.id}:{sent.key}"] = _object_record(sent, job, origins[sent.key])
    job.digest = digest(there) if as_sent else ""


def _same_and_untouched(drawn: DrawnObject, sent: DrawnObject) -> bool:
    return drawn.index == sent.index and _place(drawn) == _place(sent)


def _same_index_and_frame(drawn: DrawnObject, sent: DrawnObject) -> bool:
    frames = {keyframe.frame for keyframe in drawn.keyframes} & {keyframe.frame for keyframe in sent.keyframes}
    is_alike = _place(drawn)[:3] == _place(sent)[:3] and drawn.index == sent.index
    return is_alike and drawn.index > 0 and bool(frames)


def _same_place(drawn: DrawnObject, sent: DrawnObject) -> bool:
    return _place(drawn) == _place(sent)


def _match_jobs(task: TaskRecord, jobs: Sequence[Job]) -> None:
    found = [len(job.frames) for job in jobs]
    expected = [len(job.positions) for job in task.jobs]
    if found != expected:
        raise DataError(
            f"CVAT made jobs of {found} frames in task {task.id}, expected {expected}. Delete the task and try again."
        )
    for record, job in zip(task.jobs, jobs, strict=True):
        record.id, record.start_frame, record.stage, record.state = job.id, job.start_frame, job.stage, job.state


def _placed(
    existing: Mapping[int, Sequence[Any]],
    job: JobRecord,
    record: SequenceRecord,
    schema: FieldSchema,
    holds_whole: bool,
) -> list[Placed]:
    """The labels of one field on a job's frames, objects with their number; the same ones after an interruption."""
    placed: list[Placed] = []
    if schema.is_per_sample(record.media_type):
        if holds_whole:
            size = record.size_at(job.positions[0])
            for label in existing.get(0, ()):
                if is_sendable(label, schema, size):
                    placed.append(Placed(job.start_frame, 0, label, schema, size))
        return placed
    identities = record.identities(schema.label_field)
    known = {label_id: int(key.split(":")[0]) for key, label_id in identities.label_ids.items()}
    for place, position in enumerate(job.positions):
        frame, size = job.start_frame + place, record.size_at(max(0, position))
        labels = [
            label
            for label in existing.get(position, ())
            if is_of_type(label, schema) and is_sendable(label, schema, size)
        ]
        if schema.kind.has_index:
            for label, index, tracked in _numbered(labels, position, record, schema, known):
                placed.append(Placed(frame, index, label, schema, size, tracked and not record.independent))
        else:
            placed += [Placed(frame, 0, label, schema, size) for label in labels]
    return _keyframes_only(placed, job) if schema.only_keyframes else placed


def _offered(
    samples: fo.core.collections.SampleCollection,
    task: TaskRecord,
    job: JobRecord,
    record: SequenceRecord,
    schema: FieldSchema,
    placed: Sequence[Placed],
) -> Iterator[Placed]:
    """The propagated labels of one field that go along to be corrected, but of objects that a frame shows already."""
    source = task.offers.get(schema.label_field)
    if source is None:
        return
    shown: dict[int, list[Placed]] = {}
    for item in placed:
        if item.schema.label_field == schema.label_field:
            shown.setdefault(item.frame, []).append(item)
    positions = [position for position in job.positions if position != NO_POSITION]
    found = labels_at(samples._root_dataset, record, propagated_schema(schema, source), positions)
    for place, position in enumerate(job.positions):
        frame, size = job.start_frame + place, record.size_at(max(0, position))
        left = list({label.index: label for label in found.get(position, ()) if is_fit(label, size)}.values())
        left = [label for label in left if not any(_is_same_object(label, item) for item in shown.get(frame, ()))]
        if schema.kind.single:
            # There is room for one.
            left = [] if frame in shown else sorted(left, key=lambda label: -(label.confidence or 0.0))[:1]
        for label in left:
            ready = _as_polygon(label) if schema.kind.shape == "polygon" else label
            if is_sendable(ready, schema, size):
                yield Placed(frame, int(label.index), ready, schema, size)


def _as_polygon(label: fo.Detection) -> fo.Polyline:
    """The outline of a propagated mask, for a field of polygons; under the id of the label."""
    outline = label.to_polyline(tolerance=_OUTLINE_TOLERANCE, filled=True)
    outline.id = label.id
    return outline


def _is_same_object(label: fo.Detection, item: Placed) -> bool:
    """Whether an existing label shows the object of a propagated one: by its number, or by class and place."""
    if item.index == label.index:
        return True
    other = item.label
    if other.label != label.label or not isinstance(other, fo.Detection):
        return False
    first, second = ((x, y, x + width, y + height) for x, y, width, height in (label.bounding_box, other.bounding_box))
    return box_iou(first, second) >= _COVERS


def _keyframes_only(placed: Sequence[Placed], job: JobRecord) -> list[Placed]:
    """Leaves it to CVAT to show labels that are no keyframes between those that are.

    It does so where the job holds every frame from an object's keyframe on; anything else is sent.
    """
    marked: dict[int, list[int]] = {}
    for item in placed:
        if item.tracked and _is_keyframe(item):
            marked.setdefault(item.index, []).append(item.frame)
    kept = []
    for item in placed:
        frames = marked.get(item.index, ()) if item.tracked and not _is_keyframe(item) else ()
        before = max((frame for frame in frames if frame < item.frame), default=None)
        after = min((frame for frame in frames if frame > item.frame), default=item.frame)
        kept.append(replace(item, keyframe=before is None or not _is_gapless(job, before, after)))
    return kept


def _is_keyframe(item: Placed) -> bool:
    return item.label.get_attribute_value("keyframe", None) is True


def _is_gapless(job: JobRecord, first: int, last: int) -> bool:
    start, stop = job.position_of(first), job.position_of(last)
    return start is not None and stop is not None and stop - start == last - first


def _numbered(
    labels: Sequence[fo.Label],
    position: int,
    record: SequenceRecord,
    schema: FieldSchema,
    known: Mapping[str, int],
) -> Iterator[tuple[fo.Label, int, bool]]:
    """The labels of a frame with the numbers of their objects, and whether these are their own."""
    identities = record.identities(schema.label_field)
    used: set[int] = set()
    for label in labels:
        index = known.get(label.id)
        named = None if label.index is None else identities.aliases.get(f"{label.index}:{label.label}", label.index)
        if index is None:
            index = named
        if index is None or index in used:
            if index is not None:
                logger.warning(
                    "Two labels of field %r have index %s on frame %d of %s; the second goes by %d.",
                    schema.label_field,
                    label.index,
                    position,
                    record.name,
                    identities.next_index,
                )
            index, identities.next_index = identities.next_index, identities.next_index + 1
        used.add(index)
        identities.label_ids[f"{index}:{position}"] = label.id
        if (instance := instance_id(label)) is not None:
            identities.instances.setdefault(str(index), instance)
        yield label, index, named == index


def _assign_jobs(
    client: CVATClient, task: TaskRecord, before: int, names: Sequence[str], assignees: Mapping[str, int]
) -> None:
    """Deals out the jobs of the run; ``before`` of them are in earlier tasks, which often have a single one each."""
    for number, job in enumerate(task.jobs, start=before):
        name = _cycled(names, number)
        if name and job.id is not None:
            client.update_job(job.id, assignee_id=assignees[name])
            job.assignee = name
