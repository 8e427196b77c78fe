"""Propagated labels on their way to reviewers: which frames, as which tasks, and what stands on them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
from bson import ObjectId

from labelprop_cvat.backend.interpolation import TrackShape
from labelprop_cvat.backend.keyframes import labels_at, propagated_schema
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    REVIEW,
    JobRecord,
    Ledger,
    RoundRecord,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.outlines import polygon_track
from labelprop_cvat.backend.rounds.plan import task_name, unique_file_names
from labelprop_cvat.backend.schema import LARGEST_INDEX, Attribute, FieldSchema, RunSchema
from labelprop_cvat.backend.shapes import (
    DrawnObject,
    Placed,
    Written,
    class_of,
    is_of_class,
    is_of_type,
    is_sendable,
    label_outlines,
    write_annotations,
)
from labelprop_cvat.backend.thinning import needed_keyframes
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import detection_to_box, detection_to_mask
from labelprop_cvat.propagation.types import ObjectMask
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

#: What reviewers can say of an object, the first one being what it begins with.
UNREVIEWED, SATISFACTORY, FIX, REJECT = VERDICTS = ("unreviewed", "satisfactory", "fix", "reject")

#: The attributes of CVAT's labels that reviews add. A class that has its own of one of these names goes without.
VERDICT, CONFIDENCE = "verdict", "confidence"

#: Which frames of a segment reviewers see, beside ``"every:n"``.
ALL, UNCERTAIN = "all", "uncertain"
_EVERY = re.compile(r"every:([1-9]\d*)")

#: ``review_as`` that sends masks as tracks of polygons.
POLYGONS = "polygons"

# How many frames of a video are looked at to see how large images of them would be, and their quality.
_PROBES = 3
_JPEG_QUALITY = 95


def checked_frames(frames: str) -> str:
    """Checks which frames reviewers shall see.

    Raises:
        ConfigurationError: it is none of ``"all"``, ``"uncertain"`` and ``"every:n"``
    """
    if frames not in (ALL, UNCERTAIN) and not (isinstance(frames, str) and _EVERY.fullmatch(frames)):
        raise ConfigurationError(
            f"Reviewers see 'all' frames of a segment, 'every:n' (every 5th: 'every:5') or 'uncertain' ones, got "
            f"{frames!r}."
        )
    return frames


def checked_review_as(review_as: str | None) -> str | None:
    """Checks what masks are reviewed as.

    Raises:
        ConfigurationError: it is neither None nor ``"polygons"``
    """
    if review_as not in (None, POLYGONS):
        raise ConfigurationError(f"review_as is 'polygons', or None for shapes as they are, got {review_as!r}.")
    return review_as


def review_schema(schema: RunSchema, review_as: str | None = None) -> RunSchema:
    """What reviewers see of a run: its propagated fields, with a verdict and a confidence in every class.

    Args:
        schema: the run's
        review_as: ``"polygons"`` sends masks as polygons
    """
    fields = []
    for entry in schema.propagated:
        classes = {name: (*attributes, *_own_attributes(attributes)) for name, attributes in entry.classes.items()}
        as_polygons = review_as == POLYGONS and entry.kind.shape == "mask"
        fields.append(replace(entry, classes=classes, label_type="polygons" if as_polygons else entry.label_type))
    return RunSchema(tuple(fields))


def _own_attributes(attributes: Sequence[Attribute]) -> Iterator[Attribute]:
    taken = {attribute.name for attribute in attributes}
    # A verdict that could change from keyframe to keyframe would hold to the next one only.
    own = (
        Attribute(name=VERDICT, type="select", values=VERDICTS, default=UNREVIEWED, mutable=False),
        Attribute(name=CONFIDENCE, type="number", values=("0", "100", "1"), default=0, mutable=False),
    )
    return (attribute for attribute in own if attribute.name not in taken)


def own_names(schema: RunSchema, drawn: DrawnObject) -> frozenset[str]:
    """Those attributes of an object that reviews added."""
    own = schema[drawn.label_field].attributes_of(drawn.label)
    return frozenset({VERDICT, CONFIDENCE}) - {attribute.name for attribute in own}


def plain(schema: RunSchema, drawn: DrawnObject) -> DrawnObject:
    """An object as the run knows it: without what reviews added to it.

    Args:
        schema: the run's own
        drawn: what CVAT holds
    """
    field_schema = schema[drawn.label_field]
    left_out = own_names(schema, drawn)
    return replace(
        drawn,
        group=drawn.group if field_schema.group_id_attr else 0,
        attributes={name: text for name, text in drawn.attributes.items() if name not in left_out},
        keyframes=tuple(
            replace(keyframe, attributes={k: v for k, v in keyframe.attributes.items() if k not in left_out})
            for keyframe in drawn.keyframes
        ),
    )


# --- planning ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviewedSegment:
    """A segment that reviewers shall look at.

    Args:
        key: key of its sequence
        number: its number there
        positions: the frames that they see, ascending
    """

    key: str
    number: int
    positions: tuple[int, ...]


def positions_to_review(
    ledger: Ledger, record: SequenceRecord, number: int, frames: str, keyframes: Collection[int]
) -> tuple[int, ...]:
    """The frames of a segment that reviewers see, but for ``"uncertain"``.

    Frames with labels that people set are always among them: they hold the tracks in place, and what is said of an
    object reaches them. Frames that people deleted in CVAT are not.

    Args:
        ledger: the run
        record: the sequence
        number: of the segment
        frames: ``"all"`` or ``"every:n"``
        keyframes: positions with labels that people set
    """
    segment = record.segments[number]
    inside = range(segment.start, segment.stop)
    deleted = {p for task, job in ledger.jobs() if task.sequence == record.key for p in job.deleted}
    match = _EVERY.fullmatch(frames)
    step = int(match[1]) if match else 1
    chosen = {*inside[::step], *inside[-1:], *(position for position in keyframes if position in inside)}
    return tuple(sorted(chosen - deleted))


def plan_review_round(
    ledger: Ledger,
    sequences: Mapping[str, FrameSequence],
    segments: Sequence[ReviewedSegment],
    *,
    offers: Mapping[str, str],
    frames: str,
    review_as: str | None,
) -> RoundRecord:
    """Lays out a round of review and enters it into the ledger: one task a sequence, one job a segment.

    Segments of videos whose file is smaller than images of their frames get a task each, with that part of the file.

    Args:
        ledger: changed
        sequences: the sequences of the segments by key
        segments: what is reviewed
        offers: for each label field the field whose propagated labels are reviewed
        frames: how the frames were chosen
        review_as: what masks are sent as
    """
    number = 1 + max((round_.number for round_ in ledger.rounds), default=0)
    tasks: list[TaskRecord] = []
    for key in dict.fromkeys(entry.key for entry in segments):
        record, sequence = ledger.sequences[key], sequences[key]
        own = [entry for entry in segments if entry.key == key]
        first = next((task.name for task in ledger.tasks() if task.sequence == key), record.name)
        first = re.sub(r"( round \d+| review \d+)?( part \d+)?$", "", first)
        as_video = _is_file_cheaper(record, sequence, own)
        groups = [[entry] for entry in own] if as_video else [own]
        for part, group in enumerate(groups):
            jobs = []
            held = 0
            for entry in group:
                jobs.append(JobRecord(segment=entry.number, positions=list(entry.positions), start_frame=held))
                held += len(entry.positions)
            positions = [position for job in jobs for position in job.positions]
            ending = f" review {number}" + (f" part {part + 1}" if part else "")
            numbers = [record.frame_numbers[position] - 1 for position in positions] if as_video else []
            tasks.append(
                TaskRecord(
                    sequence=key,
                    name=task_name(first, ending),
                    marker=f"labelprop:{ObjectId()}",
                    jobs=jobs,
                    file_names=[] if as_video else unique_file_names(sequence, positions),
                    offers=dict(offers),
                    video=[numbers[0], numbers[-1]] if numbers else [],
                )
            )
    options = {"frames": frames, "review_as": review_as}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    round_ = RoundRecord(number=number, kind=REVIEW, created=created, tasks=tasks, options=options)
    ledger.rounds.append(round_)
    return round_


def _is_file_cheaper(record: SequenceRecord, sequence: FrameSequence, segments: Sequence[ReviewedSegment]) -> bool:
    """Whether sending a video's file, once a segment, takes fewer bytes than images of the frames."""
    if record.media_type != "video":
        return False
    for entry in segments:
        numbers = [record.frame_numbers[position] for position in entry.positions]
        if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return False
    try:
        size = Path(sequence.filepaths[0]).stat().st_size
    except OSError:
        return False
    positions = [position for entry in segments for position in entry.positions]
    probes = positions[:: max(1, len(positions) // _PROBES)][:_PROBES]
    taken = 0
    for position in probes:
        frame = cv2.cvtColor(sequence.source[position], cv2.COLOR_RGB2BGR)
        taken += len(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])
    return size * len(segments) < taken / len(probes) * len(positions)


# --- what stands on the frames -------------------------------------------------------------------------------------


@dataclass
class ReviewContent:
    """What a job shall hold.

    Args:
        written: the body of the request, and what each entry stands for
        machine: ids of propagated labels among those that it stands for
        losses: IoU of polygons with the masks that they stand for
        unshown: how many labels reviewers do not see, since they are nothing that the field's shapes can show
    """

    written: Written
    machine: set[str] = field(default_factory=set)
    losses: list[float] = field(default_factory=list)
    unshown: int = 0


def review_content(
    dataset: fo.Dataset,
    ledger: Ledger,
    task: TaskRecord,
    job: JobRecord,
    schema: RunSchema,
    review_as: str | None,
    people: Mapping[str, Mapping[int, Sequence[fo.Label]]],
) -> ReviewContent:
    """What stands on the frames of one job: propagated labels, and in their place those that people set.

    Args:
        dataset: where the labels are
        ledger: the run
        task: the task
        job: one of its jobs, whose ``start_frame`` is known
        schema: the run's own
        review_as: what masks are sent as
        people: by label field and position, the labels that people set, with the index of their object in the run
    """
    record = ledger.sequences[task.sequence]
    shown_schema = review_schema(schema, review_as)
    content = ReviewContent(Written())
    placed: list[Placed] = []
    for entry in schema.propagated:
        source = task.offers.get(entry.label_field)
        if source is None:
            continue
        shown = shown_schema[entry.label_field]
        objects = _objects(dataset, record, job, entry, shown, source, people.get(entry.label_field, {}))
        rejected = set(record.segments[job.segment].fill(entry.label_field).rejected)
        satisfied = set(record.segments[job.segment].fill(entry.label_field).satisfied)
        for index, by_frame in sorted(objects.items()):
            if index in rejected:
                continue
            content.machine |= {label.id for label, is_machine in by_frame.values() if is_machine}
            own = _Sent(record, entry, shown, job, index, index in satisfied)
            placed += own.placed(by_frame, content)
    frames = range(job.start_frame, job.start_frame + len(job.positions))
    content.written = write_annotations(placed, frames, task.labels)
    for kind, origins in content.written.origins.items():
        entries = content.written.body[kind]
        for place, (item, origin) in enumerate(zip(entries, origins, strict=True)):
            machine = frozenset(frame for frame, label_id in origin.label_ids.items() if label_id in content.machine)
            label_ids = {frame: i for frame, i in origin.label_ids.items() if frame not in machine}
            people_only = origin.by_person - machine
            origins[place] = replace(origin, label_ids=label_ids, machine=machine, by_person=people_only)
            if not schema[origin.label_field].group_id_attr:
                # So that annotators who colour by group see each object in a colour of its own.
                item["group"] = origin.index
    return content


def _objects(
    dataset: fo.Dataset,
    record: SequenceRecord,
    job: JobRecord,
    schema: FieldSchema,
    shown: FieldSchema,
    source: str,
    people: Mapping[int, Sequence[fo.Label]],
) -> dict[int, dict[int, tuple[fo.Label, bool]]]:
    """By index and frame of the task, the label of an object and whether it is a propagated one."""
    found: dict[int, dict[int, tuple[fo.Label, bool]]] = {}
    positions = [position for position in job.positions if position != NO_POSITION]
    propagated = labels_at(dataset, record, propagated_schema(schema, source), positions)
    for place, position in enumerate(job.positions):
        frame, size = job.start_frame + place, record.size_at(max(0, position))
        for label in people.get(position, ()):
            # A box among masks has an outline as well.
            is_box = isinstance(label, fo.Detection) and not label.has_mask and shown.kind.shape == "polygon"
            ready, kind = (_polyline_of_box(label), shown) if is_box else (label, schema)
            if label.index is None or not (is_box or is_of_type(label, schema)) or not is_sendable(ready, kind, size):
                continue
            found.setdefault(int(label.index), {}).setdefault(frame, (label, False))
        for label in propagated.get(position, ()):
            if is_fit(label, size) and is_of_class(label, schema):
                found.setdefault(int(label.index), {}).setdefault(frame, (label, True))
    return found


def is_fit(label: fo.Detection, size: tuple[int, int]) -> bool:
    """Whether a propagated label is as it was made; anybody may have changed it since."""
    if label.index is None or not 0 < label.index <= LARGEST_INDEX:
        return False
    try:
        detection_to_box(label, size)
        detection_to_mask(label, size)
    except DataError as error:
        logger.warning("A propagated label is not sent to CVAT, as it cannot be read. %s", error)
        return False
    return True


@dataclass(frozen=True)
class _Sent:
    """One object of a job on its way to CVAT.

    Args:
        record: its sequence
        schema: what the run annotates in the field
        shown: the same as reviewers see it
        job: the job
        index: the object's number
        is_satisfied: whether a reviewer said before that it is right, and nothing of it changed since
    """

    record: SequenceRecord
    schema: FieldSchema
    shown: FieldSchema
    job: JobRecord
    index: int
    is_satisfied: bool

    def placed(self, by_frame: Mapping[int, tuple[fo.Label, bool]], content: ReviewContent) -> list[Placed]:
        by_frame = dict(sorted(by_frame.items()))
        is_tracked = self.shown.kind.is_tracked
        ready = self._as_polygons(by_frame, content) if self.shown.kind.shape == "polygon" else by_frame
        sure = [float(label.confidence or 0.0) for label, is_machine in by_frame.values() if is_machine]
        mean = sum(sure) / len(sure) if sure else 1.0
        items = []
        for frame, (label, _) in ready.items():
            size = self.record.size_at(self._position(frame))
            if is_sendable(label, self.shown, size):
                items.append(Placed(frame, self.index, label, self.shown, size))
        content.unshown += len(by_frame) - len(items)
        items = self._thinned(items, {frame for frame, (_, is_machine) in by_frame.items() if not is_machine})
        for item in items:
            if item.keyframe:
                own = float(item.label.confidence or 0.0) if by_frame[item.frame][1] else 1.0
                self._mark(item.label, mean if is_tracked else own)
        return items

    def _position(self, frame: int) -> int:
        position = self.job.position_of(frame)
        return 0 if position is None else position

    def _mark(self, label: fo.Label, confidence: float) -> None:
        # The labels were read for this alone; copying them would take most of the time.
        attributes = {attribute.name for attribute in self.schema.attributes_of(label.label)}
        if VERDICT not in attributes:
            label[VERDICT] = SATISFACTORY if self.is_satisfied else UNREVIEWED
        if CONFIDENCE not in attributes:
            label[CONFIDENCE] = round(100 * min(1.0, max(0.0, confidence)))

    def _as_polygons(
        self, by_frame: Mapping[int, tuple[fo.Label, bool]], content: ReviewContent
    ) -> dict[int, tuple[fo.Label, bool]]:
        """The labels as polygons, which stand on neighbouring frames in a way that CVAT moves one into the other."""
        masks: dict[int, ObjectMask] = {}
        for frame, (label, _) in by_frame.items():
            if isinstance(label, fo.Detection):
                mask = _mask_or_box(label, self.record.size_at(self._position(frame)))
                if mask is not None:
                    masks[frame] = mask
        if not any(isinstance(label, fo.Detection) for label, _ in by_frame.values()):
            return dict(by_frame)
        size = self.record.size_at(self._position(next(iter(by_frame))))
        outlines = polygon_track(masks, size)
        content.losses += list(outlines.iou.values())
        found: dict[int, tuple[fo.Label, bool]] = {}
        for frame, (label, is_machine) in by_frame.items():
            if isinstance(label, fo.Detection):
                if frame not in outlines.points:
                    continue
                label = _polyline(label, outlines.points[frame], size)
            found[frame] = (label, is_machine)
        return found

    def _thinned(self, items: list[Placed], fixed: set[int]) -> list[Placed]:
        """Leaves out of a track what CVAT shows by itself between its keyframes."""
        shape = self.shown.kind.shape
        if not self.shown.kind.is_tracked or len(items) < 3:
            return items
        shapes = {}
        for item in items:
            outlines = label_outlines(item.label, shape, item.size)
            if len(outlines) == 1:
                turn = float(item.label.get_attribute_value("rotation", None) or 0.0)
                shapes[item.frame] = TrackShape(item.frame, tuple(outlines[0]), rotation=turn % 360)
        frames = range(self.job.start_frame, self.job.start_frame + len(self.job.positions))
        # One class a track: another one begins a track of its own in CVAT.
        changed = {
            frame
            for one, other in pairwise(items)
            if class_of(one.label, self.shown) != class_of(other.label, self.shown)
            for frame in (one.frame, other.frame)
        }
        kept = needed_keyframes(shapes, shape, frames, {frame for frame in {*fixed, *changed} if frame in shapes})
        return [replace(item, keyframe=item.frame in kept or item.frame not in shapes) for item in items]


def _polyline_of_box(label: fo.Detection) -> fo.Polyline:
    x, y, width, height = label.bounding_box
    ring = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return fo.Polyline(label=label.label, points=[ring], closed=True)


def _mask_or_box(label: fo.Detection, size: tuple[int, int]) -> ObjectMask | None:
    """The pixels of a label: of its box where it has no mask; None where nothing of it is on the frame."""
    if label.has_mask:
        return detection_to_mask(label, size)
    height, width = size
    left, top, right, bottom = (round(edge) for edge in detection_to_box(label, size))
    left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
    return ObjectMask.from_crop(left, top, np.ones((max(0, bottom - top), max(0, right - left)), dtype=bool))


def _polyline(label: fo.Detection, points: Sequence[float], size: tuple[int, int]) -> fo.Polyline:
    height, width = size
    ring = [(x / width, y / height) for x, y in zip(points[::2], points[1::2], strict=True)]
    held = {
        name: value
        for name, value in label.iter_fields()
        if name not in ("id", "bounding_box", "mask", "mask_path", "tags") and value is not None
    }
    outline = fo.Polyline(points=[ring], closed=True, filled=True, **held)
    outline.id = label.id
    return outline


def tell_of_losses(losses: Iterable[float], name: str) -> None:
    """Says how much is lost where masks are reviewed as polygons."""
    found = sorted(losses)
    if found:
        logger.info(
            "%s: %d masks go to review as polygons, which share %.3f (IoU) with them on average, %.3f at worst. What "
            "nobody changes keeps its mask.",
            name,
            len(found),
            sum(found) / len(found),
            found[0],
        )


__all__ = [
    "ALL",
    "CONFIDENCE",
    "FIX",
    "POLYGONS",
    "REJECT",
    "SATISFACTORY",
    "UNCERTAIN",
    "UNREVIEWED",
    "VERDICT",
    "VERDICTS",
    "ReviewContent",
    "ReviewedSegment",
    "checked_frames",
    "checked_review_as",
    "is_fit",
    "plain",
    "plan_review_round",
    "positions_to_review",
    "review_content",
    "review_schema",
    "tell_of_losses",
]
