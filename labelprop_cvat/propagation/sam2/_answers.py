"""What the network sees becomes what the engine answers: masks, boxes and polygons in pixels of the frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from labelprop_cvat.propagation._gaps import prompt_mask
from labelprop_cvat.propagation._windows import FloatMap, Window, opencv
from labelprop_cvat.propagation.fuse import Fused, resolve_overlaps, worthy_parts
from labelprop_cvat.propagation.interpolate import as_ring, held
from labelprop_cvat.propagation.sam2._passes import FrameSightings, Sighting
from labelprop_cvat.propagation.sam2._tracker import Exemplar, Prediction
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import (
    Box,
    FrameObjects,
    ObjectMask,
    ObjectState,
    Prompt,
    PromptKind,
    Ring,
)

_HOLE_LOGIT = 0.1
_SATURATED = 16.0
_LEAST_DOUBT = 0.05
# Only what a person drew has confidence 1; in half precision the network's own numbers reach it.
_SUREST = 0.999
# A speck far from the object must not stretch its box; a racket that an arm hides the handle of must not be lost. So a
# part counts when it adds this share of the object's pixels, for each time that it adds the box's area.
_LEAST_DENSITY = 0.005
_WIDEST_MARGIN = 0.25


@dataclass(frozen=True)
class Merged:
    """Both passes' answer about one object on one frame.

    Args:
        logits: array of shape ``(S/4, S/4)``, float32
        confidence: in [0, 1]
        exemplars: frames that it derives from, ascending
        agreement: IoU of the two passes' own masks, 0 where one of them says that there is nothing; None with one pass
    """

    logits: FloatMap
    confidence: float
    exemplars: tuple[int, ...]
    agreement: float | None = None


class AnswerMaker:
    """Turns what is known of frames into answers.

    Args:
        prompts: all prompts of the span
        size: ``(height, width)`` of the frames
        options: the engine's
    """

    def __init__(
        self, prompts: Mapping[int, Mapping[int, Prompt]], size: tuple[int, int], options: Sam2Options
    ) -> None:
        self._prompts, self._size, self._options = prompts, size, options

    def answer(self, known: FrameSightings) -> FrameObjects:
        """The objects of one frame."""
        frame, options = known.frame, self._options
        prompts = self._prompts.get(frame, {})
        states: dict[int, ObjectState] = {}
        merged: dict[int, Merged] = {}
        for object_id, prompt in prompts.items():
            if prompt.absent:
                continue
            exemplar = known.exemplars.get(object_id, {}).get(frame)
            if self._is_given(prompt):
                states[object_id] = held(prompt, frame)
            elif exemplar is not None:
                made = merge(exemplar.prediction, None, 0.0, options.fill_holes)
                if made is not None:
                    merged[object_id] = replace(made, exemplars=(frame,))
        kinds = {object_id: sighting.gap.kind for object_id, sighting in known.sightings.items()}
        for object_id, sighting in known.sightings.items():
            if object_id in states or (object_id in prompts and prompts[object_id].absent):
                continue  # What a person said of a frame stands, whatever the official way tracks there.
            found = merge(sighting.forward, sighting.backward, sighting.gap.progress(frame), options.fill_holes)
            if found is not None and found.confidence >= options.min_confidence:
                merged[object_id] = found
        # Of equally likely objects the surer one gets the pixel.
        merged = dict(sorted(merged.items(), key=lambda item: (-item[1].confidence, item[0])))
        boxed = {o for o, kind in kinds.items() if kind is PromptKind.BOX and not options.masks_from_boxes}
        for object_id, mask in self._masks({o: m for o, m in merged.items() if o not in boxed}, prompts).items():
            polygon = outline(mask) if kinds.get(object_id) is PromptKind.POLYGON else None
            states[object_id] = _state(merged[object_id], mask=mask, polygon=polygon)
        for object_id in boxed & merged.keys():
            sighting = known.sightings[object_id]
            box = self._box(merged[object_id], sighting, frame, known.exemplars.get(object_id, {}))
            if box is not None:
                states[object_id] = _state(merged[object_id], box=box)
        return FrameObjects(frame, dict(sorted(states.items())))

    def _is_given(self, prompt: Prompt) -> bool:
        """Whether a person drew the answer, so that it is not the model's to make."""
        return prompt.points is None and not (prompt.box is not None and self._options.masks_from_boxes)

    def _masks(self, merged: Mapping[int, Merged], prompts: Mapping[int, Prompt]) -> dict[int, ObjectMask]:
        scaled = {o: upsampled(one.logits, self._size) for o, one in merged.items()}
        scaled = {o: found for o, found in scaled.items() if not found[0].empty}
        drawn = {
            object_id: mask
            for object_id, prompt in prompts.items()
            if prompt.kind in (PromptKind.MASK, PromptKind.POLYGON)
            and self._is_given(prompt)
            and (mask := prompt_mask(prompt, self._size)) is not None
        }
        if self._options.overlaps == "keep" or len(scaled) + len(drawn) < 2:
            alone = {o: ObjectMask.from_crop(window.x1, window.y1, found > 0) for o, (window, found) in scaled.items()}
            return {o: mask for o, mask in alone.items() if mask is not None}
        fused = {o: Fused(window, _likelihood(found), np.ones_like(found)) for o, (window, found) in scaled.items()}
        return resolve_overlaps(fused, drawn, self._size)

    def _box(self, merged: Merged, sighting: Sighting, frame: int, exemplars: Mapping[int, Exemplar]) -> Box | None:
        """The box around the mask, with the margins that the person left around the object on its exemplars."""
        tight = self._tight_box(merged.logits)
        if tight is None:
            return None
        gap = sighting.gap
        ends = [(gap.visible_before, 1.0 - gap.progress(frame)), (gap.visible_after, gap.progress(frame))]
        margins, weights = np.zeros(4), 0.0
        for prompt, weight in ends:
            exemplar = None if prompt is None else exemplars.get(prompt.frame)
            if prompt is None or prompt.box is None or exemplar is None:
                continue
            seen = self._tight_box(exemplar.prediction.logits)
            if seen is not None and weight > 0:
                margins += weight * _margins(prompt.box, seen, self._size)
                weights += weight
        if weights:
            margins /= weights
        x1, y1, x2, y2 = tight
        width, height = x2 - x1, y2 - y1
        rows, columns = self._size
        grown = (
            max(0.0, x1 - margins[0] * width),
            max(0.0, y1 - margins[1] * height),
            min(float(columns), x2 + margins[2] * width),
            min(float(rows), y2 + margins[3] * height),
        )
        return grown if grown[2] > grown[0] and grown[3] > grown[1] else tight

    def _tight_box(self, logits: FloatMap) -> Box | None:
        window, scaled = upsampled(logits, self._size)
        if window.empty:
            return None
        count, _, stats, _ = opencv.connectedComponentsWithStats((scaled > 0).astype(np.uint8), connectivity=8)
        if count < 2:
            return None
        x1, y1, x2, y2 = _box_of_parts(stats[1:])
        return float(window.x1 + x1), float(window.y1 + y1), float(window.x1 + x2), float(window.y1 + y2)


