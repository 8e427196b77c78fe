"""The ledger of a run: everything that must survive a killed process.

Plain mutable records that turn into JSON and back. Frame positions are 0-based positions in their sequence; CVAT's
frame numbers are 0-based positions in their task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from labelprop_cvat.errors import DataError
from labelprop_cvat.sequences import FrameRef

LEDGER_VERSION = 4

#: Stands in a job for a frame whose sample was deleted from the dataset.
NO_POSITION = -1

#: Kinds of rounds: in one people annotate exemplars, in the other they look through what was propagated.
EXEMPLARS, REVIEW = "exemplars", "review"

#: The steps of a task on its way to CVAT, in order. A step is written down before the next one begins.
STEPS = ("planned", "created", "uploaded", "ready")


@dataclass
class LabelRecord:
    """One label as the server knew it when the task was made; ``nodes`` are the labels of a skeleton's points."""

    id: int
    attributes: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)


@dataclass
class SightingRecord:
    """One object on one frame as last compared.

    ``label_id`` is its label in FiftyOne, or ``""`` for an ``outside`` keyframe that this package made; ``fingerprint``
    and ``attributes`` say what CVAT held then, ``shape`` names its geometry alone. ``by_person`` says that a person had
    a hand in it: drew, changed or confirmed it, in this run or an earlier one. ``label`` is the class that CVAT held,
    ``""`` where that was not kept. ``machine`` marks what was propagated and went along to be reviewed: it is no label
    of the run's own field, so ``label_id`` is ``""``.
    """

    label_id: str
    fingerprint: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    shape: str = ""
    by_person: bool = False
    label: str = ""
    machine: bool = False


@dataclass
class ObjectRecord:
    """One CVAT shape, track or tag whose identity is settled.

    ``claim`` is the index that CVAT showed when it was settled; a different one later is an edit by a person. Tags and
    semantic masks have neither. ``part`` counts the outlines of one label that has several, each of which is a shape of
    its own in CVAT. ``sightings`` is keyed by the frame position as a string.
    """

    label_field: str
    index: int
    claim: int
    part: int = 0
    sightings: dict[str, SightingRecord] = field(default_factory=dict)


@dataclass
class IssueRecord:
    """One doubt about a propagated object that reviewers are told of as a CVAT issue.

    ``position`` is the frame where it stands, ``start`` and ``stop`` (exclusive) the frames that it is about, ``place``
    the box that it points at, ``[x1, y1, x2, y2]`` in pixels; empty for the middle of the frame.
    """

    label_field: str
    index: int
    position: int
    start: int
    stop: int
    message: str
    place: list[float] = field(default_factory=list)
    id: int | None = None
    resolved: bool = False


@dataclass
class JobRecord:
    """One CVAT job: frames of one temporal segment, in order; exemplars, or those that people review.

    Jobs of adopted tasks may reach over several segments; ``segment`` is then that of the first frame. ``sending`` says
    that the existing labels of its frames were on their way to CVAT, ``sent`` that they arrived; ``digest`` names the
    content that was last taken into account, ``deleted`` are positions that people deleted. ``offered`` holds, by label
    field, ``[index, position]`` of propagated labels that went along for people to correct.

    Of reviews only, by label field: ``verdicts`` are what people said of an object by its index as a string, and
    ``confirmed`` ``[index, start, stop]`` of propagated labels that a person found right and that are still to be
    marked so. ``asked`` are the indices of objects that people said need fixing, and that they did not fix. ``issues``
    are doubts that were written into the job.
    """

    segment: int
    positions: list[int]
    start_frame: int = 0
    id: int | None = None
    stage: str = "annotation"
    state: str = "new"
    assignee: str | None = None
    collected: bool = False
    objects: int = 0
    sending: bool = False
    sent: bool = False
    digest: str = ""
    deleted: list[int] = field(default_factory=list)
    offered: dict[str, list[list[int]]] = field(default_factory=dict)
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)
    issues: list[IssueRecord] = field(default_factory=list)
    confirmed: dict[str, list[list[int]]] = field(default_factory=dict)
    asked: dict[str, list[int]] = field(default_factory=dict)

    def position_of(self, frame: int) -> int | None:
        """The position in the sequence of a frame of the task; None when it is not in the job, or no more."""
        place = frame - self.start_frame
        position = self.positions[place] if 0 <= place < len(self.positions) else NO_POSITION
        return None if position == NO_POSITION else position


