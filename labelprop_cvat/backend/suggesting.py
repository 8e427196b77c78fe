"""Which frames of a run people should annotate next, and whether it is worth their time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fiftyone as fo
from rich.table import Table

from labelprop_cvat.backend.evidence import (
    as_sure,
    drawn_kinds,
    exemplars_of,
    followed_as,
    known_labels,
    quality_model,
)
from labelprop_cvat.backend.keyframes import has_labels_field
from labelprop_cvat.backend.ledger import FillRecord, Ledger, SegmentRecord, SequenceRecord
from labelprop_cvat.backend.rounds import segment_is_collected
from labelprop_cvat.backend.status import console, shown
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.progress import late_bar
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.exemplars import (
    Evidence,
    NextFrame,
    QualityModel,
    Reason,
    next_frames,
    predicted_j_of,
)
from labelprop_cvat.propagation.types import PromptKind, Segment
from labelprop_cvat.sequences import FrameRef, every_sample
from labelprop_cvat.sequences import Sequence as FrameSequence

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

DEFAULT_TARGET = 0.9

# Objects of several fields are told apart by adding this to their numbers.
_ID_STEP = 1_000_000_000

_SHOWN_REASONS = 3


@dataclass(frozen=True)
class SuggestedFrame:
    """A frame that people should annotate next.

    Args:
        sequence: key of its sequence in the run
        sequence_name: its name for people
        segment: label of its temporal segment
        position: 0-based position in the sequence
        sample_id: the image's or the video's sample
        frame_number: FiftyOne's 1-based number inside the video; None for images
        filepath: the image or video
        score: its gain as a share of the best one's, in [0, 1]
        gain: by how much annotating it is expected to raise J, summed over the objects and frames of its segment
        minutes: expected work, the propagated labels being there to be corrected
        reasons: the objects that are worst on it, worst first
    """

    sequence: str
    sequence_name: str
    segment: str
    position: int
    sample_id: str
    frame_number: int | None
    filepath: str
    score: float
    gain: float
    minutes: float
    reasons: tuple[Reason, ...]

    @property
    def ref(self) -> FrameRef:
        """Where FiftyOne keeps the frame."""
        return FrameRef(self.sample_id, self.frame_number)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "reasons"}
        plain |= {name: round(plain[name], 4) for name in ("score", "gain", "minutes")}
        reasons = [
            {"object": r.object_id, "label": r.label, "predicted_j": round(r.predicted_j, 4), "why": r.why}
            for r in self.reasons
        ]
        return {**plain, "reasons": reasons}


@dataclass(frozen=True)
class Suggestions:
    """What to annotate next, the most worthwhile first, and what is expected of it.

    Iterating gives the frames; no frames means that the run can stop, or has to wait for people: ``why`` says which.

    Args:
        frames: the frames; empty when it is time to stop
        stop: whether more annotating is not worth it by the rules that were asked for
        why: the rule that decided, or what is waited for, in a sentence
        predicted_j: mean J to expect of the propagated objects as they are; NaN where nothing was propagated yet
        worst_j: the lowest J to expect of one of them; NaN likewise
        below_target: how many of them are expected below the target
        propagated: how many there are, counted by object and frame
        target: the J that is wanted everywhere
        measured: labels that the expectation could be checked against, from earlier rounds
        anno_key: the run
    """

    frames: tuple[SuggestedFrame, ...]
    stop: bool
    why: str
    predicted_j: float
    worst_j: float
    below_target: int
    propagated: int
    target: float
    measured: int
    anno_key: str
    _results: Any = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[SuggestedFrame]:
        return iter(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def minutes(self) -> float:
        """Expected work on all frames together."""
        return sum(frame.minutes for frame in self.frames)

    def view(self) -> fo.core.collections.SampleCollection:
        """The frames as a view of the dataset, to look at in the App: samples of images, frames of videos."""
        dataset = self._results.dataset
        refs = [frame.ref for frame in self.frames]
        videos = sorted({ref.sample_id for ref in refs if ref.frame_number is not None})
        if not videos:
            return every_sample(dataset).select([ref.sample_id for ref in refs], ordered=True)
        view = every_sample(dataset, "video").select(videos, ordered=True)
        ids = {
            FrameRef(sample_id, number): frame_id
            for sample_id, numbers, held in zip(*view.values(["id", "frames.frame_number", "frames.id"]), strict=True)
            for number, frame_id in zip(numbers, held, strict=True)
        }
        return view.select_frames([ids[ref] for ref in refs if ref in ids])

    def send(self) -> int:
        """Sends the frames to CVAT as the next round of the run, with the propagated labels to be corrected.

        Returns:
            the number of the round

        Raises:
            DataError: there are none
            CVATError: the server can't be reached or says no; the next load goes on with the upload
        """
        number: int = self._results.send_round(self.frames)
        return number

    def print(self) -> None:
        """Prints the frames as a table, the reasons beside them, and what decided."""
        if self.frames:
            table = Table(title=shown(f"Run {self.anno_key}: annotate next"))
            for heading in ("Sequence", "Segment", "Frame", "Minutes", "Gain", "Why"):
                table.add_column(heading)
            for frame in self.frames:
                name = Path(frame.filepath).name if frame.frame_number is None else str(frame.frame_number)
                why = [f"{reason.label or reason.object_id}: {reason.why}" for reason in frame.reasons[:_SHOWN_REASONS]]
                more = len(frame.reasons) - _SHOWN_REASONS
                table.add_row(
                    shown(frame.sequence_name),
                    shown(frame.segment),
                    shown(name),
                    f"{frame.minutes:.1f}",
                    f"{frame.gain:.1f}",
                    shown("\n".join([*why, f"and {more} more"] if more > 0 else why)),
                )
            console().print(table)
        console().print(shown(self.why))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not known is None."""
        numbers = {"predicted_j": self.predicted_j, "worst_j": self.worst_j}
        return {
            "anno_key": self.anno_key,
            "stop": self.stop,
            "why": self.why,
            **{name: None if math.isnan(value) else round(value, 4) for name, value in numbers.items()},
            "below_target": self.below_target,
            "propagated": self.propagated,
            "target": self.target,
            "measured": self.measured,
            "minutes": round(self.minutes, 2),
            "frames": [frame.to_dict() for frame in self.frames],
        }


