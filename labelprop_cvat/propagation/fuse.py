"""Passes from several exemplars and both directions become one answer with a confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._appearance import colour_odds
from labelprop_cvat.propagation._evidence import islands, scene_odds
from labelprop_cvat.propagation._plate import UNSEEN, Novelty, doubled, halved
from labelprop_cvat.propagation._smoothing import SmoothingOptions, smoothed
from labelprop_cvat.propagation._tracking import Estimate
from labelprop_cvat.propagation._views import FrameView
from labelprop_cvat.propagation._windows import FloatMap, Window, cut, opencv, paste
from labelprop_cvat.propagation.types import BoolArray, Box, ObjectMask

FloatArray = npt.NDArray[np.float64]

_DRIFT_WEIGHT = 8.0
_BOX_NOISE = 0.002
_TRUST_UNSEEN = 0.1
_LEAST_DOUBT = 0.05
_STRAY_DENSITY = 0.05
_EXPECTED_SLACK = 0.1
_LEAST_DOUBT_LOGIT = 0.02
# Tuned on eleven DAVIS-like videos with an exemplar every 10th frame. The passes lose parts rather than invent them,
# which _MISSED makes up for, in logits; _FAR is a share of the object's size.
_PASSES_WEIGHT = 0.7
_MISSED = 0.5
_NOVELTY_WEIGHT = 0.5
_LEAST_NOVELTY = -1.0
_COLOUR_WEIGHT = 0.3
_DISTANCE_WEIGHT = 2.0
_FAR = 0.4
_SMALLEST_AREA = 25.0
# Passes whose masks overlap by less than 1 - _MUCH_APART leave all of it to the frame.
_MUCH_APART = 0.25
_LEAST_ASKED = 0.2
_NOT_THERE = -6.0


@dataclass(frozen=True)
class Fused:
    """One object's probability on one frame.

    Args:
        window: where it lies
        probability: array over ``window`` in [0, 1]
        trust: array over ``window`` in [0, 1]
        novelty: how far the image departs from the scene as either pass has seen it; over ``window.halved``
        doubt: in (0, 1]: how far the frame itself is to be asked, as passes that agree on it need no help
    """

    window: Window
    probability: FloatMap
    trust: FloatMap
    novelty: Novelty | None = None
    doubt: float = 1.0


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
        return Fused(only.window, only.probability, only.trust, only.novelty)
    window = sides[0][0].window.joined(sides[1][0].window)
    votes = np.zeros(window.shape, dtype=np.float32)
    weights = np.zeros(window.shape, dtype=np.float32)
    trust = np.zeros(window.shape, dtype=np.float32)
    for estimate, nearness in sides:
        there = paste(estimate.trust, estimate.window, window, fill=_TRUST_UNSEEN)
        # Odds, not shares: a side that saw the pixel well outweighs one that did not, however near it is in time.
        weight = nearness * there / np.maximum(1.0 - there, _LEAST_DOUBT)
        weights += weight
        votes += weight * paste(estimate.probability, estimate.window, window)
        trust = np.maximum(trust, there)
    # What one of the passes knows as scene is scene: the other one saw it covered, or from elsewhere.
    seen = [(e.novelty, e.window) for e, _ in sides if e.novelty is not None]
    novelty = np.full(window.halved.shape, UNSEEN, dtype=np.uint8)
    for departure, where in seen:
        np.minimum(novelty, paste(departure, where.halved, window.halved, fill=UNSEEN), out=novelty)
    first, second = (paste(e.probability > 0.5, e.window, window) for e, _ in sides)
    shared, either = int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))
    apart = 1.0 - shared / max(1, either)
    doubt = float(np.clip(apart / _MUCH_APART, _LEAST_ASKED, 1.0))
    return Fused(window, votes / (weights + 1e-6), trust, novelty if seen else None, doubt)


def refined(fused: Fused, view: FrameView, largest_area: int, options: SmoothingOptions) -> Fused:
    """The same with the probability drawn to the edges of the image; holes and specks go.

    Before that, what is doubtful is judged by what is clear on the same frame: by how far it departs from the scene
    behind, by its colour, and by how far it lies off what the passes see.

    Args:
        fused: one object on the frame of ``view``
        view: the frame
        largest_area: windows of more pixels are worked on at a smaller scale
        options: how strongly
    """
    window = fused.window
    colours = cut(view.colour(1.0), window)
    logit = _evidence(fused, view)
    height, width = window.shape
    shrink = min(1.0, math.sqrt(largest_area / (height * width)))
    if shrink < 1.0:
        small = max(1, round(width * shrink)), max(1, round(height * shrink))
        colours = opencv.resize(colours, small, interpolation=opencv.INTER_AREA)
        logit = opencv.resize(logit, small, interpolation=opencv.INTER_AREA)
    whole = smoothed(logit, colours, options)
    if shrink < 1.0:
        whole = opencv.resize(whole, (width, height), interpolation=opencv.INTER_LINEAR)
    return replace(fused, probability=whole)


def _evidence(fused: Fused, view: FrameView) -> FloatMap:
    """Everything that is known of each pixel, as logits: array over the window."""
    window = fused.window
    passes = opencv.log((fused.probability + _LEAST_DOUBT_LOGIT) / (1.0 + _LEAST_DOUBT_LOGIT - fused.probability))
    small = halved(fused.probability, window)
    inside = small > 0.5
    size = math.sqrt(max(_SMALLEST_AREA, float(np.count_nonzero(inside))))
    beside = opencv.distanceTransform((~inside).view(np.uint8), opencv.DIST_L2, opencv.DIST_MASK_3) / size
    rest = _DISTANCE_WEIGHT * np.minimum(beside / _FAR, 1.0) if inside.any() else np.zeros_like(small)
    rest = _MISSED - rest + _COLOUR_WEIGHT * colour_odds(cut(view.lab(0.5), window.halved), small)
    if fused.novelty is not None:
        odds = scene_odds(fused.novelty, small)
        rest += _NOVELTY_WEIGHT * np.maximum(odds, _LEAST_NOVELTY)
        rest[islands(small, odds)] = _NOT_THERE
    weight = 1.0 - (1.0 - _PASSES_WEIGHT) * fused.doubt
    return np.asarray(weight * passes + doubled((fused.doubt * rest).astype(np.float32), window), dtype=np.float32)


def fuse_boxes(line: Box, forward: Box, backward: Box, progress: float) -> Box:
    """The box between two passes, drawn back to the straight line between the exemplars where they prove nothing.

    What separates the passes is their drift; a departure from the line counts as far as it is larger than that (Wiener
    shrinkage), for the place and for the size by itself.

    Args:
        line: the box interpolated linearly between the exemplars
        forward: from the exemplar before
        backward: from the exemplar behind
        progress: 0 at the exemplar before, 1 at the one behind
    """
    scale = math.sqrt((line[2] - line[0]) * (line[3] - line[1]))
    straight, first, second = (_place_and_size(box, scale) for box in (line, forward, backward))
    followed = first + (second - first) * progress
    parts = []
    for part in (slice(0, 2), slice(2, 4)):
        signal = float(np.square(followed[part] - straight[part]).sum())
        noise = _DRIFT_WEIGHT * float(np.square(second[part] - first[part]).sum()) + _BOX_NOISE
        parts.append(straight[part] + (followed[part] - straight[part]) * signal / (signal + noise))
    (x, y), (width, height) = parts[0], np.exp(parts[1])
    x, y = x * scale, y * scale
    return float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2)


def _place_and_size(box: Box, scale: float) -> FloatArray:
    """Centre in units of the object's size, and the logarithms of width and height."""
    x1, y1, x2, y2 = box
    return np.array([(x1 + x2) / (2 * scale), (y1 + y2) / (2 * scale), math.log(x2 - x1), math.log(y2 - y1)])