@dataclass
class TaskRecord:
    """One CVAT task: some jobs of one sequence. An ``adopted`` one was there before the run and outlives it.

    ``offers`` names, by label field, the field whose propagated labels go along. ``video`` holds the first and last
    frame of the file, 0-based and inclusive, where the video itself is sent and not images of its frames.
    """

    sequence: str
    name: str
    marker: str
    jobs: list[JobRecord]
    file_names: list[str]
    step: str = "planned"
    id: int | None = None
    adopted: bool = False
    labels: dict[str, LabelRecord] = field(default_factory=dict)
    objects: dict[str, ObjectRecord] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)
    video: list[int] = field(default_factory=list)

    @property
    def server_id(self) -> int:
        """The task's number in CVAT.

        Raises:
            DataError: it was never made there
        """
        if self.id is None:
            raise DataError(f"The task {self.name!r} was not made in CVAT yet; call annotate() again to go on with it.")
        return self.id

    def leave_out_gone(self) -> None:
        """Takes frames without a sample out of the plan; for tasks whose frames are not in CVAT yet."""
        kept = [position != NO_POSITION for position in self.positions()]
        self.file_names = [name for name, keep in zip(self.file_names, kept, strict=True) if keep]
        for job in self.jobs:
            job.positions = [position for position in job.positions if position != NO_POSITION]
        self.jobs = [job for job in self.jobs if job.positions]

    def positions(self) -> list[int]:
        """The frame positions of the task; CVAT's frame number is the place in this list."""
        return [position for job in self.jobs for position in job.positions]


