"""Quality against effort: what engines make of more and more frames annotated as the truth says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.evaluation._reading import PairReader, Thing
from labelprop_cvat.evaluation._sequence import Choice
from labelprop_cvat.evaluation.scores import Curve, CurvePoint
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.exemplars import ExemplarSpec
from labelprop_cvat.propagation.metrics import box_iou, jaccard, state_mask
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.types import FrameObjects, ObjectState, Prompt, PromptKind, Segment
from labelprop_cvat.sequences import Sequence as FrameSequence

BUDGETS = (1, 2, 4, 8)
FIRST = "first"
UNIFORM = "uniform"
METHODS = (UNIFORM, FIRST)
COUNTING = (UNIFORM, FIRST, "diverse", "coverage")
BASELINE = "interpolate"

Truth = Mapping[int, Mapping[int, Thing]]
OnFrame = Callable[[], Any]


@dataclass
class _Sums:
    """What one series made of one budget, over the segments so far."""

    frames: int = 0
    minutes: float = 0.0
    j: list[float] = field(default_factory=list)
    j_all: list[float] = field(default_factory=list)


@dataclass
class CurveMaker:
    """Runs an engine and the baseline from several budgets of true annotations, segment by segment.

    The truth of one segment is in memory at a time, and the frames that the engine itself keeps.

    Args:
        engine: what fills the frames
        budgets: annotated frames a segment, ascending
        methods: how these are chosen: ``"uniform"``, ``"first"`` (the first frame, and further ones evenly after it) or
            another method of :class:`~labelprop_cvat.propagation.exemplars.ExemplarSpec` that takes a number of frames:
            ``"diverse"`` or ``"coverage"``
        effort: what annotating costs

    Raises:
        ConfigurationError: a budget or a method does not exist
    """

    engine: Propagator
    budgets: Sequence[int] = BUDGETS
    methods: Sequence[str] = METHODS
    effort: EffortModel = field(default_factory=EffortModel)
    _sums: dict[tuple[str, str, int], _Sums] = field(default_factory=lambda: defaultdict(_Sums))

    def __post_init__(self) -> None:
        self.budgets = sorted(set(self.budgets))
        if not self.budgets or self.budgets[0] < 1 or any(int(budget) != budget for budget in self.budgets):
            raise ConfigurationError(f"Budgets are numbers of frames a segment, from 1; got {list(self.budgets)!r}.")
        for method in self.methods:
            # The numbers of others, such as every:n, mean something else.
            if method not in COUNTING:
                raise ConfigurationError(
                    f"Frames of curves are chosen by a method that takes a number of them, without the number: "
                    f"{', '.join(COUNTING)}; got {method!r}."
                )

    @property
    def series(self) -> list[tuple[Propagator, str]]:
        """The engine with each method, and the baseline with the first of them."""
        found = [(self.engine, method) for method in self.methods]
        if self.engine.spec.name != BASELINE:
            found.append((get_propagator(BASELINE), self.methods[0]))
        return found

    def runs(self, choice: Choice) -> int:
        """How many frames will be filled for a sequence."""
        return len(self.series) * len(self.budgets) * sum(len(entry.segment) for entry in choice.segments)

    def add(
        self,
        samples: fo.core.collections.SampleCollection,
        sequence: FrameSequence,
        choice: Choice,
        known: frozenset[int],
        gt_field: str,
        by_instance: bool,
        on_frame: OnFrame,
    ) -> None:
        """Takes the next sequence.

        Args:
            samples: the collection that the sequence was made of
            sequence: the sequence
            choice: its segments
            known: positions whose truth is known; others are neither annotated nor scored
            gt_field: field with the truth
            by_instance: tell objects without an index by their instance
            on_frame: called for each frame that was filled

        Raises:
            EngineError: the engine failed
            DataError: a frame or a label cannot be read
        """
        reader = PairReader(samples, sequence, gt_field, gt_field, by_instance)
        for entry in choice.segments:
            span = entry.segment
            truth = dict(reader.truth([position for position in span.frames if position in known]))
            ids = {key: number for number, key in enumerate(sorted({k for t in truth.values() for k in t}), start=1)}
            truth = {at: {ids[key]: thing for key, thing in things.items()} for at, things in truth.items()}
            if not ids:
                continue
            for engine, method in self.series:
                for budget in self.budgets:
                    frames = _chosen(method, budget, span, sequence, truth)
                    sums = self._sums[engine.spec.name, method, budget]
                    scores = _score(engine, sequence, span, truth, frames, on_frame)
                    sums.frames += len(frames)
                    sums.minutes += math.fsum(self._minutes(truth[frame].values()) for frame in frames)
                    for own in scores:
                        sums.j.append(float(np.mean(own)) if own else 1.0)
                        given = len(truth) - len(own)
                        sums.j_all.append((sum(own) + given) / len(truth))

    def curves(self) -> tuple[Curve, ...]:
        """The curves so far; those without any object are left out."""
        found = []
        for engine, method in self.series:
            points = []
            for budget in self.budgets:
                sums = self._sums.get((engine.spec.name, method, budget))
                if sums is not None and sums.j:
                    j, j_all = float(np.mean(sums.j)), float(np.mean(sums.j_all))
                    points.append(CurvePoint(budget, sums.frames, sums.minutes, j, j_all))
            if points:
                found.append(Curve(engine.spec.name, method, tuple(points)))
        return tuple(found)

    def _minutes(self, things: Iterable[Thing]) -> float:
        kinds = [PromptKind.BOX if thing.mask is None else PromptKind.MASK for thing in things]
        drawing = math.fsum(self.effort.seconds_for_object(kind) for kind in kinds) / 60.0
        return self.effort.minutes_for_frame(PromptKind.MASK, 0) + drawing


def _chosen(method: str, budget: int, span: Segment, sequence: FrameSequence, truth: Truth) -> list[int]:
    known = sorted(truth)
    if method == FIRST:
        count = min(budget, len(known))
        return [known[place * len(known) // count] for place in range(count)]
    spec = ExemplarSpec.parse(f"{method}:{budget}")
    return list(spec.choose(span, sequence.source if spec.needs_frames else None, allowed=frozenset(known)).frames)


def _prompts(truth: Truth, frames: Iterable[int]) -> Iterator[Prompt]:
    for frame in frames:
        for key, thing in truth[frame].items():
            if thing.mask is not None:
                yield Prompt(frame, key, mask=thing.mask)
            else:
                yield Prompt(frame, key, box=thing.box)


def _score(
    engine: Propagator, sequence: FrameSequence, span: Segment, truth: Truth, frames: Sequence[int], on_frame: OnFrame
) -> list[list[float]]:
    """The IoU of each true object on each frame of known truth that was not annotated; 1 where it is rightly absent."""
    prompts = list(_prompts(truth, frames))
    keys = sorted({key for things in truth.values() for key in things})
    scores: dict[int, list[float]] = {key: [] for key in keys}
    _check_takes(engine, prompts)
    # Where nothing is annotated, nothing is propagated.
    answers = engine.propagate(sequence.source, prompts, span) if prompts else map(FrameObjects, span.frames)
    for answer in answers:
        on_frame()
        if answer.frame in truth and answer.frame not in frames:
            things = truth[answer.frame]
            for key in keys:
                scores[key].append(_iou(answer.objects.get(key), things.get(key), sequence.size))
    return list(scores.values())


def _check_takes(engine: Propagator, prompts: Iterable[Prompt]) -> None:
    lacking = {prompt.kind for prompt in prompts} - engine.spec.accepts
    if lacking:
        raise DataError(
            f"The engine {engine.spec.name!r} does not take {' and '.join(sorted(kind.value for kind in lacking))}, "
            f"which the truth holds. Name another engine, or leave curves out."
        )


def _iou(state: ObjectState | None, thing: Thing | None, size: tuple[int, int]) -> float:
    if state is None or thing is None:
        return float(state is None and thing is None)
    if thing.mask is not None:
        return jaccard(state_mask(state, size), thing.mask)
    box = state.box if state.box is not None else state.mask.box if state.mask is not None else None
    return box_iou(box, thing.box) if box is not None else 0.0


__all__ = ["BASELINE", "BUDGETS", "FIRST", "METHODS", "UNIFORM", "CurveMaker"]
