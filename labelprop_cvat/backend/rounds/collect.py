"""What people did in finished jobs, as labels of FiftyOne."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import fiftyone as fo

from labelprop_cvat.backend.cvat import Annotations, CVATClient, Label, LabelMissing, NotFound, unreadable
from labelprop_cvat.backend.keyframes import labels_at, propagated_schema
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    JobRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.rounds.corrections import (
    ANNOTATION_COUNTS,
    REVIEW_COUNTS,
    ReviewSettler,
    strongest,
    unite,
)
from labelprop_cvat.backend.rounds.found import (
    Collected,
    CollectedField,
    CollectedSequence,
    FinishedJob,
    Sight,
)
from labelprop_cvat.backend.rounds.objects import ObjectsSettler
from labelprop_cvat.backend.rounds.review import (
    FIX,
    REJECT,
    SATISFACTORY,
    UNREVIEWED,
    VERDICT,
    VERDICTS,
    own_names,
    plain,
)
from labelprop_cvat.backend.rounds.values import ValuesSettler
from labelprop_cvat.backend.schema import FieldSchema, RunSchema
from labelprop_cvat.backend.shapes import Drawings, DrawnObject, digest, read_annotations
from labelprop_cvat.backend.tracks import visible_frames
from labelprop_cvat.errors import DataError
from labelprop_cvat.progress import progress_bar

logger = logging.getLogger(__name__)

_FINISHED_STAGE = "acceptance"

# States of jobs that nobody opened, or that somebody works on.
_NEW, _BEGUN = "new", "in progress"


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
    """Checks that labels are called what they were; takes over their new ids where a task got all of them anew."""
    found = client.labels(task.server_id)
    names = {label.id: label.name for label in found}
    if task.labels and not any(record.id in names for record in task.labels.values()):
        _take_over_ids(task, found)
        return
    for name, record in task.labels.items():
        if names.get(record.id) == name:
            continue
        now = f"is called {names[record.id]!r} now" if record.id in names else "is gone"
        raise _label_lost(task, name, now)


def _label_lost(task: TaskRecord, name: str, now: str) -> DataError:
    return DataError(
        f"The label {name!r} of task {task.id} ({task.name}) {now} in CVAT, so its objects can't be told apart any "
        f"more. Nothing was changed. Give the label its name back in CVAT, then load again."
    )


def _take_over_ids(task: TaskRecord, found: Sequence[Label]) -> None:
    """Labels get new ids when their task is moved to a project; names and attributes stay."""
    labels = {label.name: label for label in found}
    renewed = {}
    for name, record in task.labels.items():
        label = labels.get(name)
        if label is None:
            raise _label_lost(task, name, "is gone")
        try:
            attributes = {attribute: label.attribute(attribute).id for attribute in record.attributes}
        except LabelMissing as error:
            raise DataError(
                f"Task {task.id} ({task.name}) got other labels in CVAT. Nothing was changed. {error}"
            ) from None
        nodes = {node.name: node.id for node in label.sublabels}
        if not set(record.nodes) <= set(nodes):
            raise _label_lost(task, name, "has lost points of its skeleton")
        renewed[name] = replace(record, id=label.id, attributes=attributes, nodes={n: nodes[n] for n in record.nodes})
    task.labels.update(renewed)
    logger.info("The labels of task %s (%s) have new ids in CVAT; they are known by their names.", task.id, task.name)


def is_finished(stage: str, state: str, job_states: Collection[str], job_stages: Collection[str]) -> bool:
    """Whether a job is collected: its stage is among ``job_stages``, and its state among ``job_states`` or accepted."""
    return stage in job_stages and (state in job_states or stage == _FINISHED_STAGE)


def finishing_states(
    ledger: Ledger, round_: RoundRecord, task: TaskRecord, job_states: Collection[str]
) -> frozenset[str]:
    """The states in which a job of a task counts as finished.

    A review that nobody began says nothing. Runs over tasks of others take those in whatever state they are; in tasks
    that the run made itself, people still have to finish.

    Args:
        ledger: the run
        round_: the round of the task
        task: one of its tasks
        job_states: those that the run was asked to take
    """
    states = frozenset(job_states)
    if not task.adopted and _NEW in states and any(other.adopted for other in ledger.tasks()):
        return states - {_NEW, _BEGUN}
    return states - {_NEW} if round_.is_review else states


def collect_round(
    client: CVATClient,
    dataset: fo.Dataset,
    ledger: Ledger,
    schema: RunSchema,
    *,
    job_states: Collection[str],
    job_stages: Collection[str],
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
        job_stages: stages in which it does
        missing: what an object that is missing on an exemplar means: ``"unknown"`` or ``"absent"``
        progress: whether to show a progress bar; None asks FiftyOne's configuration
    """
    refresh_jobs(client, ledger)
    collected = Collected()
    sights: dict[str, list[Sight]] = {key: [] for key in ledger.sequences}
    unexpected: dict[str, list[Sight]] = {key: [] for key in ledger.sequences}
    looked_at: dict[str, list[tuple[JobRecord, frozenset[int]]]] = {key: [] for key in ledger.sequences}
    rounds = {id(task): round_ for round_ in ledger.rounds for task in round_.tasks}
    reviewed: dict[int, list[_ReviewedJob]] = {}
    finished = [
        (number, task, job)
        for number, task in enumerate(ledger.tasks())
        for job in task.jobs
        if task.step == "ready"
        and is_finished(job.stage, job.state, finishing_states(ledger, rounds[id(task)], task, job_states), job_stages)
    ]
    with progress_bar(len(finished), progress=progress, what="jobs") as bar:
        for number, task, job in finished:
            found = read_annotations(_readable(client, task, job), task.labels, schema)
            deleted = frozenset(client.data_meta(job_id=job.id).deleted_frames)
            collected.others.update(found.others)
            gone = sorted(p for frame in deleted if (p := job.position_of(frame)) is not None)
            if rounds[id(task)].is_review:
                seen = _reviewed(client, number, task, job, found, deleted, gone, schema)
                reviewed.setdefault(rounds[id(task)].number, []).append(seen)
                collected.finished.append(seen.done)
                bar.update()
                continue
            collected.finished.append(FinishedJob(task, job, len(found.objects), digest(found.everything), gone))
            sights[task.sequence] += [_sight(number, job, entry, deleted) for entry in found.objects]
            unexpected[task.sequence] += [_sight(number, job, entry, deleted) for entry in found.unexpected]
            looked_at[task.sequence].append((job, frozenset(job.positions) - {NO_POSITION, *gone}))
            bar.update()
    for key, jobs in looked_at.items():
        if not jobs:
            continue
        record = ledger.sequences[key]
        is_reviewed = any(task.sequence == key for round_ in ledger.reviews() for task in round_.tasks)
        positions = frozenset().union(*(kept for _, kept in jobs))
        settled = collected.sequences[key] = CollectedSequence(looked_at=positions, unexpected=unexpected[key])
        for field in schema:
            own = [sight for sight in sights[key] if sight.drawn.label_field == field.label_field]
            known = {
                name: entry
                for task in ledger.tasks()
                if task.sequence == key and not rounds[id(task)].is_review
                for name, entry in task.objects.items()
                if entry.label_field == field.label_field
            }
            settled.fields[field.label_field] = _settle(
                dataset, record, field, own, known, jobs, missing, settled, ANNOTATION_COUNTS if is_reviewed else None
            )
    for number in sorted(reviewed):
        tasks = next(round_.tasks for round_ in ledger.rounds if round_.number == number)
        _settle_review(dataset, ledger, collected, number, tasks, reviewed[number], schema)
    if collected.others:
        logger.warning(
            "Left alone in CVAT because no field of the run holds such shapes: %s.",
            ", ".join(f"{count} x {kind}" for kind, count in sorted(collected.others.items())),
        )
    return collected