@dataclass
class _Part:
    """One filled segment with what is known of it."""

    record: SequenceRecord
    sequence: FrameSequence
    segment: SegmentRecord
    evidence: list[Evidence]
    names: dict[int, str]
    annotated: set[int]
    kinds: dict[int, PromptKind]
    with_people: set[int]
    allowed: frozenset[int] | None
    own_index: dict[int, int] = field(default_factory=dict)
    predicted: dict[tuple[int, int], float] = field(default_factory=dict)
    confirmed: set[tuple[int, int]] = field(default_factory=set)

    @property
    def open(self) -> list[float]:
        """J to expect of every object on every frame where nobody set it: propagated, or lost between exemplars."""
        by_person = {(known.frame, known.object_id) for known in self.evidence if known.keyframe}
        return [j for place, j in self.predicted.items() if place not in by_person]

    def name_of(self, position: int) -> str:
        """What people call a frame: its number in a video, the name of an image's file."""
        number = self.record.ref(position).frame_number
        return Path(self.sequence.filepaths[position]).name if number is None else str(number)

    @property
    def expected(self) -> list[Evidence]:
        """The evidence as it will be once people are done with the frames that they have."""
        return [
            replace(known, keyframe=True, confidence=1.0, agreement=None) if known.frame in self.with_people else known
            for known in self.evidence
        ]

    @property
    def span(self) -> Segment:
        return Segment(self.segment.start, self.segment.stop)


def suggest_frames(
    results: LabelPropResults,
    *,
    budget: int = 5,
    target: float = DEFAULT_TARGET,
    least_gain: float | None = None,
    effort: EffortModel | None = None,
) -> Suggestions:
    """See :func:`labelprop_cvat.workflow.suggest`."""
    if not isinstance(budget, Integral) or budget < 1:
        raise ConfigurationError(f"A budget counts frames from 1, got {budget!r}.")
    if not isinstance(target, Real) or not 0.0 < target <= 1.0:
        raise ConfigurationError(f"target is a J above 0 and at most 1, got {target!r}.")
    if least_gain is not None and (not isinstance(least_gain, Real) or not least_gain > 0.0):
        raise ConfigurationError(
            f"least_gain must be above 0 (J of objects and frames per minute), got {least_gain!r}."
        )
    results.refresh()
    results.forget_deleted_samples()
    outputs = results.config.outputs()
    if not outputs:
        raise ConfigurationError(
            f"Run {results.key!r} fills no frames, so there is nothing to say about how good they are. Only fields of "
            f"detections and instances are propagated, by runs with an engine."
        )
    effort = effort or EffortModel()
    parts, waits = _parts(results, outputs)
    model, measured = quality_model(results.ledger, drawn_kinds(results.config))
    for part in parts:
        part.predicted = predicted_j_of(part.span, part.evidence, sorted(part.annotated), model)
        part.predicted.update(dict.fromkeys(part.confirmed, 1.0))
    known = [j for part in parts for j in part.open]
    summary: dict[str, Any] = {
        "predicted_j": float(sum(known) / len(known)) if known else math.nan,
        "worst_j": min(known, default=math.nan),
        "below_target": sum(j < target for j in known),
        "propagated": len(known),
        "target": target,
        "measured": measured,
        "anno_key": str(results.key),
    }
    found, refused = [], 0
    for part in parts:
        if all(j >= target for j in part.open):
            continue
        for frame in _next(part, budget, model):
            minutes = _minutes(frame, part, effort)
            if least_gain is not None and frame.gain < least_gain * minutes:
                refused += 1
            else:
                found.append((frame.gain / max(minutes, 1e-6), frame, part, minutes))
    found.sort(key=lambda entry: -entry[0])
    chosen = found[:budget]
    best = max((frame.gain for _, frame, _, _ in chosen), default=0.0)
    frames = tuple(_suggested(part, frame, minutes, best) for _, frame, part, minutes in chosen)
    stop, why = _verdict(frames, summary, waits, refused, least_gain)
    return Suggestions(frames=frames, stop=stop, why=why, _results=results, **summary)


