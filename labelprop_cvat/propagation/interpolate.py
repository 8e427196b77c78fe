"""The baselines: what CVAT alone would show between keyframes, and holding the nearest one. Neither sees the images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.propagator import PropagatorSpec, check_prompts
from labelprop_cvat.propagation.types import Box, FrameObjects, ObjectState, Prompt, PromptKind, Ring, Segment

FloatArray = npt.NDArray[np.float64]

GEOMETRIES = frozenset({PromptKind.MASK, PromptKind.BOX, PromptKind.POLYGON})
HALF_LIFE = 10.0
"""Distance in frames over which the confidence of a shape that nobody checked falls to one half."""

_CURVE_SAMPLES = 64
# A person who drags vertices keeps their order; only a much better fit says that the polygon was drawn anew.
_CLEARLY_BETTER = 0.25


class InterpolatePropagator:
    """What CVAT alone would give: boxes and polygons move linearly between keyframes, masks hold until the next one.

    An object is not there before its first keyframe; its last one holds to the end of the span. ``ABSENT`` ends the
    object until its next keyframe, and the shape before it holds until then. Keyframes of different geometry hold.
    """

    @property
    def spec(self) -> PropagatorSpec:
        """Static facts about the engine."""
        return PropagatorSpec(name="interpolate", accepts=GEOMETRIES, reads_frames=False)

    def propagate(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        """See :meth:`labelprop_cvat.propagation.propagator.Propagator.propagate`; ``frames`` is not read."""
        check_prompts(self.spec, prompts, span)
        return self._answers(prompts, span)

    def _answers(self, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        tracks = {object_id: _LinearTrack(keyframes) for object_id, keyframes in keyframes_by_object(prompts).items()}
        for frame in span.frames:
            states = {object_id: track.state(frame) for object_id, track in tracks.items()}
            yield FrameObjects(frame, {object_id: state for object_id, state in states.items() if state is not None})


class HoldPropagator:
    """The nearest keyframe's shape as it is, on either side; of two equally near ones the earlier."""

    @property
    def spec(self) -> PropagatorSpec:
        """Static facts about the engine."""
        return PropagatorSpec(name="hold", accepts=GEOMETRIES, reads_frames=False)

    def propagate(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        """See :meth:`labelprop_cvat.propagation.propagator.Propagator.propagate`; ``frames`` is not read."""
        check_prompts(self.spec, prompts, span)
        return self._answers(prompts, span)

    def _answers(self, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        tracks = keyframes_by_object(prompts)
        for frame in span.frames:
            nearest = {
                object_id: min(keyframes, key=lambda prompt: (abs(prompt.frame - frame), prompt.frame))
                for object_id, keyframes in tracks.items()
            }
            yield FrameObjects(
                frame, {object_id: held(prompt, frame) for object_id, prompt in nearest.items() if not prompt.absent}
            )


def keyframes_by_object(prompts: Sequence[Prompt]) -> dict[int, tuple[Prompt, ...]]:
    """The prompts of each object in the order of their frames, objects by ascending id."""
    tracks: dict[int, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: (prompt.object_id, prompt.frame)):
        tracks.setdefault(prompt.object_id, []).append(prompt)
    return {object_id: tuple(keyframes) for object_id, keyframes in tracks.items()}


def held(prompt: Prompt, frame: int) -> ObjectState:
    """The state of a visible object on ``frame`` when the prompt's shape is kept: a keyframe where the prompt is."""
    on_keyframe = prompt.frame == frame
    return ObjectState(
        mask=prompt.mask,
        box=prompt.box,
        polygon=prompt.polygon,
        confidence=1.0 if on_keyframe else distance_confidence(abs(prompt.frame - frame)),
        exemplar_frames=(prompt.frame,),
        keyframe=on_keyframe,
    )


def distance_confidence(distance: float) -> float:
    """How far a shape can be trusted that nobody compared with the image, ``distance`` frames from its exemplar."""
    return float(0.5 ** (distance / HALF_LIFE))


def interpolate_box(first: Box, second: Box, weight: float) -> Box:
    """The box at ``weight`` in [0, 1] on the straight way from the first to the second."""
    x1, y1, x2, y2 = (a + (b - a) * weight for a, b in zip(first, second, strict=True))
    return x1, y1, x2, y2


class PolygonPath:
    """The straight way from one polygon to another, also when they differ in vertices, start or direction.

    Rings are paired by size and place. Within a pair, equal numbers of vertices are matched in order (another starting
    vertex only when that fits clearly better); different numbers by their share of the outline's length, with every
    vertex of both kept. A ring without a partner holds on its own side of the middle.

    Args:
        first: closed rings of ``(x, y)`` pixels
        second: the same, at the other end
    """

    def __init__(self, first: tuple[Ring, ...], second: tuple[Ring, ...]) -> None:
        rings = [np.asarray(ring, dtype=np.float64) for ring in first]
        others = [np.asarray(ring, dtype=np.float64) for ring in second]
        pairs, self._only_first, self._only_second = _pair_rings(rings, others)
        self._paths = [_match_vertices(ring, other) for ring, other in pairs]

    def at(self, weight: float) -> tuple[Ring, ...]:
        """The polygon at ``weight`` in [0, 1]: 0 is the first polygon's outline, 1 the second's."""
        rings = [start + (end - start) * weight for start, end in self._paths]
        rings += self._only_first if weight <= 0.5 else self._only_second
        return tuple(as_ring(ring) for ring in rings)


def as_ring(points: FloatArray) -> Ring:
    """Turns an array of shape ``(n, 2)`` into a ring."""
    return tuple((float(x), float(y)) for x, y in points)


class _LinearTrack:
    """One object's keyframes and the ways between them."""

    def __init__(self, keyframes: tuple[Prompt, ...]) -> None:
        self._keyframes = keyframes
        self._frames = [prompt.frame for prompt in keyframes]
        self._paths = {
            before.frame: PolygonPath(before.polygon, after.polygon)
            for before, after in pairwise(keyframes)
            if before.polygon is not None and after.polygon is not None
        }

    def state(self, frame: int) -> ObjectState | None:
        place = bisect_right(self._frames, frame) - 1
        if place < 0 or self._keyframes[place].absent:
            return None
        before = self._keyframes[place]
        after = self._keyframes[place + 1] if place + 1 < len(self._keyframes) else None
        if before.frame == frame or after is None or after.kind is not before.kind or before.mask is not None:
            return held(before, frame)
        return self._between(before, after, frame)

    def _between(self, before: Prompt, after: Prompt, frame: int) -> ObjectState:
        weight = (frame - before.frame) / (after.frame - before.frame)
        box = interpolate_box(before.box, after.box, weight) if before.box and after.box else None
        return ObjectState(
            box=box,
            polygon=self._paths[before.frame].at(weight) if box is None else None,
            confidence=distance_confidence(min(frame - before.frame, after.frame - frame)),
            exemplar_frames=(before.frame, after.frame),
        )


def _pair_rings(
    first: list[FloatArray], second: list[FloatArray]
) -> tuple[list[tuple[FloatArray, FloatArray]], list[FloatArray], list[FloatArray]]:
    """Pairs rings by nearness of centre and likeness of size, relative to the whole polygon's centre."""
    middles = [np.concatenate(rings).mean(axis=0) for rings in (first, second)]
    costs = sorted(
        (
            float(np.linalg.norm((a.mean(axis=0) - middles[0]) - (b.mean(axis=0) - middles[1])))
            + abs(np.sqrt(abs(_signed_area(a))) - np.sqrt(abs(_signed_area(b)))),
            i,
            j,
        )
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    )
    partner: dict[int, int] = {}
    for _, i, j in costs:
        if i not in partner and j not in partner.values():
            partner[i] = j
    pairs = [(first[i], second[j]) for i, j in sorted(partner.items())]
    return (
        pairs,
        [ring for i, ring in enumerate(first) if i not in partner],
        [ring for j, ring in enumerate(second) if j not in partner.values()],
    )


def _match_vertices(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two arrays of one shape ``(n, 2)`` whose rows belong together."""
    if _signed_area(first) * _signed_area(second) < 0:
        second = np.concatenate([second[:1], second[:0:-1]])
    if len(first) == len(second):
        return first, np.roll(second, -_best_shift(first, second, prefer_order=True), axis=0)
    return _common_vertices(first, second)


def _best_shift(first: FloatArray, second: FloatArray, prefer_order: bool) -> int:
    """The vertex of ``second`` to begin at so that it fits ``first`` best when both are centred."""
    centred = first - first.mean(axis=0)
    other = second - second.mean(axis=0)
    costs = [float(np.square(centred - np.roll(other, -shift, axis=0)).sum()) for shift in range(len(second))]
    best = int(np.argmin(costs))
    return 0 if prefer_order and costs[best] > _CLEARLY_BETTER * costs[0] else best


def _common_vertices(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both outlines with the vertices of both, matched by their share of the outline's length."""
    grid = np.arange(_CURVE_SAMPLES) / _CURVE_SAMPLES
    start = _best_shift(_along(first, grid), _along(second, grid), prefer_order=False) / _CURVE_SAMPLES
    shares = np.unique(np.concatenate([_shares(first), (_shares(second) - start) % 1.0]))
    return _along(first, shares), _along(second, (shares + start) % 1.0)


def _shares(ring: FloatArray) -> FloatArray:
    """Where on the outline each vertex lies, as a share of its length, from 0."""
    lengths = np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1)
    total = float(lengths.sum())
    if total == 0.0:
        return np.arange(len(ring)) / len(ring)
    return np.array([0.0, *accumulate(lengths[:-1])]) / total


def _along(ring: FloatArray, shares: FloatArray) -> FloatArray:
    """Points of the outline at the given shares of its length; array of shape ``(n, 2)``."""
    knots = np.append(_shares(ring), 1.0)
    closed = np.concatenate([ring, ring[:1]])
    return np.stack([np.interp(shares, knots, closed[:, axis]) for axis in (0, 1)], axis=1)


def _signed_area(ring: FloatArray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2.0


def make_interpolate(**options: object) -> InterpolatePropagator:
    """Makes the engine ``interpolate``; it has no options."""
    _refuse_options("interpolate", options)
    return InterpolatePropagator()


def make_hold(**options: object) -> HoldPropagator:
    """Makes the engine ``hold``; it has no options."""
    _refuse_options("hold", options)
    return HoldPropagator()


def _refuse_options(name: str, options: dict[str, object]) -> None:
    if options:
        found = ", ".join(sorted(options))
        raise ConfigurationError(f"The engine {name!r} has no options, got {found}. Leave them out.")


__all__ = [
    "GEOMETRIES",
    "HoldPropagator",
    "InterpolatePropagator",
    "PolygonPath",
    "as_ring",
    "distance_confidence",
    "held",
    "interpolate_box",
    "keyframes_by_object",
    "make_hold",
    "make_interpolate",
]
