"""The results of a labelprop run: its ledger in FiftyOne's database, and what can be done with it."""

from __future__ import annotations

import json
import logging
import time
import webbrowser
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua
from gridfs.errors import NoFile
from rich.console import Console
from rich.table import Table

from labelprop_cvat import workflow
from labelprop_cvat.backend.credentials import resolve_connection
from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.keyframes import finish_merge, frame_ids, has_labels_field, labels_at
from labelprop_cvat.backend.ledger import Ledger, SegmentRecord, SequenceRecord, TaskRecord
from labelprop_cvat.backend.rounds import (
    Collected,
    UploadOptions,
    collect_round,
    commit_collected,
    has_new_work,
    refresh_jobs,
    reserve_identities,
    segment_is_collected,
    upload_round,
)
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.sequences import FrameRef
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

_READS = 5
_WIDTH_WITHOUT_TERMINAL = 160


def open_client(config: Any) -> CVATClient:
    """Connects to the server of a run with the credentials at hand.

    Raises:
        ConfigurationError: no address or no credentials are to be found
    """
    connection = resolve_connection(config.url, config.username, config.password, config.token, config.headers)
    return CVATClient(
        connection.url,
        connection.credentials,
        headers=connection.headers,
        organization=config.organization,
        verify=config.verify,
        timeout=(min(10.0, config.timeout), config.timeout),
    )