def _verdict(
    frames: Sequence[SuggestedFrame],
    summary: Mapping[str, Any],
    waits: _Waits,
    refused: int,
    least_gain: float | None,
) -> tuple[bool, str]:
    total, below, target = summary["propagated"], summary["below_target"], summary["target"]
    waiting, pending = waits.unfinished + waits.unfilled + waits.reviewed, waits.pending
    others = "".join(
        f" {text}: {count}."
        for text, count in (
            ("Temporal segments that wait for people to finish their jobs", waits.unfinished),
            ("Temporal segments that wait to be filled by the next load", waits.unfilled),
            ("Temporal segments that are out for review", waits.reviewed),
            ("Frames of further rounds that people have", pending),
        )
        if count
    )
    if not total:
        if waiting or pending:
            then = " Load their work first." if waits.unfinished or waits.reviewed or pending else ""
            what = (
                "Everything that was propagated is with reviewers" if waits.reviewed else "Nothing was propagated yet"
            )
            return False, f"{what}.{others}{then}"
        return True, "Nothing was propagated: people annotated every frame, or no object on any."
    if frames:
        return False, (
            f"{below} of {total} labels between the exemplars are expected below J {target:g}, "
            f"{summary['predicted_j']:.2f} on average.{others}"
        )
    if not below:
        return not waiting, f"Every label between the exemplars is expected at J {target:g} or better.{others}"
    if refused:
        return not waiting, f"No frame is expected to gain {least_gain:g} of J a minute.{others}"
    if pending:
        return False, f"No further frame gains anything before those are back that people have.{others}"
    return not waiting, f"No frame is left whose annotation is expected to change anything.{others}"


class _Waits(NamedTuple):
    """What is not known yet.

    Args:
        unfinished: segments whose first jobs people have not finished
        unfilled: segments that no load filled since those were finished, or whose propagated labels are gone
        reviewed: segments that people look through as a whole, so that nothing is to be chosen from them
        pending: frames of further rounds that people have
    """

    unfinished: int
    unfilled: int
    reviewed: int
    pending: int


def _parts(results: LabelPropResults, outputs: Mapping[str, str]) -> tuple[list[_Part], _Waits]:
    """The filled segments, and what is not known of the others."""
    ledger, drawn = results.ledger, drawn_kinds(results.config)
    parts, unfinished, unfilled, reviewed = [], 0, 0, 0
    with_people: dict[str, set[int]] = {}
    deleted: dict[str, set[int]] = {}
    for task, job in ledger.annotation_jobs():
        if not job.collected:
            with_people.setdefault(task.sequence, set()).update(job.positions)
    for task, job in ledger.jobs():
        deleted.setdefault(task.sequence, set()).update(job.deleted)
    out, pending = ledger.under_review(), 0
    limits = results.config.frame_limits()
    for place, (key, record) in enumerate(ledger.sequences.items()):
        if record.independent:
            continue
        gone = deleted.get(key, set())
        sequence = results.sequence(key)
        allowed = limits.allowed(results.dataset, sequence, place)
        if gone:
            # A frame that people deleted in CVAT is one that they don't want to annotate.
            allowed = frozenset(range(len(record)) if allowed is None else allowed) - gone
        for number, segment in enumerate(record.segments):
            if segment.stop <= segment.start or not segment.exemplars:
                continue
            if (key, number) in out:
                reviewed += 1
                continue
            filled = [f for f in outputs if f in segment.fills and segment.fills[f].signature is not None]
            if not filled and not segment_is_collected(ledger, key, number):
                unfinished += 1
                continue
            filled = [f for f in filled if has_labels_field(results.dataset, record, outputs[f], segment.start)]
            if not filled:
                unfilled += 1
                continue
            sent = with_people.get(key, set()).intersection(segment.exemplars)
            pending += len(sent)
            part = _Part(record, sequence, segment, [], {}, set(), {}, sent, allowed)
            for step, label_field in enumerate(outputs):
                if label_field in filled:
                    output = _Output(outputs[label_field], drawn[label_field], segment.fills[label_field])
                    told_by = f" ({label_field})" if len(outputs) > 1 else ""
                    _read(results.dataset, part, output, step * _ID_STEP, told_by)
            keyframes = {known.frame for known in part.evidence if known.keyframe}
            part.annotated = exemplars_of(ledger, key, segment, keyframes, gone=gone)
            parts.append(part)
    return parts, _Waits(unfinished, unfilled, reviewed, pending)