@dataclass
class FillRecord:
    """How one field of a temporal segment was filled.

    ``signature`` names the prompts that its propagated labels were made from, None before the first time; ``absences``
    are ``[index, position]`` where a person said that an object is not there, ``ended`` the ids of labels behind the
    end that a person gave their object: they stay where they are, but nothing is made from them. ``measured`` says how
    good propagated labels were on frames that people annotated later, ``engine`` what filled it.

    ``prompts`` names what each object was made from, by its index and the frame position as strings; None where that
    was not kept; ``made_with`` names the engine and options that were asked for. Reviews add ``said_absent``, further
    ``[index, position]`` like ``absences``; ``rejected``, the indices of objects that a reviewer rejected and that are
    filled nowhere; and ``satisfied``, those of which a reviewer said that they are right as they are, which holds until
    somebody changes them. ``vouched`` are those of them that the same reviewer changed, and that stay satisfactory when
    they are filled from that. ``reviewed`` is the ``signature`` of what was last sent to be reviewed.
    """

    signature: str | None = None
    absences: list[list[int]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    seconds: float = 0.0
    measured: list[MeasuredRecord] = field(default_factory=list)
    engine: str = ""
    prompts: dict[str, dict[str, str]] | None = None
    made_with: str = ""
    said_absent: list[list[int]] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    satisfied: list[int] = field(default_factory=list)
    vouched: list[int] = field(default_factory=list)
    reviewed: str | None = None

    @property
    def all_absences(self) -> list[list[int]]:
        """``[index, position]`` where a person said that an object is not there, in whatever round."""
        found = {(index, position) for index, position in [*self.absences, *self.said_absent]}
        return [[index, position] for index, position in sorted(found)]


@dataclass
class MeasuredRecord:
    """How good one propagated label was, by the label that a person set in its place.

    ``round`` is the round in which the person did, ``index`` the object and ``position`` the frame; ``confidence`` and
    ``agreement`` are what the label said of itself (0 and None where nothing was propagated), ``distance`` the frames
    to the nearest exemplar then, ``quality`` the IoU of the two, of boxes where either has no mask.
    """

    round: int
    index: int
    position: int
    confidence: float
    agreement: float | None
    distance: int
    quality: float


@dataclass
class SegmentRecord:
    """One temporal segment; ``fills`` is keyed by label field."""

    start: int
    stop: int
    label: str
    exemplars: list[int]
    fills: dict[str, FillRecord] = field(default_factory=dict)

    def fill(self, label_field: str) -> FillRecord:
        """The record of one field, made where there is none yet."""
        return self.fills.setdefault(label_field, FillRecord())


@dataclass
class FieldRecord:
    """The identities of one label field in one sequence.

    ``label_ids`` is keyed ``"<index>:<position>"``. ``reserved`` are indices of labels of the field that stayed at
    home. ``aliases`` holds the numbers of objects whose own index could not be used, because it is no number from 1 or
    another class has it too, by ``"<index>:<class>"``.
    """

    next_index: int = 1
    reserved: list[int] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    label_ids: dict[str, str] = field(default_factory=dict)

    def own_index(self, index: int) -> int:
        """The index that the user's own labels of an object have."""
        return next((int(key.split(":", 1)[0]) for key, alias in self.aliases.items() if alias == index), index)


@dataclass
class SequenceRecord:
    """One sequence: which samples and frames it is made of, its segments, and the identities in it by label field.

    ``sample_ids`` holds one id per frame on images and a single id on videos, ``frame_numbers`` FiftyOne's 1-based
    numbers on videos and nothing on images. ``sizes`` holds one size per frame where they differ, and is empty
    otherwise. An ``independent`` collection is no sequence in time: no object goes on from one image to the next.
    """

    key: str
    name: str
    media_type: str
    size: list[int]
    sample_ids: list[str]
    frame_numbers: list[int]
    segments: list[SegmentRecord]
    fields: dict[str, FieldRecord] = field(default_factory=dict)
    sizes: list[list[int]] = field(default_factory=list)
    independent: bool = False

    def identities(self, label_field: str) -> FieldRecord:
        """The identities of one field, made where there are none yet."""
        return self.fields.setdefault(label_field, FieldRecord())

    def segments_with(self, positions: Collection[int]) -> set[int]:
        """The numbers of the segments that some of the frames lie in."""
        held = set(positions)
        return {
            number
            for number, segment in enumerate(self.segments)
            if not held.isdisjoint(range(segment.start, segment.stop))
        }

    def segment_at(self, position: int) -> int:
        """The number of the segment that a frame lies in.

        Raises:
            DataError: it lies in none
        """
        number = next(iter(self.segments_with([position])), None)
        if number is None:
            raise DataError(f"Frame {position} of {self.name} lies in no temporal segment of the run.")
        return number

    def ref(self, position: int) -> FrameRef:
        """Where FiftyOne keeps a frame."""
        if self.media_type == "video":
            return FrameRef(self.sample_ids[0], self.frame_numbers[position])
        return FrameRef(self.sample_ids[position])

    def size_at(self, position: int) -> tuple[int, int]:
        """``(height, width)`` of a frame, pixels."""
        height, width = self.sizes[position] if self.sizes else self.size
        return height, width

    def __len__(self) -> int:
        return len(self.frame_numbers) if self.media_type == "video" else len(self.sample_ids)


@dataclass
class RoundRecord:
    """One trip to CVAT: of exemplars to be annotated, or of propagated labels to be reviewed.

    ``actions`` counts what people did in it, as far as it was collected; ``pending`` what they did in the load that is
    going on. ``edits`` counts, by their kind, the changes that reviewers made, and ``truth`` is the mean J of the
    propagated labels after the load that took the round in, where ground truth is known. ``options`` says how it was
    asked for.
    """

    number: int
    kind: str
    created: str
    tasks: list[TaskRecord]
    actions: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    truth: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_review(self) -> bool:
        """Whether people look through propagated labels in it."""
        return self.kind == REVIEW


@dataclass
class Ledger:
    """Everything a run must remember between two calls. ``asked`` are its settings as the caller gave them."""

    url: str
    sequences: dict[str, SequenceRecord] = field(default_factory=dict)
    rounds: list[RoundRecord] = field(default_factory=list)
    loaded: str | None = None
    project_id: int | None = None
    created_project: bool = False
    orphans: list[int] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    version: int = LEDGER_VERSION

    @property
    def uploaded(self) -> bool:
        """Whether every task has arrived in CVAT with its labels."""
        return bool(self.rounds) and all(task.step == "ready" for task in self.tasks())

    def tasks(self) -> Iterator[TaskRecord]:
        """All tasks of all rounds."""
        for round_ in self.rounds:
            yield from round_.tasks

    def jobs(self) -> Iterator[tuple[TaskRecord, JobRecord]]:
        """All jobs with their tasks."""
        for task in self.tasks():
            for job in task.jobs:
                yield task, job

    def annotation_jobs(self) -> Iterator[tuple[TaskRecord, JobRecord]]:
        """The jobs in which people annotate exemplars, with their tasks."""
        for round_ in self.rounds:
            if not round_.is_review:
                yield from ((task, job) for task in round_.tasks for job in task.jobs)

    def reviews(self) -> Iterator[RoundRecord]:
        """The rounds of reviews."""
        return (round_ for round_ in self.rounds if round_.is_review)

    def under_review(self) -> set[tuple[str, int]]:
        """``(key of the sequence, number of the segment)`` of segments that are out for review and not back yet."""
        return {
            (task.sequence, job.segment)
            for round_ in self.reviews()
            for task in round_.tasks
            for job in task.jobs
            if not job.collected
        }

    def forget_sequence(self, key: str) -> None:
        """Drops a sequence and its tasks; in CVAT they stay until the run is cleaned up, adopted ones for good."""
        del self.sequences[key]
        own = [task for task in self.tasks() if task.sequence == key and not task.adopted]
        self.orphans += [task.id for task in own if task.id is not None]
        for round_ in self.rounds:
            round_.tasks = [task for task in round_.tasks if task.sequence != key]

    def forget_frames(self, key: str, gone: Collection[int]) -> None:
        """Renumbers a sequence of images after some were deleted from the dataset.

        Args:
            key: the sequence
            gone: the positions that are no more; jobs keep a place for them, as :data:`NO_POSITION`
        """
        record = self.sequences[key]
        kept = [position for position in range(len(record.sample_ids)) if position not in set(gone)]
        new = {old: position for position, old in enumerate(kept)}
        record.sample_ids = [record.sample_ids[position] for position in kept]
        record.sizes = [record.sizes[position] for position in kept] if record.sizes else []
        for identities in record.fields.values():
            identities.label_ids = {
                f"{index}:{new[int(place)]}": label_id
                for (index, place), label_id in (
                    (name.split(":"), label_id) for name, label_id in identities.label_ids.items()
                )
                if int(place) in new
            }
        for segment in record.segments:
            inside = [new[position] for position in range(segment.start, segment.stop) if position in new]
            segment.start, segment.stop = (inside[0], inside[-1] + 1) if inside else (0, 0)
            segment.exemplars = [new[position] for position in segment.exemplars if position in new]
            for fill in segment.fills.values():
                fill.absences = [[index, new[position]] for index, position in fill.absences if position in new]
                fill.said_absent = [[index, new[p]] for index, p in fill.said_absent if p in new]
                fill.prompts = None
                fill.measured = [replace(m, position=new[m.position]) for m in fill.measured if m.position in new]
                fill.signature = None
        for task in self.tasks():
            if task.sequence != key:
                continue
            for job in task.jobs:
                job.positions = [new.get(position, NO_POSITION) for position in job.positions]
                job.deleted = [new[position] for position in job.deleted if position in new]
                job.offered = _moved(job.offered, new)
                job.confirmed = {}
                job.issues = [_moved_issue(issue, new) for issue in job.issues if issue.position in new]
            if task.step in ("planned", "created"):
                task.leave_out_gone()
                if not task.jobs and task.id is not None:
                    self.orphans.append(task.id)
            for entry in task.objects.values():
                entry.sightings = {
                    str(new[int(place)]): seen for place, seen in entry.sightings.items() if int(place) in new
                }

        for round_ in self.rounds:
            round_.tasks = [task for task in round_.tasks if task.jobs]

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain JSON values; they share nothing with it but texts and numbers."""
        values: dict[str, Any] = _plain(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], label_field: str = "") -> Ledger:
        """The ledger from what :meth:`to_dict` gave.

        Args:
            values: that
            label_field: the run's field, which ledgers of version 1 did not name

        Raises:
            DataError: a later version of this package wrote it
        """
        version = int(values.get("version", LEDGER_VERSION))
        if version > LEDGER_VERSION:
            raise DataError(
                f"This run was last worked on by a newer labelprop-cvat (ledger version {version}, this one reads "
                f"up to {LEDGER_VERSION}). Update labelprop-cvat."
            )
        if version == 1:
            values = _from_version_1(values, label_field)
        return cls(
            url=values["url"],
            sequences={key: _sequence(record) for key, record in values["sequences"].items()},
            rounds=[
                RoundRecord(**{**record, "tasks": [_task(task) for task in record["tasks"]]})
                for record in values["rounds"]
            ],
            loaded=values.get("loaded"),
            project_id=values.get("project_id"),
            created_project=bool(values.get("created_project", False)),
            orphans=list(values.get("orphans", ())),
            asked=dict(values.get("asked", {})),
        )


def _moved(places: Mapping[str, list[list[int]]], new: Mapping[int, int]) -> dict[str, list[list[int]]]:
    """``[index, position]`` by label field with new positions, without those that are no more."""
    return {
        name: [[index, new[position]] for index, position in found if position in new] for name, found in places.items()
    }


def _moved_issue(issue: IssueRecord, new: Mapping[int, int]) -> IssueRecord:
    inside = [new[position] for position in range(issue.start, issue.stop) if position in new]
    position = new[issue.position]
    return replace(issue, position=position, start=min([position, *inside[:1]]), stop=1 + max([position, *inside[-1:]]))


def _plain(value: Any) -> Any:
    # dataclasses.asdict does the same five times slower, and ledgers are written often.
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return {name: _plain(entry) for name, entry in vars(value).items()}


def _from_version_1(values: Mapping[str, Any], label_field: str) -> dict[str, Any]:
    """Version 1 knew one label field per run."""
    ledger: dict[str, Any] = {**values, "sequences": {}, "rounds": []}
    for key, old in values["sequences"].items():
        record = dict(old)
        names = ("next_index", "reserved", "aliases", "instances", "label_ids")
        identities = {name: record.pop(name) for name in names if name in record}
        segments = []
        for segment in record["segments"]:
            plain = dict(segment)
            fill = {name: plain.pop(name) for name in ("signature", "absences", "seconds") if name in plain}
            segments.append({**plain, "fills": {label_field: fill}})
        ledger["sequences"][key] = {**record, "segments": segments, "fields": {label_field: identities}}
    for round_ in values["rounds"]:
        tasks = [
            {**task, "objects": {key: {"label_field": label_field, **entry} for key, entry in task["objects"].items()}}
            for task in round_["tasks"]
        ]
        ledger["rounds"].append({**round_, "tasks": tasks})
    return ledger


def _sequence(record: Mapping[str, Any]) -> SequenceRecord:
    segments = [
        SegmentRecord(**{**segment, "fills": {name: _fill(fill) for name, fill in segment["fills"].items()}})
        for segment in record["segments"]
    ]
    fields = {name: FieldRecord(**identities) for name, identities in record["fields"].items()}
    return SequenceRecord(**{**record, "segments": segments, "fields": fields})


def _fill(record: Mapping[str, Any]) -> FillRecord:
    return FillRecord(**{**record, "measured": [MeasuredRecord(**entry) for entry in record.get("measured", ())]})


def _task(record: Mapping[str, Any]) -> TaskRecord:
    return TaskRecord(
        **{
            **record,
            "jobs": [
                JobRecord(**{**job, "issues": [IssueRecord(**issue) for issue in job.get("issues", ())]})
                for job in record["jobs"]
            ],
            "labels": {name: LabelRecord(**label) for name, label in record["labels"].items()},
            "objects": {
                key: ObjectRecord(
                    **{
                        **entry,
                        "sightings": {place: SightingRecord(**seen) for place, seen in entry["sightings"].items()},
                    }
                )
                for key, entry in record["objects"].items()
            },
        }
    )


__all__ = [
    "EXEMPLARS",
    "LEDGER_VERSION",
    "NO_POSITION",
    "REVIEW",
    "STEPS",
    "FieldRecord",
    "FillRecord",
    "IssueRecord",
    "JobRecord",
    "LabelRecord",
    "Ledger",
    "MeasuredRecord",
    "ObjectRecord",
    "RoundRecord",
    "SegmentRecord",
    "SequenceRecord",
    "SightingRecord",
    "TaskRecord",
]