def upload(results: LabelPropResults, sequences: Mapping[str, FrameSequence] | None) -> None:
    """Brings a planned or interrupted first round to CVAT and writes down every step."""
    config = results.config
    results.forget_deleted_samples()
    ledger = results.ledger
    client = results.connect_to_api()
    schema = config.schema()
    if config.project_id is not None:
        ledger.project_id = config.project_id
    elif config.project_name and ledger.project_id is None:
        found = client.find_project(config.project_name)
        project = found or client.create_project(config.project_name, schema.labels())
        ledger.project_id, ledger.created_project = project.id, found is None
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
            issue_trackers=tuple(config.issue_tracker),
            project_id=ledger.project_id,
        ),
        results.save,
    )


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
        self._ledger = Ledger.from_dict(ledger)
        # The tasks are on the server that they were sent to, whatever the settings name by now.
        config.url = config.url or self._ledger.url
        self._collected: Collected | None = None
        self._full_id_map: dict[str, Any] = {}
        self._summary: str | None = None

    @property
    def summary(self) -> str | None:
        """What the last load of this process did, in a sentence; None before the first."""
        return self._summary

    @property
    def ledger(self) -> Ledger:
        """What the run remembers."""
        return self._ledger

    def serialize(self, reflective: bool = False) -> dict[str, Any]:
        """The results as JSON values."""
        return {**super().serialize(reflective=reflective), "ledger": self._ledger.to_dict()}

    @classmethod
    def _from_dict(
        cls, d: dict[str, Any], samples: fo.core.collections.SampleCollection, config: Any, anno_key: str
    ) -> LabelPropResults:
        return cls(samples, config, anno_key, d["id_map"], d["ledger"])

    @property
    def dataset(self) -> fo.Dataset:
        """The dataset of the run."""
        return self.samples._root_dataset

    def save(self) -> None:
        """Writes the ledger to the database."""
        self.backend.save_run_results(self.dataset, self.key, self)

    def refresh(self) -> None:
        """Takes over what another process, or another copy of these results, has written down since."""
        document = self.backend._get_run_doc(self.dataset, self.key)
        for attempt in range(_READS):
            document.reload()
            if not document.results:
                return
            try:
                stored = json.loads(document.results.fs.get(document.results.grid_id).read())
                break
            except NoFile:
                # Another process put a newer one in its place between the two reads.
                if attempt == _READS - 1:
                    raise
        self._ledger = Ledger.from_dict(stored["ledger"])
        self.id_map = stored["id_map"]

    # --- sequences -------------------------------------------------------------------------------------------------

    def sequences(self) -> dict[str, FrameSequence]:
        """The run's sequences by key, as the dataset holds their media now."""
        return {key: self._sequence(record) for key, record in self._ledger.sequences.items()}

    def _sequence(self, record: SequenceRecord) -> FrameSequence:
        view = self.dataset.select(record.sample_ids, ordered=True)
        ids, paths = view.values(["id", self.config.media_field])
        if list(ids) != record.sample_ids:
            raise DataError(
                f"Samples of {record.name} were deleted from the dataset while the run was at work. Call it again; "
                f"it goes on without them."
            )
        is_video = record.media_type == "video"
        return FrameSequence(
            key=record.key,
            name=record.name,
            media_type=record.media_type,
            paths=paths,
            refs=[FrameRef(record.sample_ids[0], number) for number in record.frame_numbers]
            if is_video
            else [FrameRef(sample_id) for sample_id in record.sample_ids],
            video_sample_id=record.sample_ids[0] if is_video else None,
        )

    def forget_deleted_samples(self) -> None:
        """Samples that were deleted from the dataset since are no frames of the run any more."""
        there = set(self.dataset.values("id"))
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
        """
        self.refresh()
        if self._ledger.rounds and not self._ledger.uploaded:
            logger.info("The upload of run %r was interrupted; going on where it stopped.", self.key)
            upload(self, None)
        self.forget_deleted_samples()
        schema = self.config.schema()
        field = schema.label_field
        self._collected = collect_round(
            self.connect_to_api(),
            self.dataset,
            self._ledger,
            schema,
            job_states=self.config.job_states,
            missing=self.config.missing,
        )
        if not self._ledger.rounds:
            logger.warning("Run %r has nothing in CVAT any more; there is nothing to load.", self.key)
        else:
            self._tell_what_is_finished(self._collected)
        reserve_identities(self._ledger, self._collected)
        self.save()
        annotations, id_map = self._in_fiftyones_form(self._collected, field)
        self._full_id_map = self.id_map
        self.id_map = self._narrowed_id_map(id_map, field)
        return {field: {"detections": annotations}}

    def _tell_what_is_finished(self, collected: Collected) -> None:
        states = Counter(job.state for _, job in self._ledger.jobs())
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if not collected.finished:
            logger.warning(
                "Nothing to load: none of the %d jobs of run %r is finished (%s).", states.total(), self.key, shown
            )
        empty = [str(done.job.id) for done in collected.finished if not done.objects]
        if empty:
            logger.warning("Nothing is drawn in the finished jobs %s of run %r.", ", ".join(empty), self.key)

    def _in_fiftyones_form(self, collected: Collected, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
        annotations: dict[str, Any] = {}
        id_map: dict[str, Any] = {}
        for key, found in collected.sequences.items():
            record = self._ledger.sequences[key]
            positions = sorted({*found.labels, *found.removed})
            existing = labels_at(self.dataset, record, field, positions)
            there = {label.id for labels in existing.values() for label in labels}
            frames = frame_ids(self.dataset, record, positions) if record.media_type == "video" and positions else {}
            for position in positions:
                labels = found.labels.get(position, {})
                known = [*(i for i in labels if i in there), *found.removed.get(position, ())]
                if record.media_type == "video":
                    sample_id, frame_id = record.sample_ids[0], frames[position]
                    # FiftyOne renumbers tracks of new video labels; without an index it lets them be, and
                    # _update_id_map() sets it afterwards.
                    for label in labels.values():
                        label.index = None
                    if labels:
                        annotations.setdefault(sample_id, {})[frame_id] = labels
                    if known:
                        id_map.setdefault(sample_id, {})[frame_id] = known
                else:
                    sample_id = record.sample_ids[position]
                    if labels:
                        annotations[sample_id] = labels
                    if known:
                        id_map[sample_id] = known
        return annotations, id_map

    def _narrowed_id_map(self, id_map: dict[str, Any], field: str) -> dict[str, Any]:
        """Only what this look settles: FiftyOne deletes every label of the id map that is not returned."""
        looked_at: dict[str, set[int]] = {}
        for key, found in (self._collected.sequences if self._collected else {}).items():
            record = self._ledger.sequences[key]
            if record.media_type == "video":
                looked_at[record.sample_ids[0]] = {record.frame_numbers[position] for position in found.looked_at}
            else:
                looked_at.update({record.sample_ids[position]: set() for position in found.looked_at})
        narrowed: dict[str, Any] = {
            name: self._on_frames(entries, looked_at) for name, entries in self.id_map.items() if name != field
        }
        narrowed[field] = id_map
        return narrowed

    def _on_frames(self, entries: Mapping[str, Any], looked_at: Mapping[str, set[int]]) -> dict[str, Any]:
        """The part of an id map that lies on some frames."""
        kept: dict[str, Any] = {}
        for sample_id, value in entries.items():
            if sample_id not in looked_at:
                continue
            if isinstance(value, Mapping):
                numbers = self._frame_numbers(sample_id)
                value = {frame: ids for frame, ids in value.items() if numbers.get(frame) in looked_at[sample_id]}
            kept[sample_id] = value
        return kept

    def _frame_numbers(self, sample_id: str) -> dict[str, int]:
        ids, numbers = self.dataset.select(sample_id).values(["frames.id", "frames.frame_number"])
        return dict(zip(ids[0], numbers[0], strict=True)) if ids else {}

    def _update_id_map(self, label_field: str, new_id_map: Any) -> None:
        """FiftyOne calls this when it has merged a field: the one moment between its merge and the end of the load.

        ``label_field`` is the field that was merged into: the run's own, or the ``dest_field`` of the load.
        """
        super()._update_id_map(label_field, new_id_map)
        if self._collected is None:
            return
        collected, self._collected = self._collected, None
        own_field = label_field == self.config.schema().label_field
        merged = self.id_map.get(label_field, {})
        removed = {i for found in collected.sequences.values() for ids in found.removed.values() for i in ids}
        self.id_map = _united(self._full_id_map, label_field, merged, removed)
        for key, found in collected.sequences.items():
            finish_merge(self.dataset, self._ledger.sequences[key], label_field, found.finishes)
        keep_removed = self.config.schema().restrictions.get("allow_deletions") is False
        commit_collected(self._ledger, collected, own_field=own_field, keep_removed=keep_removed)
        self._ledger.loaded = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.save()
        labels = sum(len(ids) for found in collected.sequences.values() for ids in found.labels.values())
        filled = self.propagate(label_field)
        self._summary = (
            f"{len(collected.finished)} of {len(list(self._ledger.jobs()))} jobs are finished and hold {labels} labels; "
            f"{len(filled)} segments were filled in {self.config.output_field}."
        )
        logger.info("Run %r: %s", self.key, self._summary)

    # --- propagation -----------------------------------------------------------------------------------------------

    def propagate(self, label_field: str | None = None, *, again: bool = False) -> list[str]:
        """Fills every collected segment whose keyframes changed since it was last filled.

        Args:
            label_field: where the keyframes are; by default the run's own field
            again: fill all collected segments, changed or not

        Returns:
            the labels of the segments that were filled
        """
        self.refresh()
        self.forget_deleted_samples()
        field = label_field or self.config.schema().label_field
        workflow.checked_output_field(self.dataset, field, self.config.output_field)
        pending = []
        for key, record in self._ledger.sequences.items():
            for number, segment in enumerate(record.segments):
                if segment.stop <= segment.start or not segment_is_collected(self._ledger, key, number):
                    continue
                exemplars = self._exemplar_labels(record, segment, field)
                prompts = workflow.make_prompts(exemplars, record.frame_size, segment.absences)
                signature = workflow.prompts_signature(prompts, exemplars, self._engine())
                if again or signature != segment.signature or not self._is_filled(record, segment):
                    pending.append((record, segment, signature))
        if not pending:
            logger.info("Run %r: nothing changed, so nothing is propagated.", self.key)
            return []
        engine = get_propagator(self.config.engine, **self.config.engine_options)
        total = sum(segment.stop - segment.start for _, segment, _ in pending)
        with fo.ProgressBar(total=total, iters_str="frames") as bar:
            for record, segment, signature in pending:
                started = time.monotonic()
                workflow.fill_segment(
                    self.dataset,
                    self._sequence(record),
                    start=segment.start,
                    stop=segment.stop,
                    exemplars=self._exemplar_labels(record, segment, field),
                    absences=segment.absences,
                    engine=engine,
                    output_field=self.config.output_field,
                    instances=record.instances,
                    attribute_types=self.config.schema().field_types(),
                    on_frame=bar.update,
                )
                segment.signature = signature
                segment.seconds = round(time.monotonic() - started, 3)
                self.save()
        return [segment.label for _, segment, _ in pending]

    def _is_filled(self, record: SequenceRecord, segment: SegmentRecord) -> bool:
        ends = {segment.start, segment.stop - 1}
        return all(has_labels_field(self.dataset, record, self.config.output_field, position) for position in ends)

    def _engine(self) -> str:
        return f"{self.config.engine} {sorted(self.config.engine_options.items())}"

    def _exemplar_labels(
        self, record: SequenceRecord, segment: SegmentRecord, field: str
    ) -> dict[int, list[fo.Detection]]:
        """The labels of a segment that a person set or confirmed, by position."""
        numbers = {label_id: int(place.split(":")[0]) for place, label_id in record.label_ids.items()}
        deleted = {position for _, job in self._ledger.jobs() for position in job.deleted}
        positions = [position for position in segment.exemplars if position not in deleted]
        found = {
            position: [label for label in entries if label.id in numbers or label.get_attribute_value("keyframe", None)]
            for position, entries in labels_at(self.dataset, record, field, positions).items()
        }
        others = set(range(segment.start, segment.stop)) - set(segment.exemplars)
        for position, entries in labels_at(self.dataset, record, field, others, keyframes_only=True).items():
            found.setdefault(position, []).extend(entries)
        for entries in found.values():
            for label in entries:
                label.index = _run_index(label, record, numbers)
        return {position: entries for position, entries in sorted(found.items()) if entries}

    # --- status and end --------------------------------------------------------------------------------------------

    def get_status(self, refresh: bool = True) -> list[dict[str, Any]]:
        """One row per CVAT job.

        Args:
            refresh: ask the server; otherwise what was last seen

        Returns:
            dicts with ``sequence``, ``segment``, ``task_id``, ``job_id``, ``url``, ``stage``, ``state``, ``assignee``,
            ``frames``, ``objects`` (None before the job was collected), ``collected`` and ``propagated``
        """
        self.refresh()
        if refresh and self._ledger.uploaded:
            refresh_jobs(self.connect_to_api(), self._ledger)
        rows = []
        for task, job in self._ledger.jobs():
            record = self._ledger.sequences[task.sequence]
            segment = record.segments[job.segment]
            rows.append(
                {
                    "sequence": record.name,
                    "segment": segment.label,
                    "task_id": task.id,
                    "job_id": job.id,
                    "url": self._job_url(task, job.id),
                    "stage": job.stage,
                    "state": job.state if task.step == "ready" else f"upload {task.step}",
                    "assignee": job.assignee,
                    "frames": len(job.positions),
                    "objects": job.objects if job.collected else None,
                    "collected": job.collected,
                    "propagated": segment.signature is not None,
                }
            )
        return rows

    def print_status(self) -> None:
        """Prints a table of the run's jobs."""
        table = Table(title=f"Run {self.key}")
        for heading in ("sequence", "segment", "task", "job", "state", "assignee", "frames", "objects", "propagated"):
            table.add_column(heading)
        for row in self.get_status():
            table.add_row(
                row["sequence"],
                row["segment"],
                str(row["task_id"] or "-"),
                str(row["job_id"] or "-"),
                f"{row['stage']}, {row['state']}",
                row["assignee"] or "-",
                str(row["frames"]),
                "-" if row["objects"] is None else str(row["objects"]),
                "yes" if row["propagated"] else "no",
            )
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH_WITHOUT_TERMINAL)
        console.print(table)
        if self._ledger.rounds:
            console.print(f"Keyframes: {self.config.schema().label_field}   propagated: {self.config.output_field}")

    def _job_url(self, task: TaskRecord, job_id: int | None) -> str | None:
        if task.id is None:
            return None
        base = f"{self._ledger.url.rstrip('/')}/tasks/{task.id}"
        return base if job_id is None else f"{base}/jobs/{job_id}"

    def launch_editor(self) -> str | None:
        """Opens the first unfinished job in a browser.

        Returns:
            its address, or None when the run has no task in CVAT
        """
        rows = [row for row in self.get_status() if row["url"]]
        if not rows:
            logger.warning("Run %r has no task in CVAT to open.", self.key)
            return None
        row = next((row for row in rows if row["state"] != "completed"), rows[0])
        logger.info("Opening %s", row["url"])
        webbrowser.open(row["url"], new=2)
        return str(row["url"])

    def forget_task(self, task_id: int) -> None:
        """Goes on without a task, for instance one that was deleted in CVAT. Labels in FiftyOne stay as they are.

        Raises:
            DataError: the run has no such task
        """
        self.refresh()
        if task_id not in {task.id for task in self._ledger.tasks()}:
            ids = ", ".join(str(task.id) for task in self._ledger.tasks())
            raise DataError(f"Run {self.key!r} has no task {task_id}; it has {ids or 'none'}.")
        for round_ in self._ledger.rounds:
            round_.tasks = [task for task in round_.tasks if task.id != task_id]
        self.save()

    def cleanup(self, force: bool = False) -> None:
        """Deletes this run's tasks from CVAT. What is in FiftyOne stays.

        Args:
            force: also delete tasks in which somebody drew or changed something that was not loaded yet; they are kept
                otherwise, with a warning that names them
        """
        if self.key is not None:
            self.refresh()
        client = self.connect_to_api()
        schema = self.config.schema()
        kept = []
        for task in list(self._ledger.tasks()):
            if not force and has_new_work(client, task, schema):
                kept.append(task)
            else:
                self._delete_task(client, task)
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
            client.delete_project(self._ledger.project_id)
            self._ledger.project_id, self._ledger.created_project = None, False
        if self.key is not None:
            self.save()

    def _delete_task(self, client: CVATClient, task: TaskRecord) -> None:
        task_id = task.id
        if task_id is None:
            # Killed before CVAT's answer was written down.
            made = next((t for t in client.find_tasks(task.name) if task.marker in t.bug_tracker), None)
            task_id = made.id if made else None
        if task_id is not None:
            client.delete_task(task_id)


