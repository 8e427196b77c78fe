"""The results of a labelprop run: its ledger in FiftyOne's database, and what can be done with it."""

from __future__ import annotations

import json
import logging
import webbrowser
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua
from gridfs.errors import NoFile

from labelprop_cvat.backend.api import LabelPropAPI
from labelprop_cvat.backend.calls import asked_to_load
from labelprop_cvat.backend.conflicts import keep_conflicts
from labelprop_cvat.backend.credentials import configured_verify, resolve_connection
from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.destinations import check_destinations
from labelprop_cvat.backend.effort import Counts, Effort, count_actions, efforts
from labelprop_cvat.backend.filling import Filled, Filling
from labelprop_cvat.backend.giving import Giving, united_ids
from labelprop_cvat.backend.history import History, history_of, mean_truth
from labelprop_cvat.backend.keyframes import finish_merge, merge_slices
from labelprop_cvat.backend.lease import Lease
from labelprop_cvat.backend.ledger import (
    JobRecord,
    Ledger,
    SegmentRecord,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.measuring import measure_propagated
from labelprop_cvat.backend.reviewing import Reviewing
from labelprop_cvat.backend.rounds import (
    Collected,
    UploadOptions,
    collect_round,
    commit_collected,
    commit_jobs,
    has_new_work,
    is_on_its_way,
    plan_next_round,
    reserve_identities,
    upload_round,
)
from labelprop_cvat.backend.rounds.review import checked_frames, checked_review_as, review_schema
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.backend.status import (
    GONE,
    checked_stages,
    checked_states,
    look,
    print_rows,
    status_rows,
    wait_for_jobs,
)
from labelprop_cvat.backend.suggesting import (
    DEFAULT_TARGET,
    SuggestedFrame,
    Suggestions,
    frames_by_sequence,
    suggest_frames,
)
from labelprop_cvat.errors import ConfigurationError, DataError, LabelPropError
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.sequences import FrameRef, every_sample, sequence_at
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

_READS = 5


def open_client(config: Any, organization: str | None) -> LabelPropAPI:
    """Connects to the server of a run with the credentials at hand.

    Args:
        config: the run's
        organization: short name of the organization to work in; None for none

    Raises:
        ConfigurationError: no address or no credentials are to be found
    """
    connection = resolve_connection(config.url, config.username, config.password, config.token, config.headers)
    verify = configured_verify() if config.verify is None else config.verify
    if verify is False:
        logger.warning(
            "verify=False: nobody checks that %s is who it says, so whoever is between you and it can read your login. "
            "Better give verify= the path of its CA certificate.",
            connection.url,
        )
    return LabelPropAPI(
        connection.url,
        connection.credentials,
        headers=connection.headers,
        organization=organization,
        verify=verify,
        timeout=(min(10.0, config.timeout), config.timeout),
    )


def upload(results: LabelPropResults, sequences: Mapping[str, FrameSequence] | None) -> None:
    """Brings a planned or interrupted first round to CVAT and writes down every step.

    Raises:
        RunInUse: another process is at it
    """
    with results.lease.held():
        _upload(results, sequences)


def _upload(results: LabelPropResults, sequences: Mapping[str, FrameSequence] | None) -> None:
    config = results.config
    results.forget_deleted_samples()
    ledger = results.ledger
    client = results.connect_to_api()
    schema = config.schema()
    is_review_waiting = any(task.step != "ready" for round_ in ledger.reviews() for task in round_.tasks)
    if config.project_name and ledger.project_id is None:
        labels = {label.name: label for label in schema.labels()}
        if config.review:
            # So that reviewers can give their verdicts; a task cannot add to what its project has.
            labels |= {label.name: label for label in review_schema(schema).labels()}
        project = client.create_project(config.project_name, list(labels.values()))
        ledger.project_id, ledger.created_project = project.id, True
        results.save()
    upload_round(
        client,
        results.samples,
        sequences or results.sequences(),
        ledger,
        schema,
        UploadOptions(
            image_quality=config.image_quality,
            use_cache=config.use_cache,
            use_zip_chunks=config.use_zip_chunks,
            chunk_size=config.chunk_size,
            task_assignees=tuple(config.task_assignee),
            job_assignees=tuple(config.job_assignees),
            job_reviewers=tuple(config.job_reviewers) if config.review or is_review_waiting else (),
            issue_trackers=tuple(config.issue_tracker),
            project_id=ledger.project_id,
        ),
        results.save,
        people_of=results.people_of,
    )


@dataclass(frozen=True)
class Loaded:
    """What a load came to.

    Args:
        jobs: all jobs of the run
        finished: those that are finished
        labels: labels that the finished ones hold
        filled: labels of the segments that were filled
        engine: what filled them; None where nothing was
        review_round: number of the round that went out for review; None where none did
        is_news: whether anything came home, was filled or went out that was not before
    """

    jobs: int
    finished: int
    labels: int
    filled: tuple[str, ...]
    engine: str | None
    review_round: int | None
    is_news: bool


class LabelPropResults(foua.AnnotationResults):
    """A run in progress: its rounds, tasks, jobs, frames and identities.

    Returned by ``view.annotate(...)`` and ``dataset.load_annotation_results(anno_key)``.

    Args:
        samples: the collection that was annotated
        config: the run's :class:`~labelprop_cvat.backend.labelprop.LabelPropBackendConfig`
        anno_key: the run's key
        id_map: FiftyOne's map of label ids, see :class:`fiftyone.utils.annotations.AnnotationResults`
        ledger: a serialized :class:`~labelprop_cvat.backend.ledger.Ledger`
        backend: the run's backend, made from the config when not given
    """

    def __init__(
        self,
        samples: fo.core.collections.SampleCollection,
        config: Any,
        anno_key: str,
        id_map: dict[str, Any],
        ledger: dict[str, Any],
        backend: Any = None,
    ) -> None:
        super().__init__(samples, config, anno_key, id_map, backend=backend)
        self.id_map: dict[str, Any] = id_map
        self._ledger = Ledger.from_dict(ledger, _first_field(config))
        # The tasks are on the server that they were sent to, whatever the settings name by now.
        config.url = config.url or self._ledger.url
        self._collected: Collected | None = None
        # What people did since the load before the one that is going on.
        self._counts = Counts()
        # Fields that FiftyOne has still to merge in the load that is going on.
        self._unmerged: list[str] = []
        # Where the labels of each field went in that load.
        self._destinations: dict[str, str] = {}
        self._full_id_map: dict[str, Any] = {}
        self._summary: str | None = None
        self._loaded: Loaded | None = None
        self._lease: Lease | None = None

    @property
    def summary(self) -> str | None:
        """What the last load of this process did, in a sentence; None before the first."""
        return self._summary

    @property
    def loaded(self) -> Loaded | None:
        """The same in numbers."""
        return self._loaded

    @property
    def ledger(self) -> Ledger:
        """What the run remembers."""
        return self._ledger

    def serialize(self, reflective: bool = False) -> dict[str, Any]:
        """The results as JSON values."""
        id_map = self.id_map if self._collected is None else self._full_id_map
        return {**super().serialize(reflective=reflective), "id_map": id_map, "ledger": self._ledger.to_dict()}

    @classmethod
    def _from_dict(
        cls, d: dict[str, Any], samples: fo.core.collections.SampleCollection, config: Any, anno_key: str
    ) -> LabelPropResults:
        return cls(samples, config, anno_key, d["id_map"], d["ledger"])

    @property
    def dataset(self) -> fo.Dataset:
        """The dataset of the run."""
        return self.samples._root_dataset

    @property
    def lease(self) -> Lease:
        """The right to work on this run; whoever changes it holds it."""
        if self._lease is None:
            self._lease = Lease(self.backend._get_run_doc(self.dataset, self.key).id, self.key)
        return self._lease

    def save(self) -> None:
        """Writes the ledger to the database."""
        self.backend.store_results(self.dataset, self.key, self)

    def refresh(self) -> None:
        """Takes over what another process, or another copy of these results, has written down since."""
        document = self.backend._get_run_doc(self.dataset, self.key)
        for attempt in range(_READS):
            document.reload("results")
            if not document.results:
                return
            try:
                stored = json.loads(document.results.fs.get(document.results.grid_id).read())
                break
            except NoFile:
                # Another process put a newer one in its place between the two reads.
                if attempt == _READS - 1:
                    raise
        self._ledger = Ledger.from_dict(stored["ledger"], _first_field(self.config))
        self.id_map = stored["id_map"]

    # --- sequences -------------------------------------------------------------------------------------------------

    def sequences(self) -> dict[str, FrameSequence]:
        """The run's sequences by key, as the dataset holds their media now."""
        return {key: self._sequence(record) for key, record in self._ledger.sequences.items()}

    def sequence(self, key: str) -> FrameSequence:
        """One of the run's sequences.

        Raises:
            KeyError: the run has none of this key
        """
        return self._sequence(self._ledger.sequences[key])

    def _sequence(self, record: SequenceRecord) -> FrameSequence:
        return sequence_at(
            self.dataset,
            key=record.key,
            name=record.name,
            media_type=record.media_type,
            sample_ids=record.sample_ids,
            frame_numbers=record.frame_numbers,
            media_field=self.config.media_field,
            uniform=not record.independent,
        )

    def forget_deleted_samples(self) -> None:
        """Samples that were deleted from the dataset since are no frames of the run any more."""
        there = set(every_sample(self.dataset).values("id"))
        for key, record in list(self._ledger.sequences.items()):
            gone = [position for position, sample_id in enumerate(record.sample_ids) if sample_id not in there]
            if not gone:
                continue
            logger.warning("%d samples of %s were deleted from the dataset; they are left out.", len(gone), record.name)
            if len(gone) == len(record.sample_ids):
                self._ledger.forget_sequence(key)
            else:
                self._ledger.forget_frames(key, gone)

    # --- the way back ----------------------------------------------------------------------------------------------

    def collect(self) -> dict[str, Any]:
        """Reads finished jobs, in the form that FiftyOne merges.

        Raises:
            CVATError: the server can't be reached, says no, or a task is gone; nothing was changed
            DataError: labels or jobs in CVAT are not what they were; nothing was changed
            ConfigurationError: ``dest_field`` names what the run has not; nothing was changed
            RunInUse: another process works on the run
        """
        self._use_given_login()
        try:
            check_destinations(self.dataset, self.config.schema())
            self.lease.take()
            try:
                annotations = self._collect()
            except BaseException:
                self.lease.give_back()
                raise
        except LabelPropError:
            # What was mistyped once must not stand in the way of the next call.
            if self.config.undo_login():
                self.use_api(None)
            raise
        self.config.keep_login()
        # FiftyOne merges now, and calls finish_load() at the end.
        self.lease.pause()
        return annotations

    def _use_given_login(self) -> None:
        """Takes the login that ``load_annotations()`` was given; FiftyOne drops it for results that are cached."""
        config = self.config
        before, given = config.login(), dict(asked_to_load("kwargs") or {})
        # FiftyOne's own, for loading the results.
        given.pop("cache", None)
        if not before.keys() & given.keys():
            config.keep_login()
        config.load_credentials(**given)
        if config.login() != before:
            self.use_api(None)

    def _asked_states(self) -> tuple[Sequence[str], Sequence[str]]:
        """In which states and stages jobs count as finished in the ``load_annotations()`` that is going on."""
        given = asked_to_load("kwargs") or {}
        states, stages = given.get("job_states"), given.get("job_stages")
        return (
            self.config.job_states if states is None else checked_states(states),
            self.config.job_stages if stages is None else checked_stages(stages),
        )

    def _collect(self) -> dict[str, Any]:
        self.refresh()
        if self._ledger.rounds and not self._ledger.uploaded:
            logger.info("The upload of run %r was interrupted; going on where it stopped.", self.key)
            upload(self, None)
        self.forget_deleted_samples()
        schema = self.config.schema()
        job_states, job_stages = self._asked_states()
        collected = collect_round(
            self.connect_to_api(),
            self.dataset,
            self._ledger,
            schema,
            job_states=job_states,
            job_stages=job_stages,
            missing=self.config.missing,
        )
        self._counts = count_actions(self.dataset, self._ledger, collected, schema, missing=self.config.missing)
        if not self._ledger.rounds:
            logger.warning("Run %r has nothing in CVAT any more; there is nothing to load.", self.key)
        else:
            self._tell_what_is_finished(collected)
        self._counts.note(self._ledger)
        reserve_identities(self._ledger, collected)
        self.save()
        self._collected = collected
        self._unmerged = [field.label_field for field in schema]
        self._full_id_map = self.id_map
        self._destinations = {}
        give = Giving(self.dataset, self._ledger, collected)
        self.id_map = give.ids_elsewhere(self.id_map, own={field.label_field for field in schema})
        annotations: dict[str, Any] = {}
        for field in schema:
            # Where the labels are already, what nobody changed needs no merge.
            destination = self._destination(field)
            is_home = destination == field.label_field
            labels, self.id_map[field.label_field] = give.field(field, destination, changed_only=is_home)
            annotations[field.label_field] = {field.kind.returns: labels}
        taken = {name for field in schema for name in (field.label_field, self._destination(field))}
        for label_field, by_type in give.unexpected(schema, taken, self.id_map).items():
            annotations[label_field].update(by_type)
        return annotations

    def _tell_what_is_finished(self, collected: Collected) -> None:
        states = Counter(job.state for _, job in self._ledger.jobs())
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if not collected.finished:
            logger.warning(
                "Nothing to load: none of the %d jobs of run %r is finished (%s). People set a job's state in CVAT "
                "when they are done; load_annotations(..., job_states=[...]) takes jobs in other states too.",
                states.total(),
                self.key,
                shown,
            )
        empty = [str(done.job.id) for done in collected.finished if not done.objects and not done.is_review]
        if empty:
            logger.warning("Nothing is drawn in the finished jobs %s of run %r.", ", ".join(empty), self.key)

    def _finalize_id_map(self) -> None:
        """FiftyOne maps the ids of clips and frames here; runs keep to the samples and frames of the dataset itself."""

    def _update_id_map(self, label_field: str, new_id_map: Any) -> None:
        """FiftyOne calls this when it has merged a field: the one moment between its merge and the next field's.

        ``label_field`` is the field that was merged into: the run's own, or the ``dest_field`` of the load.
        """
        super()._update_id_map(label_field, new_id_map)
        collected, schema = self._collected, self.config.schema()
        if collected is None:
            return
        merged = self.id_map.get(label_field, {})
        unmerged = [field for field in schema if field.label_field in self._unmerged]
        field = next((f for f in unmerged if self._destination(f) == label_field), None)
        if field is None:
            # Unexpected labels that went into a field of their own.
            self._full_id_map = united_ids(self._full_id_map, label_field, merged, set())
            return
        settled = {key: found.fields[field.label_field] for key, found in collected.sequences.items()}
        removed = {i for found in settled.values() for ids in found.removed.values() for i in ids}
        self._full_id_map = united_ids(self._full_id_map, label_field, merged, removed)
        is_home = label_field == field.label_field
        for key, found in settled.items():
            if is_home:
                keep_conflicts(self.dataset, self._ledger.sequences[key], field, found.conflicts)
            finishes = {
                position: {i: finish for i, finish in entries.items() if not (is_home and i in found.finished)}
                for position, entries in found.finishes.items()
            }
            finishes = {position: entries for position, entries in finishes.items() if entries}
            finish_merge(self.dataset, self._ledger.sequences[key], field, label_field, finishes)
        self._commit(field, label_field)

    def _destination(self, field: FieldSchema) -> str:
        """The field that a load brings a field's labels to."""
        asked = asked_to_load("dest_field")
        if isinstance(asked, Mapping):
            return str(asked.get(field.label_field, field.label_field))
        is_only = len(self.config.schema().fields) == 1
        return asked if isinstance(asked, str) and is_only else field.label_field

    def _commit(self, field: FieldSchema, destination: str) -> None:
        """Takes one field, merged into ``destination``, into the ledger; after the last one the frames are filled."""
        collected = self._collected
        if collected is None:
            return
        commit_collected(
            self._ledger,
            collected,
            field,
            own_field=destination == field.label_field,
            keep_removed=not field.allows("deletions"),
        )
        self._unmerged.remove(field.label_field)
        self._destinations[field.label_field] = destination
        if destination == field.label_field:
            # Elsewhere, the changes stay changes.
            self._counts.take(self._ledger, field.label_field)
        self.save()

    def finish_load(self) -> None:
        """What is left when FiftyOne has merged all fields: plain values are settled, and other frames are filled.

        FiftyOne saves the results at the end of every load, which is what calls this.
        """
        if self._collected is None:
            return
        try:
            with self.lease.held():
                self._finish_load(self._collected)
        finally:
            self.lease.give_back()

    def _finish_load(self, collected: Collected) -> None:
        schema = self.config.schema()
        for field in schema:
            if field.label_field in self._unmerged:
                destination = self._destination(field)
                for key, found in collected.sequences.items():
                    values = found.fields[field.label_field].values
                    merge_slices(self.dataset, self._ledger.sequences[key], field, destination, values)
                self._commit(field, destination)
        self._collected = None
        self.id_map, self._full_id_map = self._full_id_map, {}
        # What was propagated is still as it was when people got to see it.
        measure_propagated(self.dataset, self._ledger, collected, schema.propagated, self.config.outputs())
        fresh = {id(done.task) for done in collected.finished if not done.job.collected}
        is_home = all(self._destinations[field.label_field] == field.label_field for field in schema.propagated)
        commit_jobs(collected, reviews=is_home)
        self._counts.settle(self._ledger, reviews=is_home)
        self._ledger.loaded = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.save()
        labels = sum(
            len(ids)
            for found in collected.sequences.values()
            for settled in found.fields.values()
            for ids in (*settled.labels.values(), *([value] for value in settled.values.values()))
        )
        # Before they are filled anew: what comes of that, nobody saw.
        Reviewing(self).mark_confirmed()
        filled, engine = self._fill(
            {field.label_field: self._destinations[field.label_field] for field in schema.propagated}
        )
        self._note_truth({round_.number for round_ in self._ledger.rounds if any(id(t) in fresh for t in round_.tasks)})
        where = ", ".join(self.config.outputs().values()) or "no field"
        jobs = len(list(self._ledger.jobs()))
        hold = "job is finished and holds" if jobs == 1 else "jobs are finished and hold"
        were = "segment was" if len(filled) == 1 else "segments were"
        self._summary = (
            f"{len(collected.finished)} of {jobs} {hold} {labels} {'label' if labels == 1 else 'labels'}; "
            f"{len(filled)} {were} filled in {where}{f' by {engine}' if engine else ''}."
        )
        changed = any(self._counts.total(round_.number) != Actions() for round_ in self._ledger.rounds)
        self._loaded = Loaded(
            jobs=jobs,
            finished=len(collected.finished),
            labels=labels,
            filled=tuple(filled),
            engine=engine,
            review_round=None,
            is_news=bool(fresh or filled or changed),
        )
        if self.config.review and is_home:
            number = self._send_review(Reviewing(self).due())
            if number is not None:
                self._loaded = replace(self._loaded, review_round=number, is_news=True)
                self._summary += f" Round {number} went out for review."
            elif all(job.collected for _, job in self._ledger.jobs()):
                self._summary += " Nothing more goes out for review."
        logger.info("Run %r: %s", self.key, self._summary)

    def _note_truth(self, rounds: Collection[int]) -> None:
        """Notes how good the propagated labels are by ground truth after the first load of some rounds."""
        if not rounds or self.config.gt_field is None:
            return
        found = mean_truth(self)
        for round_ in self._ledger.rounds:
            if round_.number in rounds:
                round_.truth = found
        self.save()

    # --- propagation -----------------------------------------------------------------------------------------------

    def propagate(
        self,
        label_field: str | None = None,
        *,
        again: bool = False,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Fills every collected segment whose keyframes changed since it was last filled.

        Args:
            label_field: where the keyframes are; by default the run's own field
            again: fill all collected segments, changed or not
            engine: another engine than the run's own, this once
            engine_options: options of that engine, or over those of the run's own, this once

        Returns:
            the labels of the segments that were filled

        Raises:
            ConfigurationError: the engine is not to be had
            EngineError: it failed; the segments before are filled, the one that it names is as it was
        """
        with self.lease.held():
            self.config.fill_with(engine, engine_options)
            return self._propagate(label_field, again).segments

    def _propagate(self, label_field: str | None, again: bool) -> Filled:
        self.refresh()
        self.forget_deleted_samples()
        own = [field.label_field for field in self.config.schema().propagated]
        if label_field is None or label_field in own:
            return self._fill({name: name for name in own if label_field in (None, name)}, again=again)
        if len(own) != 1:
            raise DataError(f"Run {self.key!r} fills frames from {', '.join(own) or 'no field'}, got {label_field!r}.")
        return self._fill({own[0]: label_field}, again=again)

    def _fill(self, keyframes_in: Mapping[str, str], *, again: bool = False) -> Filled:
        """Fills segments, field by field; ``keyframes_in`` says where the keyframes of each are."""
        return self._filling(self._ledger.under_review()).run(keyframes_in, again=again)

    def _filling(self, held: Collection[tuple[str, int]] = ()) -> Filling:
        return Filling(self.dataset, self._ledger, self.config, self._sequence, self.save, frozenset(held))

    def people_of(self, task: TaskRecord, job: JobRecord) -> dict[str, dict[int, list[fo.Label]]]:
        """The labels that people set in the segment of a job, by label field and position, numbered as in the run."""
        record = self._ledger.sequences[task.sequence]
        return self.people_in(record, record.segments[job.segment])

    def people_in(self, record: SequenceRecord, segment: SegmentRecord) -> dict[str, dict[int, list[fo.Label]]]:
        """The same of a segment."""
        filling = self._filling()
        return {
            field.label_field: filling.steering_labels(record, segment, field, field.label_field)
            for field in self.config.schema().propagated
        }

    # --- review ----------------------------------------------------------------------------------------------------

    def request_review(
        self,
        segments: str | Iterable[str] | None = None,
        *,
        frames: str | None = None,
        review_as: str | None = None,
    ) -> int | None:
        """Sends propagated labels to CVAT to be reviewed, as the next round of this run: one job a temporal segment.

        The next loads bring back what reviewers changed, and fill anew what that touches. A segment that is under
        review is not filled anew before its review is loaded.

        Args:
            segments: labels of segments; by default all that are filled, are not under review, and were never reviewed
                or changed since
            frames: ``"all"``, ``"every:n"`` or ``"uncertain"``; by default as the run was asked for
            review_as: ``"polygons"`` sends masks as tracks of polygons, whose corners can be dragged and
                which are less exact; by default as the run was asked for

        Returns:
            the number of the round; None where there is nothing to review

        Raises:
            ConfigurationError: a value makes no sense, the run fills no frames, or no login is to be found
            DataError: a segment does not exist, is not filled yet, or is under review; nothing was changed
            CVATError: the server can't be reached or says no; the next load, or the next call, goes on with the upload
            RunInUse: another process is at it
        """
        if not self.config.outputs():
            raise ConfigurationError(
                f"Run {self.key!r} fills no frames, so there is nothing to review. Only fields of detections, "
                f"instances and polygons are propagated, by runs with an engine."
            )
        frames = None if frames is None else checked_frames(frames)
        with self.lease.held():
            self.refresh()
            self.forget_deleted_samples()
            self.connect_to_api()
            if self._ledger.rounds and not self._ledger.uploaded:
                cut_off = self._ledger.rounds[-1]
                _upload(self, None)
                if cut_off.is_review:
                    return cut_off.number
            return self._send_review(Reviewing(self).asked_for(segments), frames, checked_review_as(review_as))

    def _send_review(
        self, places: Sequence[tuple[str, int]], frames: str | None = None, review_as: str | None = None
    ) -> int | None:
        """Plans a round of review of some segments, and sends it."""
        if not places:
            return None
        round_ = Reviewing(self).planned(places, frames, review_as)
        self.save()
        if round_ is None:
            return None
        try:
            _upload(self, None)
        except LabelPropError:
            logger.warning(
                "What came back is in FiftyOne; only the review did not reach CVAT. The next load_annotations(), or "
                "results.request_review(), goes on with it."
            )
            raise
        return round_.number

    def history(self, effort: EffortModel | None = None) -> History:
        """What each round came to: frames seen, edits, minutes, verdicts, and J where ground truth is known.

        Args:
            effort: seconds for each kind of action; by default
                :class:`~labelprop_cvat.propagation.effort.EffortModel` as it comes
        """
        self.refresh()
        return history_of(self._ledger, effort, anno_key=str(self.key))

    # --- further rounds --------------------------------------------------------------------------------------------

    def suggest(
        self,
        budget: int = 5,
        *,
        target: float = DEFAULT_TARGET,
        least_gain: float | None = None,
        effort: EffortModel | None = None,
    ) -> Suggestions:
        """The frames that people should annotate next; see :func:`labelprop_cvat.workflow.suggest`."""
        return suggest_frames(self, budget=budget, target=target, least_gain=least_gain, effort=effort)

    def send_round(self, frames: Iterable[SuggestedFrame | FrameRef]) -> int:
        """Sends further frames to CVAT as the next round of this run, laid out as the first one.

        Propagated labels of those frames go along to be corrected, but of objects that the label field shows there
        already. A frame is annotated when its job is finished: what people left as it was counts as confirmed then,
        and what they took away is absent on that frame.

        Called with the frames of a round whose upload failed, it goes on with that one.

        Args:
            frames: frames of the run's sequences that it did not send yet

        Returns:
            the number of the round

        Raises:
            ConfigurationError: no login is to be found; nothing was changed
            DataError: there are none, or one is no frame of the run or was sent already; nothing was changed
            CVATError: the server can't be reached or says no; the next load, or the next call, goes on with the upload
            RunInUse: another process is at it
        """
        with self.lease.held():
            self.refresh()
            self.forget_deleted_samples()
            config = self.config
            if self.samples._is_frames or self.samples._is_clips:
                # Such a view is a copy, and the loads since it was made changed what it is of.
                self.samples.reload()
            # Without a login there is nothing to plan for.
            self.connect_to_api()
            chosen = frames_by_sequence(self._ledger, frames)
            cut_off = next((r for r in self._ledger.rounds if is_on_its_way(r, chosen)), None)
            if cut_off is not None:
                _upload(self, None)
                return cut_off.number
            round_ = plan_next_round(
                self.samples,
                self._ledger,
                {key: self.sequence(key) for key in chosen},
                chosen,
                config.schema(),
                offers=config.outputs(),
                segment_size=config.segment_size,
                task_size=config.task_size,
            )
            self.save()
            _upload(self, None)
            return round_.number

    def effort(self, model: EffortModel | None = None) -> list[Effort]:
        """What each round cost people so far: what they did, and how long that takes.

        Args:
            model: seconds for each kind of action; by default :class:`~labelprop_cvat.propagation.effort.EffortModel`
                as it comes
        """
        self.refresh()
        return efforts({round_.number: round_.actions for round_ in self._ledger.rounds}, model)

    # --- status and end --------------------------------------------------------------------------------------------

    def get_status(self, refresh: bool = True) -> list[dict[str, Any]]:
        """One row per CVAT job.

        Args:
            refresh: ask the server; otherwise what was last seen

        Returns:
            dicts with ``round``, ``kind`` (of the round: ``"exemplars"`` or ``"review"``), ``sequence``, ``segment``,
            ``task_id``, ``task_name``, ``job_id``, ``url``, ``stage``, ``state`` (CVAT's; ``"gone"`` where CVAT has no
            such job any more), ``assignee``, ``finished`` (whether a load takes it), ``frames``, ``objects`` (None
            before the job was collected), ``collected``, ``propagated``, ``engine`` (what filled the segment),
            ``open_issues``, ``resolved_issues`` and ``issues`` (the three are None without ``refresh``), ``verdicts``
            (how many objects got which; None before a review was collected) and ``doubts`` (None but in reviews). An
            issue is a dict with ``id``, ``resolved``, ``frame`` (CVAT's 0-based number in the task), ``file``,
            ``sample_id``, ``frame_number`` (FiftyOne's, on videos), ``who``, ``when``, ``message``, ``comments`` (dicts
            with ``who``, ``when``, ``message``; the answers to it), ``position`` (pixels), ``url``. A doubt is an issue
            that this package wrote and nobody has closed: a dict with ``label_field``, ``index``, ``frame``,
            ``message`` and ``url``, which selects the object in CVAT; the worst come first
        """
        self.refresh()
        ledger = self._ledger
        outlook = (
            look(self.connect_to_api(), ledger.tasks()) if refresh and any(task.id for task in ledger.tasks()) else None
        )
        return status_rows(
            ledger,
            outlook,
            url=self.config.url,
            job_states=self.config.job_states,
            job_stages=self.config.job_stages,
        )

    def print_status(self) -> None:
        """Prints a table of the run's jobs, and what reviewers wrote that is still open."""
        outputs = self.config.outputs()
        fields = [field.label_field for field in self.config.schema()] if self._ledger.rounds else []
        remarks = [
            f"Annotated: {name}" + (f"   propagated: {outputs[name]}" if name in outputs else "") for name in fields
        ]
        rows = self.get_status()
        reviews = {round_.number for round_ in self._ledger.reviews()}
        frames: Counter[int] = Counter()
        for row in rows:
            frames[row["round"]] += row["frames"] if row["collected"] else 0
        remarks += [
            f"Round {cost.round}: {frames[cost.round]} frames {'reviewed' if cost.round in reviews else 'annotated'}, "
            f"by the model of effort in {cost.modelled_minutes:.1f} minutes"
            for cost in efforts({round_.number: round_.actions for round_ in self._ledger.rounds})
            if cost.actions
        ]
        print_rows(f"Run {self.key}", rows, remarks, fills=bool(outputs))

    def wait(
        self,
        timeout: float | None = None,
        *,
        states: str | Sequence[str] | None = None,
        stages: str | Sequence[str] | None = None,
        interval: float = 5.0,
    ) -> bool:
        """Waits until people have finished every job.

        Looks rarely when nothing happens, logs what changed, keeps the login it has, and waits out a server that is
        away for a while. Nothing is written anywhere, so Ctrl-C does no harm.

        Args:
            timeout: seconds; None waits for ever, 0 looks once
            states: job states that count as finished; by default the run's ``job_states``
            stages: job stages in which they do; by default the run's ``job_stages``
            interval: seconds to the second look; later ones are up to a minute apart

        Returns:
            whether all jobs are finished: False when the time was up first

        Raises:
            DataError: the run has nothing in CVAT, or a job is gone from there
            CVATError: the server can't be reached at the first look, or refuses the login
        """
        self.refresh()
        return wait_for_jobs(
            self.connect_to_api(),
            self._ledger,
            str(self.key),
            job_states=self.config.job_states if states is None else checked_states(states),
            job_stages=self.config.job_stages if stages is None else checked_stages(stages),
            timeout=timeout,
            interval=interval,
        )

    def launch_editor(self) -> str | None:
        """Opens the first unfinished job in a browser.

        Returns:
            its address, or None when the run has no task in CVAT
        """
        rows = [row for row in self.get_status() if row["url"]]
        if not rows:
            logger.warning("Run %r has no task in CVAT to open.", self.key)
            return None
        row = next((row for row in rows if not row["finished"] and row["state"] != GONE), rows[0])
        logger.info("Opening %s", row["url"])
        webbrowser.open(row["url"], new=2)
        return str(row["url"])

    @property
    def task_ids(self) -> list[int]:
        """The numbers of the run's tasks in CVAT."""
        return [task.id for task in self._ledger.tasks() if task.id is not None]

    @property
    def job_ids(self) -> dict[int, list[int]]:
        """The numbers of the run's jobs in CVAT, by task."""
        return {
            task.id: [job.id for job in task.jobs if job.id is not None]
            for task in self._ledger.tasks()
            if task.id is not None
        }

    @property
    def labels_task_map(self) -> dict[str, list[int]]:
        """The numbers of the tasks by label field; every task holds all fields of the run."""
        return {field.label_field: self.task_ids for field in self.config.schema()}

    @property
    def project_ids(self) -> list[int]:
        """The number of the project that the tasks are in; empty without one."""
        return [] if self._ledger.project_id is None else [self._ledger.project_id]

    def delete_tasks(self, task_ids: Iterable[int]) -> None:
        """Deletes some of the run's tasks from CVAT, with what is drawn there, and goes on without them.

        Raises:
            DataError: the run has no such task; nothing was deleted
        """
        self.refresh()
        chosen = list(task_ids)
        for task_id in chosen:
            self._check_has_task(task_id)
        client = self.connect_to_api()
        for task_id in chosen:
            client.delete_task(task_id)
            self.forget_task(task_id)

    def forget_task(self, task_id: int) -> None:
        """Goes on without a task, for instance one that was deleted in CVAT. Labels in FiftyOne stay as they are.

        What went along in a review that was not loaded is to be reviewed again.

        Raises:
            DataError: the run has no such task
        """
        self.refresh()
        self._check_has_task(task_id)
        for round_ in self._ledger.rounds:
            for task in round_.tasks:
                if task.id == task_id and round_.is_review:
                    Reviewing(self).begin_again(task)
            round_.tasks = [task for task in round_.tasks if task.id != task_id]
        self.save()

    def _check_has_task(self, task_id: int) -> None:
        if task_id not in self.task_ids:
            shown = ", ".join(map(str, self.task_ids)) or "none"
            raise DataError(f"Run {self.key!r} has no task {task_id}; it has {shown}.")

    def cleanup(self, force: bool = False) -> None:
        """Deletes this run's tasks from CVAT. What is in FiftyOne stays.

        Args:
            force: also delete tasks in which somebody drew or changed something that was not loaded yet; they are kept
                otherwise, with a warning that names them
        """
        if self.key is None:
            self._cleanup(force)
            return
        with self.lease.held():
            self.refresh()
            self._cleanup(force)
            self.save()

    def _cleanup(self, force: bool) -> None:
        client = self.connect_to_api()
        schema = self.config.schema()
        kept = []
        reviews = {id(task) for round_ in self._ledger.reviews() for task in round_.tasks}
        for task in list(self._ledger.tasks()):
            if task.adopted:
                continue
            satisfied = self._satisfied(task)
            if not force and has_new_work(client, task, schema, is_review=id(task) in reviews, satisfied=satisfied):
                kept.append(task)
            else:
                self._delete_task(client, task)
                if id(task) in reviews:
                    Reviewing(self).begin_again(task)
        for task_id in self._ledger.orphans:
            client.delete_task(task_id)
        self._ledger.orphans = []
        for round_ in self._ledger.rounds:
            round_.tasks = [task for task in round_.tasks if task in kept]
        self._ledger.rounds = [round_ for round_ in self._ledger.rounds if round_.tasks]
        if kept:
            logger.warning(
                "Kept in CVAT, because somebody worked there and it was not loaded: %s. Have the jobs completed and "
                "load again, or delete them with results.cleanup(force=True).",
                ", ".join(f"task {task.id} ({task.name})" for task in kept),
            )
        elif self._ledger.created_project and self._ledger.project_id is not None:
            # Other runs, and people, may have put tasks of theirs into it.
            if client.project_tasks(self._ledger.project_id):
                logger.warning("Project %d stays in CVAT: it holds tasks of others by now.", self._ledger.project_id)
            else:
                client.delete_project(self._ledger.project_id)
            self._ledger.project_id, self._ledger.created_project = None, False

    def _satisfied(self, task: TaskRecord) -> set[tuple[str, int]]:
        segments = self._ledger.sequences[task.sequence].segments
        fills = (item for job in task.jobs for item in segments[job.segment].fills.items())
        return {(label_field, index) for label_field, fill in fills for index in fill.satisfied}

    def _delete_task(self, client: CVATClient, task: TaskRecord) -> None:
        task_id = task.id
        if task_id is None:
            # Killed before CVAT's answer was written down.
            made = next((t for t in client.find_tasks(task.name) if task.marker in t.bug_tracker), None)
            task_id = made.id if made else None
        if task_id is not None:
            client.delete_task(task_id)


def _first_field(config: Any) -> str:
    return next(iter(config.label_schema or {}), "")


__all__ = ["LabelPropResults", "open_client", "upload"]