@dataclass(frozen=True)
class _ReviewedJob:
    """One finished review job as it was read.

    Args:
        done: what is noted of it
        number: of its task in the ledger
        sights: its objects, without what reviews added to them
        verdicts: what they carry by key
        deleted: the frames of the task that people deleted
        unexpected: shapes of a kind that the field of their class does not hold
    """

    done: FinishedJob
    number: int
    sights: list[Sight]
    verdicts: dict[str, str]
    deleted: frozenset[int]
    unexpected: list[Sight]

    @property
    def kept(self) -> frozenset[int]:
        """The positions of the job that people did not delete."""
        return frozenset(self.done.job.positions) - {NO_POSITION, *self.done.deleted}


def _reviewed(
    client: CVATClient,
    number: int,
    task: TaskRecord,
    job: JobRecord,
    found: Drawings,
    deleted: frozenset[int],
    gone: list[int],
    schema: RunSchema,
) -> _ReviewedJob:
    own = [drawn for drawn in found.objects if schema[drawn.label_field].kind.is_propagated]
    resolved: frozenset[int] = frozenset()
    if job.issues and job.id is not None:
        resolved = frozenset(issue.id for issue in client.issues(job.id) if issue.resolved)
    stripped = [plain(schema, drawn) for drawn in own]
    return _ReviewedJob(
        FinishedJob(task, job, len(own), digest(stripped), gone, is_review=True, resolved=resolved),
        number,
        [_sight(number, job, drawn, deleted) for drawn in stripped],
        {drawn.key: _verdict_of(schema, drawn) for drawn in own},
        deleted,
        [_sight(number, job, plain(schema, drawn), deleted) for drawn in found.unexpected],
    )