def _run_index(label: fo.Detection, record: SequenceRecord, numbers: Mapping[str, int]) -> int | None:
    """The number that a label's object goes by in the run, which is its index unless that could not be used."""
    number = numbers.get(label.id)
    if number is not None and label.index in (None, record.own_index(number)):
        return number
    return None if label.index is None else record.aliases.get(f"{label.index}:{label.label}", label.index)


def _flat_ids(entries: Any) -> set[str]:
    if isinstance(entries, Mapping):
        return set().union(*(_flat_ids(value) for value in entries.values()))
    if isinstance(entries, list):
        return set(entries)
    return set() if entries is None else {entries}


def _united(full: Mapping[str, Any], field: str, merged: Any, removed: set[str]) -> dict[str, Any]:
    """The id map as it stands after a load: what was there, what came, less what people deleted."""
    return {**full, field: _without_ids(_merged_ids(full.get(field, {}), merged), removed)}


def _merged_ids(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        first, second = first or {}, second or {}
        return {key: _merged_ids(first.get(key), second.get(key)) for key in {**first, **second}}
    return sorted(_flat_ids(first) | _flat_ids(second))


def _without_ids(entries: Any, removed: set[str]) -> Any:
    if isinstance(entries, Mapping):
        return {key: _without_ids(value, removed) for key, value in entries.items()}
    return [label_id for label_id in entries if label_id not in removed]


__all__ = ["LabelPropResults", "open_client", "upload"]
