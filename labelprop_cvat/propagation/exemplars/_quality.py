"""How good a propagated object will turn out to be, by what is known without the truth."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import PromptKind, Segment

FloatArray = npt.NDArray[np.float64]

_CLEAR = 0.02
# A few measured labels say how good an engine is on this footage; many are needed to say how its cues are to be read.
_PRIOR_WEIGHT = 30.0
_SHIFT_WEIGHT = 0.5


@dataclass(frozen=True)
class Evidence:
    """What is known of one propagated or annotated object on one frame.

    Args:
        frame: 0-based position
        object_id: the object's number, from 1
        confidence: the engine's, in [0, 1]
        agreement: IoU in [0, 1] of what the passes from the exemplars on both sides say by themselves; None with one
        area: of the object as a share of the frame, in [0, 1]
        keyframe: whether a person set or confirmed it
        kind: the geometry that was followed; what a confidence is worth depends on it

    Raises:
        DataError: a value is out of range
    """

    frame: int
    object_id: int
    confidence: float
    agreement: float | None
    area: float
    keyframe: bool
    kind: PromptKind = PromptKind.MASK

    def __post_init__(self) -> None:
        given = (self.confidence, self.area, 0.0 if self.agreement is None else self.agreement)
        if not all(0.0 <= value <= 1.0 for value in given):
            raise DataError(
                f"Evidence needs confidence, agreement and area (a share of the frame) in [0, 1], got {self}."
            )


@dataclass(frozen=True)
class QualityModel:
    """Predicts J: a logistic function that never falls with confidence and agreement nor rises with distance.

    Args:
        one_sided: intercept and the weights of confidence and nearness, where one pass ran
        two_sided: intercept and the weights of confidence, agreement and nearness, where two did
        vanished: J to expect where an engine says that an object is not there which the exemplars around show
        left: the same where an exemplar on one side says so too
        boxes: what is asked instead about objects that were followed as boxes; None to ask this one
    """

    one_sided: tuple[float, float, float] = (-0.69, 1.94, 0.08)
    two_sided: tuple[float, float, float, float] = (0.21, 1.45, 0.08, 0.23)
    vanished: float = 0.2
    left: float = 0.6
    boxes: QualityModel | None = None

    def predict(self, evidence: Evidence, distance: float) -> float:
        """Expected J, in [0, 1]; 1 on keyframes.

        Args:
            evidence: of the object on the frame
            distance: frames to the nearest exemplar that tells of the object, from 0
        """
        if evidence.keyframe:
            return 1.0
        weights, cues = self.of(evidence.kind)._weights(evidence), _cues(evidence, distance)
        return float(1.0 / (1.0 + math.exp(-float(np.dot(weights, cues)))))

    def of(self, kind: PromptKind) -> QualityModel:
        """The model that knows objects of a geometry."""
        return self.boxes if kind is PromptKind.BOX and self.boxes is not None else self

    def fitted(self, pairs: Iterable[tuple[Evidence, float, float]]) -> QualityModel:
        """The model that fits what was measured, drawn to this one where little was.

        Args:
            pairs: evidence, its distance in frames, and the J that was measured; keyframes are passed over

        Returns:
            monotone as this one; this very model where nothing was measured. Boxes say nothing of masks, nor masks of
            boxes, where this model tells them apart
        """
        if self.boxes is not None:
            every = list(pairs)
            boxes = [pair for pair in every if pair[0].kind is PromptKind.BOX]
            others = [pair for pair in every if pair[0].kind is not PromptKind.BOX]
            return replace(replace(self, boxes=None).fitted(others), boxes=self.boxes.fitted(boxes))
        one, two = len(self.one_sided), len(self.two_sided)
        rows: list[list[float]] = []
        truth: list[float] = []
        for evidence, distance, measured in pairs:
            if not evidence.keyframe:
                cues = _cues(evidence, distance)
                sides = [*cues, *[0.0] * two] if evidence.agreement is None else [*[0.0] * one, *cues]
                rows.append([*sides, 1.0])
                truth.append(measured)
        if not rows:
            return self
        weights = _fit(np.array(rows), np.array(truth), [*self.one_sided, *self.two_sided, 0.0], (0, one))
        a, b, c = weights[:one]
        d, e, f, g = weights[one:-1]
        shift = weights[-1]
        return replace(self, one_sided=(a + shift, b, c), two_sided=(d + shift, e, f, g))

    def _weights(self, evidence: Evidence) -> tuple[float, ...]:
        return self.one_sided if evidence.agreement is None else self.two_sided


BOX_MODEL = QualityModel(one_sided=(2.16, 0.45, 0.93), two_sided=(0.58, 0.61, 0.05, 0.32))
"""Of boxes that the engine ``flow`` followed: of two passes one may be lost, and the box be good nevertheless."""

DEFAULT_MODEL = QualityModel(boxes=BOX_MODEL)
"""Of the engine ``flow``, fitted on real sequences; docs/choosing-frames.md says which, and how far it is off."""


def predicted_j_of(
    segment: Segment,
    evidence: Sequence[Evidence],
    annotated: Collection[int],
    model: QualityModel = DEFAULT_MODEL,
) -> dict[tuple[int, int], float]:
    """Predicted J of every object on every frame of a segment where it is or should perhaps be.

    Args:
        segment: the frames
        evidence: what is known; of other frames, passed over
        annotated: the exemplars of the segment
        model: what makes J of it

    Returns:
        ``(frame, object_id)`` -> J in [0, 1], 1 where a person set it. No entry where an object has no evidence and the
        exemplars around do not show it: there it is rightly absent
    """
    predicted: dict[tuple[int, int], float] = {}
    exemplars = sorted({frame for frame in annotated if frame in segment})
    for object_id, track in tracks_of(segment, evidence).items():
        shown = sorted(frame for frame, known in track.items() if known.keyframe)
        told = sorted({*exemplars, *shown})
        near = shown or exemplars
        kind = next(iter(track.values())).kind
        for frame in segment.frames:
            known = track.get(frame)
            if known is not None:
                predicted[frame, object_id] = model.predict(known, distance_to(near, frame))
            elif frame not in told:
                doubt = _absence(model.of(kind), told, set(shown), frame)
                if doubt is not None:
                    predicted[frame, object_id] = doubt
    return predicted


def tracks_of(segment: Segment, evidence: Sequence[Evidence]) -> dict[int, Mapping[int, Evidence]]:
    """The evidence on a segment's frames by object and frame, objects ascending."""
    tracks: dict[int, dict[int, Evidence]] = {}
    for known in sorted(evidence, key=lambda known: (known.object_id, known.frame)):
        if known.frame in segment:
            tracks.setdefault(known.object_id, {})[known.frame] = known
    return dict(tracks)