def merge(
    forward: Prediction | None, backward: Prediction | None, progress: float, fill_holes: int = 0
) -> Merged | None:
    """One answer from both passes, weighted by nearness in time and by how sure each is of itself.

    Args:
        forward: from the exemplar before; None where there is none
        backward: from the exemplar behind
        progress: 0 at the exemplar before, 1 at the one behind
        fill_holes: holes of at most so many pixels of the logits are filled

    Returns:
        the answer, or None where the object is not visible
    """
    sides = [(p, w) for p, w in ((forward, 1.0 - progress), (backward, progress)) if p is not None]
    if not sides:
        return None
    if len(sides) == 1:
        only = sides[0][0]
        if only.score <= 0:
            return None
        return Merged(_without_holes(only.logits, fill_holes), quality(only), only.exemplars)
    if sum(nearness * (2.0 * _logistic(p.score) - 1.0) for p, nearness in sides) <= 0:
        return None
    weights = [nearness * _odds(quality(p)) for p, nearness in sides]
    total = sum(weights)
    shares = [weight / total if total > 0 else 0.5 for weight in weights]
    seen = [(p, share) for (p, _), share in zip(sides, shares, strict=True) if p.score > 0]
    if not seen:
        return None
    if len(seen) == 1:
        found = seen[0][0]
        # The other pass says that there is nothing: the nearer it is, the more that counts.
        nearness = next(nearness for p, nearness in sides if p is found)
        confidence = quality(found) * nearness
        return Merged(_without_holes(found.logits, fill_holes), confidence, found.exemplars, 0.0)
    (first, first_share), (second, second_share) = seen
    scale = first_share + second_share
    logits = (first_share * _saturated(first.logits) + second_share * _saturated(second.logits)) / scale
    mean = (first_share * quality(first) + second_share * quality(second)) / scale
    doubt = 2.0 * min(first_share, second_share) / scale
    agreement = _overlap(first.logits, second.logits)
    confidence = mean * (1.0 - doubt * (1.0 - agreement))
    exemplars = tuple(sorted({*first.exemplars, *second.exemplars}))
    return Merged(_without_holes(logits.astype(np.float32), fill_holes), confidence, exemplars, agreement)


