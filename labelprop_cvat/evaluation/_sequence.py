"""One sequence from the dataset to its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import fiftyone as fo

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.evaluation._judging import Judge, OverlapSums, Row, columns
from labelprop_cvat.evaluation._reading import PairReader, Survey, Thing
from labelprop_cvat.evaluation.scores import SequenceResult
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.types import PromptKind
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import TemporalSegment

MATCHES = ("index", "overlap")
LEAVE_OUT = ("frames", "labels", "nothing")
TRUTHS = ("stored", "all")
UNFILLED = ("skip", "score")

OnFrame = Callable[[], Any]


@dataclass(frozen=True)
class Rules:
    """What counts; :func:`labelprop_cvat.workflow.evaluate` explains the values.

    Raises:
        ConfigurationError: there is no such value
    """

    match: str = "index"
    leave_out: str = "frames"
    truth: str = "stored"
    unfilled: str = "skip"
    iou: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("match", MATCHES), ("leave_out", LEAVE_OUT), ("truth", TRUTHS), ("unfilled", UNFILLED)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigurationError(f"{name}={value!r} is not known; expected one of {', '.join(known)}.")
        is_number = isinstance(self.iou, Real) and not isinstance(self.iou, bool)
        if not is_number or not 0.0 < self.iou <= 1.0:
            raise ConfigurationError(f"iou is the smallest IoU of a match, above 0 and at most 1; got {self.iou!r}.")


class Choice(NamedTuple):
    """What of a sequence is scored."""

    segments: list[TemporalSegment]
    annotated: frozenset[int]
    left_out: frozenset[int]
    notes: list[str]


def choose(sequence: FrameSequence, segments: Sequence[TemporalSegment], found: Survey, rules: Rules) -> Choice:
    """Which segments and frames of a sequence are scored, and a sentence about each thing that is not."""
    notes = []
    kept, unfilled, unknown = [], [], []
    for entry in segments:
        frames = entry.segment.frames
        if not any(position in found.known for position in frames):
            unknown.append(entry)
        elif rules.unfilled == "skip" and not any(position in found.predicted for position in frames):
            unfilled.append(entry)
        else:
            kept.append(entry)
    for entries, what in ((unknown, "no truth"), (unfilled, "no predictions")):
        if entries:
            names = ", ".join(entry.label or "the whole sequence" for entry in entries[:5])
            notes.append(f"{sequence.name}: {len(entries)} of {len(segments)} segments hold {what}: {names}.")
    inside = {position for entry in kept for position in entry.segment.frames}
    annotated = frozenset(found.people) & inside
    left_out = set(annotated) if rules.leave_out == "frames" else set()
    if rules.truth == "stored" and not inside <= found.known:
        without = inside - found.known
        left_out |= without
        notes.append(f"{sequence.name}: {len(without)} of {len(inside)} frames have no stored truth.")
    return Choice(kept, annotated, frozenset(left_out), notes)


def judge_sequence(
    samples: fo.core.collections.SampleCollection,
    sequence: FrameSequence,
    choice: Choice,
    pred_field: str,
    gt_field: str,
    rules: Rules,
    effort: EffortModel,
    on_frame: OnFrame | None = None,
) -> tuple[SequenceResult, list[Row], list[str]]:
    """Scores one sequence; its frames are read one after the other, and their masks let go of.

    Returns:
        what came of it, the object-frames behind it, and sentences about labels that could not be compared
    """
    reader = PairReader(samples, sequence, pred_field, gt_field, by_instance=rules.match == "overlap")
    positions = [position for entry in choice.segments for position in entry.segment.frames]
    matches = None
    if rules.match == "overlap":
        sums = OverlapSums()
        for position, predicted, true in reader.read(positions):
            if position not in choice.left_out:
                sums.add(predicted, true)
        matches = sums.matches()
    judge = Judge(
        sequence.size,
        choice.segments,
        choice.annotated,
        choice.left_out,
        without_people=rules.leave_out != "nothing",
        matches=matches,
        iou=rules.iou,
    )
    minutes = 0.0
    for position, predicted, true in reader.read(positions):
        judge.add(position, predicted, true)
        if position in choice.annotated:
            minutes += _minutes(predicted, effort)
        if on_frame is not None:
            on_frame()
    judged = judge.result()
    result = SequenceResult(
        key=sequence.key,
        name=sequence.name,
        media_type=sequence.media_type,
        length=len(sequence),
        annotated=tuple(sorted(choice.annotated)),
        scores=judged.scores,
        objects=judged.objects,
        segments=judged.segments,
        object_frames=columns(judged, judge),
        minutes=minutes,
        numbers=frame_numbers(sequence),
    )
    unread = zip(reader.unread, (pred_field, gt_field), strict=True)
    return result, judged.rows, [f"{sequence.name}: {note}" for side, name in unread for note in side.notes(name)]


def frame_numbers(sequence: FrameSequence) -> tuple[int, ...]:
    """What FiftyOne calls each frame: its number in the video; of images the position."""
    return tuple(
        position if ref.frame_number is None else ref.frame_number for position, ref in enumerate(sequence.frames)
    )


def _minutes(predicted: dict[int, Thing], effort: EffortModel) -> float:
    drawn = [thing for thing in predicted.values() if thing.person]
    kinds = [PromptKind.BOX if thing.mask is None else PromptKind.MASK for thing in drawn]
    return math.fsum(
        [effort.minutes_for_frame(PromptKind.MASK, 0), *(effort.seconds_for_object(kind) / 60.0 for kind in kinds)]
    )


__all__ = ["LEAVE_OUT", "MATCHES", "TRUTHS", "UNFILLED", "Choice", "Rules", "choose", "frame_numbers", "judge_sequence"]