class _Output(NamedTuple):
    """A filled field: its name, what people draw in it, and how it was filled."""

    name: str
    drawn: PromptKind
    fill: FillRecord


def _read(dataset: fo.Dataset, part: _Part, output: _Output, first_id: int, told_by: str) -> None:
    """Reads what propagated labels say of themselves, without their masks."""
    followed = followed_as(output.drawn, output.fill)
    for label in known_labels(dataset, part.record, part.segment, output.name, followed):
        index = label.evidence.object_id
        object_id = first_id + index
        part.names.setdefault(object_id, f"{label.name} {index}{told_by}")
        part.own_index[object_id] = index
        part.kinds.setdefault(object_id, output.drawn)
        part.evidence.append(replace(as_sure(label), object_id=object_id))
        if label.confirmed:
            part.confirmed.add((label.evidence.frame, object_id))


def _next(part: _Part, budget: int, model: QualityModel) -> list[NextFrame]:
    # The frames are read to see how hard the steps between them are.
    with late_bar(f"frames of {part.segment.label} looked at", len(part.span)) as progress:
        return next_frames(
            part.span,
            part.expected,
            sorted(part.annotated | part.with_people),
            budget,
            source=part.sequence.source,
            model=model,
            objects=part.names,
            allowed=part.allowed,
            frame_name=part.name_of,
            progress=progress,
        )


def _minutes(frame: NextFrame, part: _Part, effort: EffortModel) -> float:
    """What it takes to correct the propagated objects of a frame."""
    there = {known.object_id for known in part.evidence if known.frame == frame.frame}
    by_kind = Counter(part.kinds[object_id] for object_id in there)
    total = 0.0
    for kind, count in by_kind.items():
        qualities = [part.predicted.get((frame.frame, i), 0.0) for i in there if part.kinds[i] is kind]
        total += effort.minutes_for_frame(kind, count, prefilled=True, quality=sum(qualities) / len(qualities))
    return total or effort.minutes_for_frame(next(iter(part.kinds.values()), PromptKind.MASK), max(1, len(part.names)))


def _suggested(part: _Part, frame: NextFrame, minutes: float, best: float) -> SuggestedFrame:
    ref = part.record.ref(frame.frame)
    is_video = part.record.media_type == "video"
    return SuggestedFrame(
        sequence=part.record.key,
        sequence_name=part.record.name,
        segment=part.segment.label,
        position=frame.frame,
        sample_id=ref.sample_id,
        frame_number=ref.frame_number,
        filepath=str(part.sequence.filepaths[0 if is_video else frame.frame]),
        score=frame.gain / best if best > 0 else 0.0,
        gain=frame.gain,
        minutes=minutes,
        reasons=tuple(
            reason if reason.object_id is None else replace(reason, object_id=part.own_index[reason.object_id])
            for reason in frame.reasons
        ),
    )


def frames_by_sequence(ledger: Ledger, frames: Any) -> dict[str, list[int]]:
    """The positions of some frames in the sequences of a run.

    Args:
        ledger: the run
        frames: :class:`SuggestedFrame` or :class:`~labelprop_cvat.sequences.FrameRef`, in any order

    Raises:
        DataError: a frame is none of the run's, or what is given is no frame
    """
    at: dict[FrameRef, tuple[str, int]] = {}
    for key, record in ledger.sequences.items():
        if not record.independent:
            at.update({record.ref(position): (key, position) for position in range(len(record))})
    found: dict[str, list[int]] = {}
    for frame in frames:
        ref = frame.ref if isinstance(frame, SuggestedFrame) else frame
        if not isinstance(ref, FrameRef):
            raise DataError(f"Expected frames as FrameRef(sample_id, frame_number) or suggested ones, got {frame!r}.")
        if ref not in at:
            raise DataError(f"{ref} is no frame of a sequence of this run.")
        key, position = at[ref]
        found.setdefault(key, []).append(position)
    return found


__all__ = ["DEFAULT_TARGET", "SuggestedFrame", "Suggestions", "frames_by_sequence", "suggest_frames"]