def quality(prediction: Prediction) -> float:
    """How good a mask is by the network's own estimate, in [0, 1): its IoU times the chance that there is anything."""
    return min(_SUREST, max(0.0, prediction.iou)) * _logistic(prediction.score)


def upsampled(logits: FloatMap, size: tuple[int, int]) -> tuple[Window, FloatMap]:
    """Logits at the resolution of the frame, where any of them is above 0.

    The same numbers as a bilinear ``interpolate(align_corners=False)`` of the whole map gives there.

    Args:
        logits: array of shape ``(h, w)``
        size: ``(height, width)`` of the frame

    Returns:
        the window, empty where no logit is above 0, and the logits over it
    """
    rows = np.flatnonzero((logits > 0).any(axis=1))
    if rows.size == 0:
        return Window(0, 0, 0, 0), np.zeros((0, 0), dtype=np.float32)
    columns = np.flatnonzero((logits > 0).any(axis=0))
    y1, y2 = _reach(int(rows[0]), int(rows[-1]), logits.shape[0], size[0])
    x1, x2 = _reach(int(columns[0]), int(columns[-1]), logits.shape[1], size[1])
    # Two products of small matrices are several times as fast as looking neighbours up. By PyTorch, as NumPy would wake
    # threads of its own, which spin in the way of those of the network.
    down = torch.from_numpy(_weights(y1, y2, logits.shape[0], size[0]))
    along = torch.from_numpy(_weights(x1, x2, logits.shape[1], size[1]))
    scaled = down @ torch.from_numpy(np.ascontiguousarray(logits)) @ along.T
    return Window(x1, y1, x2, y2), np.asarray(scaled.numpy(), dtype=np.float32)


def _reach(first: int, last: int, source: int, target: int) -> tuple[int, int]:
    """The pixels of the target, half-open, that the source's pixels ``first`` to ``last`` have any weight in."""
    scale = target / source
    return max(0, math.floor((first - 0.5) * scale)), min(target, math.ceil((last + 1.5) * scale))


def _weights(start: int, stop: int, source: int, target: int) -> FloatMap:
    """What each of the source's pixels counts in the target's ``start`` to ``stop``; at most two do in each."""
    at = np.maximum((np.arange(start, stop) + 0.5) * (source / target) - 0.5, 0.0)
    before = np.minimum(np.floor(at).astype(np.intp), source - 1)
    weights = np.zeros((stop - start, source), dtype=np.float32)
    rows = np.arange(stop - start)
    weights[rows, np.minimum(before + 1, source - 1)] = at - before
    weights[rows, before] += 1.0 - (at - before)
    return weights


