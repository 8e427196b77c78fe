"""The next frames to annotate, given what is annotated and propagated already."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.exemplars._coverage import cover
from labelprop_cvat.propagation.exemplars._decay import DECAY, Decay
from labelprop_cvat.propagation.exemplars._medoids import distances, k_medoids
from labelprop_cvat.propagation.exemplars._quality import (
    DEFAULT_MODEL,
    Evidence,
    QualityModel,
    distance_to,
    predicted_j_of,
    tracks_of,
)
from labelprop_cvat.propagation.exemplars._survey import Survey, survey
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.types import Segment

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

SPREADS = ("gain", "clusters")

_MOST_CANDIDATES = 1000
_FINE = 0.9
# What nobody would complain of: the cue that is to blame is the one whose mending to this would help most.
_SURE, _AGREED, _NEAR = 0.9, 0.85, 2.0
# Passes that have less in common show two different things.
_DISAGREES = 0.5


@dataclass(frozen=True)
class Reason:
    """Why a frame is worth annotating.

    Args:
        object_id: the object it is about; None where nothing is known of objects yet
        predicted_j: J to expect of that object on that frame as it is, in [0, 1]
        why: a short sentence for people
        label: the object's class or name, where known
    """

    object_id: int | None
    predicted_j: float
    why: str
    label: str | None = None


@dataclass(frozen=True)
class NextFrame:
    """A frame to annotate next.

    Args:
        frame: 0-based position
        score: in [0, 1]: its gain as a share of the best one's, between 0.5 and 1
        gain: predicted rise of the segment's summed J, in object-frames, if it is annotated after those with more gain
        reasons: the objects that are worst on it, worst first
    """

    frame: int
    score: float
    gain: float
    reasons: tuple[Reason, ...]


def next_frames(
    segment: Segment,
    evidence: Sequence[Evidence],
    annotated: Collection[int],
    budget: int,
    *,
    source: FrameSource | None = None,
    model: QualityModel = DEFAULT_MODEL,
    objects: Mapping[int, str] | None = None,
    allowed: Container[int] | None = None,
    frame_name: Callable[[int], str] = str,
    decay: Decay = DECAY,
    spread: str = "gain",
    seen: Survey | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[NextFrame]:
    """The frames of a segment that people should annotate next, with reasons.

    What a frame loses is what the evidence says of its objects and what its distance from the exemplars would let one
    expect, in equal parts (the geometric mean). Of the worse half of the frames, those are taken one after the
    other that are predicted to gain most, given those taken before: a frame takes away most of what is lost around it,
    so that the next one lies elsewhere. Where nothing was propagated yet, the choice is ``coverage``'s, and the reasons
    say so.

    Args:
        segment: the frames
        evidence: what is known of the objects on them
        annotated: the exemplars that the segment has
        budget: how many frames, from 0; fewer come back when there are no more, or when no frame gains anything
        source: the sequence; without it, frames are told apart by time only, and steps between them count the same
        model: what makes J of evidence
        objects: names of the objects, for the reasons
        allowed: positions that may be chosen; all when left out
        frame_name: how people call a position, for the reasons
        decay: how J falls with the way to an exemplar
        spread: ``"gain"`` as said above, or ``"clusters"``: the half is first clustered by time and looks into as many
            clusters as frames are asked for, and each gives its best frame. That is how active learning spreads its
            samples where one says little about the others; here it chose no better
        seen: what :func:`survey` saw of the segment, where it is known already
        progress: called with the number of frames read

    Returns:
        by falling gain

    Raises:
        ConfigurationError: ``budget`` is negative, or there is no such ``spread``
        DataError: a frame cannot be read
    """
    if budget < 0:
        raise ConfigurationError(f"A budget counts frames from 0, got {budget!r}.")
    if spread not in SPREADS:
        raise ConfigurationError(f"Frames are spread by {' or '.join(map(repr, SPREADS))}, got {spread!r}.")
    exemplars = sorted({frame for frame in annotated if frame in segment})
    taken = set(exemplars)
    open_ = [f for f in segment.frames if f not in taken and (allowed is None or f in allowed)]
    if not open_ or budget == 0:
        return []
    if seen is None and source is not None:
        seen = survey(source, segment, features=spread == "clusters", progress=progress)
    ways = decay.lengths(np.zeros(len(segment) - 1) if seen is None or not seen.difficulty.size else seen.difficulty)
    gains = _Gains(segment, exemplars, ways, decay)
    if all(known.keyframe for known in evidence if known.frame in segment):
        because = "nothing was propagated yet; chosen by how much changes between the frames"
        logger.info("Frames %d..%d: %s.", segment.start, segment.stop - 1, because)
        at = [frame - segment.start for frame in exemplars]
        choice = cover(ways, decay, [frame - segment.start for frame in open_], at, budget).chosen
        loss = decay.errors(gains.places, at) * max(1, len(objects or ()))
        return _uninformed(gains, segment.start, choice, loss, because)
    predicted = predicted_j_of(segment, evidence, exemplars, model)
    objects_on = np.zeros(len(segment))
    for (frame, _), j in predicted.items():
        gains.loss[frame - segment.start] += 1.0 - j
        objects_on[frame - segment.start] += 1.0
    # A confident engine may be wrong far from its exemplars, and a doubtful one right near them: both have a say.
    expected = decay.errors(gains.places, [frame - segment.start for frame in exemplars]) * objects_on
    gains.loss = np.sqrt(gains.loss * expected)
    doubtful = _doubtful(gains.loss, [frame - segment.start for frame in open_], budget)
    clusters = [doubtful]
    if spread == "clusters":
        clusters = _clusters(doubtful, budget, None if seen is None or not seen.features.size else seen.features)
    picked = _picked(gains, clusters, budget)
    words = Because(segment, evidence, exemplars, predicted, model, frame_name, objects or {})
    found = [NextFrame(segment.start + at, 1.0, gain, words.of(segment.start + at)) for at, gain in picked]
    return _scored(found)


class _Gains:
    """Predicted loss of every frame, and what an exemplar takes away of it."""

    def __init__(self, segment: Segment, exemplars: Sequence[int], ways: FloatArray, decay: Decay) -> None:
        self.loss: FloatArray = np.zeros(len(segment))
        """Summed over objects, by frame of the segment."""
        self._decay = decay
        self.places = np.concatenate([[0.0], np.cumsum(ways)])
        self._exemplars = [frame - segment.start for frame in exemplars]

    def of(self, at: int) -> float:
        """What annotating a frame gains."""
        low, high, left = self._left(at)
        return float((self.loss[low:high] * (1.0 - left)).sum())

    def take(self, at: int) -> None:
        """Makes a frame an exemplar."""
        low, high, left = self._left(at)
        self.loss[low:high] *= left
        self._exemplars.insert(bisect_right(self._exemplars, at), at)

    def _left(self, at: int) -> tuple[int, int, FloatArray]:
        """The frames between the exemplars around one, and the share of their loss that is left with it as one."""
        place = bisect_right(self._exemplars, at)
        low = self._exemplars[place - 1] if place else 0
        high = self._exemplars[place] + 1 if place < len(self._exemplars) else len(self.places)
        ends = self._exemplars[max(0, place - 1) : place + 1]
        part = self.places[low:high]
        before = self._decay.errors(part, [end - low for end in ends])
        after = self._decay.errors(part, [*(end - low for end in ends), at - low])
        return low, high, np.minimum(after / np.maximum(before, 1e-9), 1.0)


def _doubtful(loss: FloatArray, open_: Sequence[int], budget: int) -> list[int]:
    """The half of the open frames with the largest loss, but never fewer than are asked for; ascending."""
    ranked = sorted(open_, key=lambda at: (-loss[at], at))
    half = ranked[: max(budget, -(-len(ranked) // 2))]
    if len(half) > _MOST_CANDIDATES:
        # Evenly over time: a long segment's neighbours are much the same.
        half = sorted(half)[:: -(-len(half) // max(_MOST_CANDIDATES, budget))]
    return sorted(half)


def _clusters(doubtful: Sequence[int], count: int, features: FloatArray | None) -> list[list[int]]:
    if count >= len(doubtful):
        return [[at] for at in doubtful]
    apart = _relative(np.abs(np.subtract.outer(doubtful, doubtful)).astype(np.float64))
    if features is not None:
        apart = np.hypot(apart, _relative(distances(features[list(doubtful)])))
    medoids = k_medoids(apart, count)
    nearest = np.argmin(apart[:, medoids], axis=1)
    return [
        [at for at, mine in zip(doubtful, nearest, strict=True) if mine == cluster] for cluster in range(len(medoids))
    ]


def _relative(apart: FloatArray) -> FloatArray:
    mean = float(apart.mean())
    return apart / mean if mean > 0.0 else apart


def _picked(gains: _Gains, clusters: Sequence[Sequence[int]], budget: int) -> list[tuple[int, float]]:
    """Frames with their gains after those before them, the best first; one of each cluster where there are several."""
    picked: list[tuple[int, float]] = []
    left = [list(cluster) for cluster in clusters]
    while left and len(picked) < budget:
        gain, _, at, number = max((gains.of(at), -at, at, n) for n, cluster in enumerate(left) for at in cluster)
        if gain <= 0.0:
            break
        gains.take(at)
        picked.append((at, gain))
        left[number].remove(at)
        if len(clusters) > 1 or not left[number]:
            del left[number]
    return picked


def _scored(found: Sequence[NextFrame]) -> list[NextFrame]:
    ranked = sorted(found, key=lambda entry: (-entry.gain, entry.frame))
    return [replace(entry, score=0.5 + 0.5 * entry.gain / ranked[0].gain) for entry in ranked]


def _uninformed(gains: _Gains, start: int, choice: Sequence[int], loss: FloatArray, because: str) -> list[NextFrame]:
    """A choice that was made without evidence, by falling gain."""
    gains.loss = loss.copy()
    picked = _picked(gains, [[at] for at in choice], len(choice))
    share = np.minimum(loss / max(float(loss.max()), 1e-9), 1.0)
    return _scored(
        [NextFrame(start + at, 1.0, gain, (Reason(None, float(1.0 - share[at]), because),)) for at, gain in picked]
    )


class Because:
    """Finds words for what is wrong with objects on frames.

    Args:
        segment: the frames
        evidence: what is known of the objects on them
        exemplars: ascending positions where people told of every object
        predicted: what :func:`predicted_j_of` made of these
        model: what made it
        frame_name: how people call a position
        objects: names of the objects
    """

    def __init__(
        self,
        segment: Segment,
        evidence: Sequence[Evidence],
        exemplars: Sequence[int],
        predicted: Mapping[tuple[int, int], float],
        model: QualityModel,
        frame_name: Callable[[int], str],
        objects: Mapping[int, str],
    ) -> None:
        self._tracks = tracks_of(segment, evidence)
        self._exemplars = exemplars
        self._predicted = predicted
        self._model = model
        self._name = frame_name
        self._objects = objects

    def of(self, frame: int) -> tuple[Reason, ...]:
        """The objects that are not fine on a frame, or the worst one; worst first."""
        known = sorted((j, object_id) for (at, object_id), j in self._predicted.items() if at == frame)
        worst = [(j, object_id) for j, object_id in known if j < _FINE] or known[:1]
        return tuple(
            Reason(object_id, j, self.why(frame, object_id), self._objects.get(object_id)) for j, object_id in worst
        )

    def why(self, frame: int, object_id: int) -> str:
        """What most speaks against an object on a frame, a few words without a full stop.

        Args:
            frame: one with a prediction for the object
            object_id: one with evidence
        """
        track = self._tracks[object_id]
        known = track.get(frame)
        if known is not None:
            return self._blamed(known, self._told_of(object_id))
        if frame - 1 in track:
            return "it disappears here"
        return "it appears here" if frame + 1 in track else "it is lost here"

    def disagreement(self, frame: int, object_id: int) -> str | None:
        """That the passes show different things, in words as of :meth:`why`; None where they do not, or one ran."""
        known = self._tracks[object_id].get(frame)
        if known is None or known.agreement is None or known.agreement >= _DISAGREES:
            return None
        return self._disagree(known, known.agreement, self._told_of(object_id))

    def _told_of(self, object_id: int) -> Sequence[int]:
        shown = sorted(at for at, known in self._tracks[object_id].items() if known.keyframe)
        return shown or self._exemplars

    def _disagree(self, known: Evidence, agreement: float, exemplars: Sequence[int]) -> str:
        place = bisect_right(exemplars, known.frame)
        around = " and ".join(self._name(at) for at in exemplars[max(0, place - 1) : place + 1])
        return f"the passes from frames {around} disagree (IoU {agreement:.2f})"

    def _blamed(self, known: Evidence, exemplars: Sequence[int]) -> str:
        """The cue whose mending would help most."""
        distance = distance_to(exemplars, known.frame)
        sure = replace(known, confidence=max(known.confidence, _SURE))
        causes = [(self._model.predict(sure, distance), f"confidence {known.confidence:.2f}")]
        if math.isfinite(distance):
            frames = "1 frame" if distance == 1 else f"{distance:.0f} frames"
            nearer = self._model.predict(known, min(distance, _NEAR))
            causes.append((nearer, f"{frames} from the nearest exemplar"))
        if known.agreement is not None:
            agreed = self._model.predict(replace(known, agreement=max(known.agreement, _AGREED)), distance)
            causes.append((agreed, self._disagree(known, known.agreement, exemplars)))
        return max(causes, key=lambda cause: cause[0])[1]


__all__ = ["Because", "NextFrame", "Reason", "next_frames"]