def resolve_overlaps(
    objects: Mapping[int, Fused], taken: Mapping[int, ObjectMask], size: tuple[int, int]
) -> dict[int, ObjectMask]:
    """Gives every pixel to the likeliest object, or to none.

    Args:
        objects: what was propagated, by object; of equally likely ones the first gets the pixel
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
    for place, fused in enumerate(objects.values(), start=1):
        inside = fused.window.clipped(size)
        probability = paste(fused.probability, fused.window, inside)
        part = slice(inside.y1, inside.y2), slice(inside.x1, inside.x2)
        wins = probability > best[part]
        best[part][wins] = probability[wins]
        owner[part][wins] = place
    masks: dict[int, ObjectMask] = {}
    for place, (object_id, fused) in enumerate(objects.items(), start=1):
        inside = fused.window.clipped(size)
        won = owner[inside.y1 : inside.y2, inside.x1 : inside.x2] == place
        mask = ObjectMask.from_crop(inside.x1, inside.y1, won)
        if mask is not None:
            masks[object_id] = mask
    return masks


def without_strays(mask: ObjectMask, expected: Box) -> ObjectMask:
    """The mask without small parts off the place where the object is expected, see :func:`worthy_parts`.

    Args:
        mask: one object on one frame
        expected: the box around it by what people drew before and behind, interpolated; parts whose middle lies in it,
            or a little beside, stay however small they are: thin things fall apart
    """
    count, parts, stats, centres = opencv.connectedComponentsWithStats(mask.crop.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    x1, y1, x2, y2 = expected
    slack = _EXPECTED_SLACK * max(x2 - x1, y2 - y1)
    x, y = centres[1:, 0] + mask.x, centres[1:, 1] + mask.y
    inside = (x > x1 - slack) & (x < x2 + slack) & (y > y1 - slack) & (y < y2 + slack)
    kept = worthy_parts(stats[1:], _STRAY_DENSITY) | inside
    if kept.all():
        return mask
    return ObjectMask.from_crop(mask.x, mask.y, np.concatenate([[False], kept])[parts]) or mask


def worthy_parts(stats: npt.NDArray[np.int32], density: float) -> BoolArray:
    """Which parts of an object are worth what they add to its box, beginning with the largest.

    Args:
        stats: rows of OpenCV's ``connectedComponentsWithStats``, one for each part
        density: a part that makes the box twice as large needs this share of the object's pixels, others in proportion

    Returns:
        array of shape ``(n,)``
    """
    starts = stats[:, [opencv.CC_STAT_LEFT, opencv.CC_STAT_TOP]]
    stops = starts + stats[:, [opencv.CC_STAT_WIDTH, opencv.CC_STAT_HEIGHT]]
    areas = stats[:, opencv.CC_STAT_AREA].astype(np.float64)
    kept: BoolArray = np.arange(len(areas)) == np.argmax(areas)
    while True:
        start, stop = starts[kept].min(axis=0), stops[kept].max(axis=0)
        grown = np.prod(np.maximum(stops, stop) - np.minimum(starts, start), axis=1) / np.prod(stop - start) - 1.0
        wanted = kept | (areas >= density * grown * areas[kept].sum())
        if np.array_equal(wanted, kept):
            return kept
        kept = wanted


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


__all__ = [
    "Fused",
    "fuse_boxes",
    "fuse_sides",
    "mask_confidence",
    "refined",
    "resolve_overlaps",
    "without_strays",
    "worthy_parts",
]