def _verdict_of(schema: RunSchema, drawn: DrawnObject) -> str:
    # A class may have an attribute of that name with a meaning of its own.
    verdict = drawn.attributes.get(VERDICT, UNREVIEWED) if VERDICT in own_names(schema, drawn) else UNREVIEWED
    return verdict if verdict in VERDICTS else UNREVIEWED


def _settle_review(
    dataset: fo.Dataset,
    ledger: Ledger,
    collected: Collected,
    number: int,
    tasks: Sequence[TaskRecord],
    reviewed: Sequence[_ReviewedJob],
    schema: RunSchema,
) -> None:
    """Settles what reviewers did in one round, over what was collected of annotation jobs and earlier reviews."""
    for key in dict.fromkeys(entry.done.task.sequence for entry in reviewed):
        record = ledger.sequences[key]
        own = [entry for entry in reviewed if entry.done.task.sequence == key]
        found = collected.sequences.setdefault(key, CollectedSequence())
        for entry in schema:
            if entry.label_field not in found.fields:
                found.fields[entry.label_field] = _nothing_new(record, entry)
        for reviewed_job in own:
            found.unexpected += reviewed_job.unexpected
            _tell_of_unexpected(reviewed_job)
        changed = [entry for entry in own if _has_news(entry)]
        if not changed:
            continue
        positions = frozenset().union(*(entry.kept for entry in changed))
        unexpected = {sight.drawn.key for entry in changed for sight in entry.unexpected}
        for reviewed_job in changed:
            kept = {name: known for name, known in reviewed_job.done.task.objects.items() if name in unexpected}
            found.objects.setdefault(reviewed_job.number, {}).update(kept)
        for field in schema.propagated:
            settled = found.fields[field.label_field]
            known = {
                name: entry
                for task in tasks
                if task.sequence == key
                for name, entry in task.objects.items()
                if entry.label_field == field.label_field
                # What cannot be of its field any more was not deleted.
                and name not in unexpected
                and any(int(place) in positions for place in entry.sightings)
            }
            settler = ReviewSettler(
                # As it will be once the rest is merged.
                _with_identities(record, field.label_field, settled),
                field.declared_in(dataset),
                _renumbered(known, settled.places),
                {
                    position: {label.id: label for label in labels}
                    for position, labels in labels_at(dataset, record, field, positions).items()
                },
                positions,
                _propagated_at(dataset, record, field, changed, positions),
                settled.labels,
                counts_as=REVIEW_COUNTS,
            )
            objects = settler.settle_review(
                [s for entry in changed for s in entry.sights if s.drawn.label_field == field.label_field],
                [(entry.done.job, entry.kept) for entry in changed],
                {name: verdict for entry in changed for name, verdict in entry.verdicts.items()},
            )
            for task, name, settled_object in objects:
                found.objects.setdefault(task, {})[name] = settled_object
            result = settler.result
            result.reviews = [(number, finding) for _, finding in result.reviews]
            _note_confirmed(field, result, changed, is_first=field is schema.propagated[0])
            unite(settled, result)


