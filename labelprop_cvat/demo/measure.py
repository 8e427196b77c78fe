"""Judges propagations by the truth: J, F and box IoU over the frames that nobody annotated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labelprop_cvat.demo.footage import Footage
from labelprop_cvat.propagation.metrics import ObjectScore, mean_box_iou, score_sequence
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import Box, FrameObjects, Prompt, PromptKind, Segment

OnFrame = Callable[[], object]

#: Whatever is worse is to be seen by anybody who looks.
POOR_J = 0.9


@dataclass(frozen=True)
class Part:
    """A temporal segment and the frames of it that a person annotated."""

    segment: Segment
    exemplars: frozenset[int]


@dataclass(frozen=True)
class Quality:
    """How good one way of filling the frames is.

    Args:
        name: of the engine
        j: region similarity, in [0, 1]: mean over the objects of each segment
        f: contour accuracy, likewise
        box_iou: mean IoU of the boxes around the objects, over frames and objects
        seconds: how long it took
        poor: how many objects on frames have a J below :data:`POOR_J`
        judged: of how many
    """

    name: str
    j: float
    f: float
    box_iou: float
    seconds: float
    poor: int = 0
    judged: int = 0


def quality(
    name: str,
    results: Mapping[int, FrameObjects],
    boxes: Mapping[int, FrameObjects],
    footage: Footage,
    parts: Sequence[Part],
    seconds: float,
) -> Quality:
    """Scores masks and boxes against the truth on the frames between the exemplars.

    Args:
        name: of the engine
        results: what it answered, by frame, ids as in the truth
        boxes: what it answered as boxes; a mask counts as the box around it
        footage: holds the truth
        parts: the temporal segments with their exemplars
        seconds: how long it took
    """
    scores: list[ObjectScore] = []
    poor = judged = 0
    pairs: list[tuple[Box | None, Box | None]] = []
    for part in parts:
        missing = FrameObjects(0)
        answers = [FrameObjects(frame, results.get(frame, missing).objects) for frame in part.segment.frames]
        scored = score_sequence(answers, footage.truth, part.exemplars, footage.frames.size)
        scores += scored.objects
        poor += sum(score.j < POOR_J for score in scored.frames)
        judged += len(scored.frames)
        for frame in part.segment.frames:
            if frame in part.exemplars:
                continue
            truth, found = footage.truth(frame), boxes.get(frame, missing).objects
            for object_id in sorted(truth.keys() | found.keys()):
                state = found.get(object_id)
                answer = None if state is None else state.mask.box if state.mask is not None else state.box
                true = truth.get(object_id)
                pairs.append((answer, None if true is None else true.box))
    j = float(np.mean([score.j for score in scores])) if scores else math.nan
    f = float(np.mean([score.f for score in scores])) if scores else math.nan
    return Quality(name, j, f, mean_box_iou(pairs), seconds, poor, judged)


def run_engine(
    name: str, footage: Footage, prompts: Iterable[Prompt], parts: Sequence[Part], on_frame: OnFrame
) -> tuple[dict[int, FrameObjects], float]:
    """Fills the frames with an engine, outside FiftyOne: the way the baselines are made.

    Returns:
        the answers by frame, and the seconds it took
    """
    engine = get_propagator(name)
    given = list(prompts)
    answers = {}
    started = time.perf_counter()
    for part in parts:
        own = [prompt for prompt in given if prompt.frame in part.segment]
        for answer in engine.propagate(footage.frames, own, part.segment):
            answers[answer.frame] = answer
            on_frame()
    return answers, time.perf_counter() - started


def as_boxes(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The boxes around mask prompts: what a person gives who draws rectangles."""
    return [
        Prompt(prompt.frame, prompt.object_id, box=prompt.mask.box)
        if prompt.kind is PromptKind.MASK and prompt.mask is not None
        else prompt
        for prompt in prompts
    ]


__all__ = ["POOR_J", "Part", "Quality", "as_boxes", "quality", "run_engine"]