def outline(mask: ObjectMask) -> tuple[Ring, ...]:
    """The rings around a mask's parts and holes; filled even-odd they give the mask back.

    Returns:
        closed rings of ``(x, y)`` pixels, a quarter of a pixel inside the object
    """
    doubled = np.kron(np.pad(mask.crop, 1), np.ones((2, 2), dtype=np.uint8)).astype(np.uint8)
    contours, _ = opencv.findContours(doubled, opencv.RETR_CCOMP, opencv.CHAIN_APPROX_SIMPLE)
    corner = np.array([mask.x - 1.0, mask.y - 1.0])
    return tuple(as_ring((contour[:, 0] + 0.5) / 2.0 + corner) for contour in contours if len(contour) >= 3)


def _state(
    merged: Merged, *, mask: ObjectMask | None = None, box: Box | None = None, polygon: tuple[Ring, ...] | None = None
) -> ObjectState:
    return ObjectState(
        mask=mask,
        box=box,
        polygon=polygon or None,
        confidence=merged.confidence,
        exemplar_frames=merged.exemplars,
        agreement=merged.agreement,
    )


def _box_of_parts(stats: npt.NDArray[np.int32]) -> tuple[int, int, int, int]:
    """The box around an object's largest part and all those that are worth its growing.

    Args:
        stats: rows of OpenCV's ``connectedComponentsWithStats``, one for each part
    """
    kept = stats[worthy_parts(stats, _LEAST_DENSITY)]
    start = kept[:, [opencv.CC_STAT_LEFT, opencv.CC_STAT_TOP]]
    stop = (start + kept[:, [opencv.CC_STAT_WIDTH, opencv.CC_STAT_HEIGHT]]).max(axis=0)
    return int(start[:, 0].min()), int(start[:, 1].min()), int(stop[0]), int(stop[1])


def _margins(drawn: Box, tight: Box, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """What a person left around an object on each side (left, top, right, bottom), as shares of its size.

    A side that the edge of a frame of ``(height, width)`` cut off says nothing: the opposite one stands for it.
    """
    width, height = tight[2] - tight[0], tight[3] - tight[1]
    found = np.array(
        [
            (tight[0] - drawn[0]) / width,
            (tight[1] - drawn[1]) / height,
            (drawn[2] - tight[2]) / width,
            (drawn[3] - tight[3]) / height,
        ]
    )
    cut = np.array([drawn[0] <= 0, drawn[1] <= 0, drawn[2] >= size[1], drawn[3] >= size[0]])
    found = np.where(cut & ~np.roll(cut, 2), np.roll(found, 2), found)
    return np.asarray(np.clip(found, -_WIDEST_MARGIN, _WIDEST_MARGIN), dtype=np.float64)


def _without_holes(logits: FloatMap, most: int) -> FloatMap:
    if most == 0 or not (logits > 0).any():
        return logits
    _, labels, stats, _ = opencv.connectedComponentsWithStats((logits <= 0).astype(np.uint8), connectivity=8)
    small = np.flatnonzero(stats[:, opencv.CC_STAT_AREA] <= most)
    small = small[small > 0]
    if not small.size:
        return logits
    filled: FloatMap = logits.copy()
    filled[np.isin(labels, small)] = _HOLE_LOGIT
    return filled


def _overlap(first: FloatMap, second: FloatMap) -> float:
    one, other = first > 0, second > 0
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 1.0


def _saturated(logits: FloatMap) -> FloatMap:
    return np.asarray(np.clip(logits, -_SATURATED, _SATURATED), dtype=np.float32)


def _odds(share: float) -> float:
    return share / max(1.0 - share, _LEAST_DOUBT)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, value))))


def _likelihood(logits: FloatMap) -> FloatMap:
    """Numbers in (0, 1), above 0.5 where the logits exceed 0, that order them; a sigmoid is flat where it is sure."""
    return np.asarray(0.5 + 0.5 * logits / (1.0 + np.abs(logits)), dtype=np.float32)


__all__ = ["AnswerMaker", "Merged", "merge", "outline", "quality", "upsampled"]