def _renumbered(known: Mapping[str, ObjectRecord], places: Mapping[str, str]) -> dict[str, ObjectRecord]:
    """The objects of a review, with the numbers that people gave all of their labels elsewhere since they were sent."""
    numbers: dict[int, set[int]] = {}
    for entry in known.values():
        for seen in entry.sightings.values():
            if seen.label_id in places:
                numbers.setdefault(entry.index, set()).add(int(places[seen.label_id].split(":")[0]))
    given = {index: found.pop() for index, found in numbers.items() if len(found) == 1}
    return {name: replace(entry, index=given.get(entry.index, entry.index)) for name, entry in known.items()}


def _tell_of_unexpected(entry: _ReviewedJob) -> None:
    """Says what people drew, or made of what went along, that the field of its class does not hold."""
    for sight in entry.unexpected:
        known = entry.done.task.objects.get(sight.drawn.key)
        left = f" Its labels in {known.label_field!r} stay as they were." if known is not None else ""
        logger.warning(
            "The %s in review job %s is a %s, which %r does not hold.%s Give it another class in CVAT, or draw what "
            "that field holds.",
            f"{sight.drawn.label} ({sight.drawn.key.replace(':', ' ')})",
            entry.done.job.id,
            sight.drawn.keyframes[0].shape_type,
            sight.drawn.label_field,
            left,
        )


def _has_news(entry: _ReviewedJob) -> bool:
    """Whether somebody did something in a review job since it was last collected."""
    done, job = entry.done, entry.done.job
    if not job.collected or done.digest != job.digest or done.deleted != job.deleted:
        return True
    if any(issue.id in done.resolved and not issue.resolved for issue in job.issues):
        return True
    said: dict[str, dict[str, list[str]]] = {}
    for sight in entry.sights:
        known = entry.done.task.objects.get(sight.drawn.key)
        index = sight.drawn.index if known is None else known.index
        by_index = said.setdefault(sight.drawn.label_field, {})
        by_index.setdefault(str(index), []).append(entry.verdicts[sight.drawn.key])
    return any(
        strongest(found) != job.verdicts.get(name, {}).get(index, UNREVIEWED)
        for name, by_index in said.items()
        for index, found in by_index.items()
    )


def _nothing_new(record: SequenceRecord, schema: FieldSchema) -> CollectedField:
    identities = record.identities(schema.label_field)
    return CollectedField(
        label_ids=dict(identities.label_ids),
        places={label_id: place for place, label_id in identities.label_ids.items()},
        instances=dict(identities.instances),
        next_index=identities.next_index,
    )


def _with_identities(record: SequenceRecord, label_field: str, settled: CollectedField) -> SequenceRecord:
    identities = replace(
        record.identities(label_field),
        label_ids=settled.label_ids,
        instances=settled.instances,
        next_index=max(settled.next_index, record.identities(label_field).next_index),
    )
    return replace(record, fields={**record.fields, label_field: identities})


def _propagated_at(
    dataset: fo.Dataset,
    record: SequenceRecord,
    schema: FieldSchema,
    reviewed: Sequence[_ReviewedJob],
    positions: Collection[int],
) -> dict[int, dict[int, fo.Label]]:
    """The propagated labels that people saw, by position and index; read only where something was deleted."""
    source = reviewed[0].done.task.offers.get(schema.label_field)
    there = {sight.drawn.key for entry in reviewed for sight in entry.sights}
    known = {key for entry in reviewed for key in entry.done.task.objects}
    if source is None or known <= there:
        return {}
    found = labels_at(dataset, record, propagated_schema(schema, source), positions)
    return {p: {label.index: label for label in labels if label.index is not None} for p, labels in found.items()}