def distance_to(exemplars: Sequence[int], frame: int) -> float:
    """Frames to the nearest of some ascending positions; infinite when there are none."""
    place = bisect_left(exemplars, frame)
    return min((abs(frame - other) for other in exemplars[max(0, place - 1) : place + 1]), default=math.inf)


def _absence(model: QualityModel, told: Sequence[int], shown: Collection[int], frame: int) -> float | None:
    """J to expect of an object that was not found; None where nobody looked for it."""
    place = bisect_right(told, frame)
    around = [told[i] in shown for i in (place - 1, place) if 0 <= i < len(told)]
    if not any(around):
        return None
    return model.vanished if all(around) else model.left


def _cues(evidence: Evidence, distance: float) -> list[float]:
    nearness = -math.log1p(min(distance, 1e6))
    if evidence.agreement is None:
        return [1.0, _odds(evidence.confidence), nearness]
    return [1.0, _odds(evidence.confidence), _odds(evidence.agreement), nearness]


def _odds(share: float) -> float:
    return math.log((share + _CLEAR) / (1.0 - share + _CLEAR))


def _fit(cues: FloatArray, truth: FloatArray, prior: Sequence[float], intercepts: Sequence[int]) -> list[float]:
    """Logistic weights; the last one shifts all scores alike and moves first."""
    # Only fitting needs an optimiser, so that the rest works without SciPy.
    from scipy.optimize import minimize

    start = np.array(prior, dtype=np.float64)
    stiffness = np.full(len(start), _PRIOR_WEIGHT)
    stiffness[-1] = _SHIFT_WEIGHT

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        score = cues @ weights
        gap = 1.0 / (1.0 + np.exp(-score)) - truth
        away = weights - start
        value = float((np.logaddexp(0.0, score) - truth * score).sum() + 0.5 * (stiffness * away) @ away)
        return value, cues.T @ gap + stiffness * away

    free = {*intercepts, len(start) - 1}
    bounds = [(None, None) if place in free else (0.0, None) for place in range(len(start))]
    return [float(weight) for weight in minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x]


__all__ = ["BOX_MODEL", "DEFAULT_MODEL", "Evidence", "QualityModel", "distance_to", "predicted_j_of", "tracks_of"]
