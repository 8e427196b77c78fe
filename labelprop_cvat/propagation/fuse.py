"""Passes from several exemplars and both directions become one answer with a confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelprop_cvat.propagation._tracking import Estimate
from labelprop_cvat.propagation._windows import FloatMap, Window, paste
from labelprop_cvat.propagation.types import BoolArray, ObjectMask


@dataclass(frozen=True)
class Fused:
    """One object's probability on one frame.

    Args:
        window: where it lies
        probability: array over ``window`` in [0, 1]
        trust: array over ``window`` in [0, 1]
    """

    window: Window
    probability: FloatMap
    trust: FloatMap


def fuse_sides(forward: Estimate | None, backward: Estimate | None, progress: float) -> Fused | None:
    """One answer from both sides of a gap, each weighted by nearness in time and by trust, pixel by pixel.

    Args:
        forward: from the exemplar before; None when there is none or it was lost
        backward: from the exemplar behind
        progress: where the frame lies in the gap: 0 at the exemplar before, 1 at the one behind
    """
    sides = [(e, w) for e, w in ((forward, 1.0 - progress), (backward, progress)) if e is not None]
    if not sides:
        return None
    if len(sides) == 1:
        only = sides[0][0]
        return Fused(only.window, only.probability, only.trust)
    window = sides[0][0].window.joined(sides[1][0].window)
    votes = np.zeros(window.shape, dtype=np.float32)
    weights = np.zeros(window.shape, dtype=np.float32)
    trust = np.zeros(window.shape, dtype=np.float32)
    for estimate, nearness in sides:
        there = paste(estimate.trust, estimate.window, window, fill=0.1)
        weights += nearness * there
        votes += nearness * there * paste(estimate.probability, estimate.window, window)
        trust = np.maximum(trust, there)
    return Fused(window, votes / (weights + 1e-6), trust)


def resolve_overlaps(
    objects: Mapping[int, Fused], taken: Mapping[int, ObjectMask], size: tuple[int, int]
) -> dict[int, ObjectMask]:
    """Gives every pixel to the likeliest object, or to none.

    Args:
        objects: what was propagated, by object
        taken: the masks of objects that a person drew on this frame; their pixels are not given away
        size: ``(height, width)`` of the frame

    Returns:
        the masks of those of ``objects`` that keep a pixel
    """
    if len(objects) == 1 and not taken:
        ((object_id, only),) = objects.items()
        mask = _mask(only, only.probability > 0.5, size)
        return {} if mask is None else {object_id: mask}
    best = np.full(size, 0.5, dtype=np.float32)
    owner = np.zeros(size, dtype=np.int32)
    for human in taken.values():
        x1, y1, x2, y2 = human.box
        best[y1:y2, x1:x2][human.crop] = np.inf
    for object_id, fused in sorted(objects.items()):
        inside = fused.window.clipped(size)
        probability = paste(fused.probability, fused.window, inside)
        part = slice(inside.y1, inside.y2), slice(inside.x1, inside.x2)
        wins = probability > best[part]
        best[part][wins] = probability[wins]
        owner[part][wins] = object_id
    masks: dict[int, ObjectMask] = {}
    for object_id, fused in objects.items():
        inside = fused.window.clipped(size)
        won = owner[inside.y1 : inside.y2, inside.x1 : inside.x2] == object_id
        mask = ObjectMask.from_crop(inside.x1, inside.y1, won)
        if mask is not None:
            masks[object_id] = mask
    return masks


def mask_confidence(fused: Fused, mask: ObjectMask) -> float:
    """How sure a mask is, in [0, 1]: mean clearness of its pixels and of the doubtful ones around it, times trust."""
    window = Window(*mask.box)
    probability = paste(fused.probability, fused.window, window)
    trust = paste(fused.trust, fused.window, window)
    sure = float(probability[mask.crop].mean())
    return float(np.clip((2.0 * sure - 1.0) * np.sqrt(float(trust[mask.crop].mean())), 0.0, 1.0))


def _mask(fused: Fused, won: BoolArray, size: tuple[int, int]) -> ObjectMask | None:
    inside = fused.window.clipped(size)
    return ObjectMask.from_crop(inside.x1, inside.y1, paste(won, fused.window, inside))


__all__ = ["Fused", "fuse_sides", "mask_confidence", "resolve_overlaps"]