def _note_confirmed(
    schema: FieldSchema,
    result: CollectedField,
    reviewed: Sequence[_ReviewedJob],
    *,
    is_first: bool,
) -> None:
    """Notes which propagated labels people found right: of satisfactory objects, and where they closed an issue.

    Only on frames that they saw. Frames that they deleted are counted with the first field.
    """
    for _, finding in result.reviews:
        job = finding.job
        entry = next(entry for entry in reviewed if entry.done.job is job)
        done, seen = entry.done, sorted(entry.kept)
        before = job.verdicts.get(schema.label_field, {})
        for index, verdict in finding.verdicts.items():
            if verdict != before.get(str(index), UNREVIEWED):
                finding.edits["verdicts"] += 1
            if verdict == SATISFACTORY and index not in finding.touched:
                finding.confirmed += _stretches(index, seen)
        for issue in job.issues:
            if issue.label_field == schema.label_field and issue.id in done.resolved and not issue.resolved:
                finding.edits["issues resolved"] += 1
                about = [position for position in seen if issue.start <= position < issue.stop]
                finding.confirmed += _stretches(issue.index, about)
        if done.deleted != job.deleted and is_first:
            finding.edits["frames deleted"] += len(set(done.deleted) - set(job.deleted))


def _stretches(index: int, positions: Sequence[int]) -> list[list[int]]:
    """``[index, start, stop]`` of runs of ascending positions."""
    found: list[list[int]] = []
    for position in positions:
        if found and found[-1][2] == position:
            found[-1][2] = position + 1
        else:
            found.append([index, position, position + 1])
    return found


def _readable(client: CVATClient, task: TaskRecord, job: JobRecord) -> Annotations:
    """Reads a job's annotations without those that are none, which scripts can leave in CVAT.

    Raises:
        DataError: such a one is known to the run: leaving it out would delete its labels
    """
    answer = client.annotations(job_id=job.id)
    broken: dict[str, set[int]] = {}
    for kind, item, problem in unreadable(answer):
        name = f"{kind[:-1]} {item.get('id') if isinstance(item, Mapping) else ''}".strip()
        if name.replace(" ", ":") in task.objects:
            raise DataError(
                f"CVAT's {name} in job {job.id} of task {task.id} cannot be read any more. {problem} Nothing was "
                f"changed. Mend or delete it in CVAT, then load again."
            )
        logger.warning("Left alone in CVAT: %s of job %s. %s", name, job.id, problem)
        broken.setdefault(kind, set()).add(id(item))
    return {
        **answer,
        **{kind: [item for item in answer[kind] if id(item) not in found] for kind, found in broken.items()},
    }


def _sight(task: int, job: JobRecord, drawn: DrawnObject, deleted: frozenset[int]) -> Sight:
    frames = [job.start_frame + place for place in range(len(job.positions))]
    keyframes = [(keyframe.frame, keyframe.outside) for keyframe in drawn.keyframes]
    shown = visible_frames(keyframes, frames) if drawn.is_track else {k for k, outside in keyframes if not outside}
    positions = {job.position_of(frame) for frame in shown if frame not in deleted}
    return Sight(task, job, drawn, frozenset(p for p in positions if p is not None))


def _settle(
    dataset: fo.Dataset,
    record: SequenceRecord,
    schema: FieldSchema,
    sights: Sequence[Sight],
    known: Mapping[str, ObjectRecord],
    jobs: Sequence[tuple[JobRecord, frozenset[int]]],
    missing: str,
    sequence: CollectedSequence,
    counts_as: str | None,
) -> CollectedField:
    schema = schema.declared_in(dataset)
    existing = labels_at(dataset, record, schema, sequence.looked_at)
    if schema.kind.has_index:
        by_id = {position: {label.id: label for label in labels} for position, labels in existing.items()}
        settler = ObjectsSettler(record, schema, known, by_id, sequence.looked_at, counts_as=counts_as)
        settled, result = settler.settle(sights, jobs, missing), settler.result
    else:
        declared = dataset.get_field(schema.label_field)
        values = ValuesSettler(record, schema, known, existing, sequence.looked_at, declared)
        settled, result = values.settle(sights), values.result
    for task, key, entry in settled:
        sequence.objects.setdefault(task, {})[key] = entry
    return result


def reserve_identities(ledger: Ledger, collected: Collected) -> None:
    """Notes which ids labels and objects will have, before FiftyOne merges them.

    A process that is killed between the merge and :func:`commit_collected` then finds its own labels again, instead of
    adding them a second time.
    """
    tasks = list(ledger.tasks())
    for key, found in collected.sequences.items():
        for label_field, settled in found.fields.items():
            identities = ledger.sequences[key].identities(label_field)
            identities.label_ids = {**identities.label_ids, **settled.label_ids}
            identities.instances = settled.instances
            identities.next_index = max(identities.next_index, settled.next_index)
        for number, objects in found.objects.items():
            for object_key, entry in objects.items():
                tasks[number].objects.setdefault(object_key, replace(entry, sightings={}))


def commit_collected(
    ledger: Ledger, collected: Collected, schema: FieldSchema, *, own_field: bool, keep_removed: bool
) -> None:
    """Takes what was collected of one field into the ledger, once FiftyOne has merged its labels.

    Args:
        ledger: changed
        collected: what was found
        schema: what the run annotates in the field
        own_field: whether the labels were merged into the run's own field. Otherwise that field still has to learn of
            the changes, so they stay changes
        keep_removed: whether labels that were deleted in CVAT stay in FiftyOne
    """
    tasks = list(ledger.tasks())
    for key, found in collected.sequences.items():
        record = ledger.sequences[key]
        identities = record.identities(schema.label_field)
        settled = found.fields[schema.label_field]
        own = [done for done in collected.finished if done.task.sequence == key]
        jobs = [done.job for done in own if not done.is_review]
        if schema.kind.has_index:
            positions = [position for job in jobs for position in job.positions]
            for number in {job.segment for job in jobs} | record.segments_with(positions):
                fill = record.segments[number].fill(schema.label_field)
                fill.absences = sorted(settled.absences.get(number, []))
                # Where labels may not be deleted, no object ends before them.
                fill.ended = [] if keep_removed else sorted(settled.ended.get(number, []))
            identities.next_index = max(identities.next_index, settled.next_index)
            identities.instances = settled.instances
        if not own_field:
            continue
        identities.label_ids = {**(identities.label_ids if keep_removed else {}), **settled.label_ids}
        _commit_reviews(ledger, record, schema.label_field, settled)
        held = {
            number: {name: entry for name, entry in objects.items() if entry.label_field == schema.label_field}
            for number, objects in found.objects.items()
        }
        for number, objects in held.items():
            for object_key, entry in objects.items():
                before = tasks[number].objects.get(object_key)
                if before is not None and before.label_field != schema.label_field:
                    # It got a class of this field in CVAT. The other field has still to lose it.
                    tasks[number].objects[f"moved:{object_key}"] = before
                tasks[number].objects[object_key] = entry
        if settled.reviews:
            _renumber(ledger, key, schema.label_field, settled)
        alive = {object_key for objects in held.values() for object_key in objects}
        reviewed = {id(finding.job) for _, finding in settled.reviews}
        rounds = {id(task): round_ for round_ in ledger.rounds for task in round_.tasks}
        for task in tasks:
            if task.sequence != key:
                continue
            # The jobs of a review hold the frames of annotation jobs too, and what those hold is not in them.
            is_review = rounds[id(task)].is_review
            looked_at = {
                str(position)
                for done in own
                if done.is_review is is_review and (not is_review or (done.task is task and id(done.job) in reviewed))
                for position in done.job.positions
            }
            for object_key, entry in list(task.objects.items()):
                is_own = entry.label_field == schema.label_field and object_key not in alive
                if is_own and looked_at.issuperset(entry.sightings):
                    del task.objects[object_key]


def _renumber(ledger: Ledger, key: str, label_field: str, settled: CollectedField) -> None:
    """Gives objects of annotation jobs the number that reviewers gave all of their labels."""
    for round_ in ledger.rounds:
        for task in round_.tasks:
            if round_.is_review or task.sequence != key:
                continue
            for entry in task.objects.values():
                if entry.label_field != label_field:
                    continue
                places = {settled.places.get(seen.label_id, "") for seen in entry.sightings.values() if seen.label_id}
                numbers = {place.split(":")[0] for place in places}
                if len(numbers) == 1 and (number := numbers.pop()) not in ("", str(entry.index)):
                    entry.index = int(number)


def _commit_reviews(ledger: Ledger, record: SequenceRecord, label_field: str, settled: CollectedField) -> None:
    """Takes what reviewers said of one field into the ledger."""
    rounds = {round_.number: round_ for round_ in ledger.rounds}
    for number, finding in settled.reviews:
        job = finding.job
        segment = record.segments[job.segment]
        fill = segment.fill(label_field)
        inside = range(segment.start, segment.stop)
        said = {(index, position) for index, position in fill.said_absent}
        said -= {(index, position) for index, position in finding.shown}
        said |= {(index, position) for index, position in finding.hidden if position in inside}
        fill.said_absent = [[index, position] for index, position in sorted(said)]
        # What was said before, in this job or with what went along, is not said again by leaving it.
        before = job.verdicts.get(label_field, {})
        news = {i: verdict for i, verdict in finding.verdicts.items() if verdict != before.get(str(i), UNREVIEWED)}
        # What another look changed has to be looked at again.
        satisfied = set(fill.satisfied) - finding.touched
        rejected, vouched = set(fill.rejected), set(fill.vouched) - finding.touched
        for index, verdict in news.items():
            (vouched.add if verdict == SATISFACTORY and index in finding.touched else vouched.discard)(index)
            (satisfied.add if verdict == SATISFACTORY else satisfied.discard)(index)
            (rejected.add if verdict == REJECT else rejected.discard)(index)
        fill.satisfied, fill.rejected, fill.vouched = sorted(satisfied), sorted(rejected), sorted(vouched)
        job.verdicts[label_field] = {str(index): verdict for index, verdict in sorted(finding.verdicts.items())}
        job.confirmed[label_field] = [*job.confirmed.get(label_field, []), *finding.confirmed]
        edits = Counter(rounds[number].edits) + finding.edits
        rounds[number].edits = dict(sorted(edits.items()))
        asked = {index for index, verdict in news.items() if verdict == FIX}
        job.asked[label_field] = sorted((asked | {*job.asked.get(label_field, ())}) - finding.touched)
        if asked - finding.touched:
            # Somebody has to mend what a reviewer only marked.
            fill.reviewed = None


def commit_jobs(collected: Collected, *, reviews: bool = True) -> None:
    """Notes which jobs were collected, when all their fields are merged.

    Args:
        collected: what was found
        reviews: whether what was said in reviews was taken into the ledger
    """
    for done in collected.finished:
        if done.is_review and not reviews:
            continue
        done.job.collected, done.job.objects = True, done.objects
        done.job.digest, done.job.deleted = done.digest, done.deleted
        for issue in done.job.issues:
            issue.resolved = issue.resolved or issue.id in done.resolved


def has_new_work(
    client: CVATClient,
    task: TaskRecord,
    schema: RunSchema,
    *,
    is_review: bool = False,
    satisfied: Collection[tuple[str, int]] = (),
) -> bool:
    """Whether somebody drew, changed or said something in a task that was not loaded yet.

    Args:
        client: connection to the server
        task: the task
        schema: what the run annotates
        is_review: whether people review in it
        satisfied: label field and index of objects that were found right in earlier reviews
    """
    for job in task.jobs:
        if job.id is None:
            continue
        try:
            found = read_annotations(client.annotations(job_id=job.id), task.labels, schema)
        except NotFound:
            continue
        there = [plain(schema, drawn) for drawn in found.objects] if is_review else found.everything
        if digest(there) != (job.digest or digest([])):
            return True
        for drawn in found.objects if is_review else ():
            known = task.objects.get(drawn.key)
            index = drawn.index if known is None else known.index
            before = {UNREVIEWED, job.verdicts.get(drawn.label_field, {}).get(str(index), UNREVIEWED)}
            before |= {SATISFACTORY} if (drawn.label_field, index) in satisfied else set()
            if _verdict_of(schema, drawn) not in before:
                return True
    return False


def segment_is_collected(ledger: Ledger, key: str, number: int) -> bool:
    """Whether every job of a segment has been collected that the first round with frames of it has.

    What people still do in later rounds adds to that; nothing waits for it.
    """
    segment = ledger.sequences[key].segments[number]
    inside = range(segment.start, segment.stop)
    for round_ in ledger.rounds:
        if round_.is_review:
            continue
        jobs = [
            job
            for task in round_.tasks
            if task.sequence == key
            for job in task.jobs
            if job.segment == number or (task.adopted and any(position in inside for position in job.positions))
        ]
        if jobs:
            return all(job.collected for job in jobs)
    return False
