"""How good a propagation is: J, F, box IoU, identity switches, IDF1, annotation effort.

J and F follow the DAVIS benchmark (Perazzi et al., *A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation*, CVPR 2016; F after Martin, Fowlkes and Malik, *Learning to detect natural image boundaries*, PAMI 2004).
They equal the official code, but look only at the part of the frame that the two masks touch.

A mask is given as an :class:`~labelprop_cvat.propagation.types.ObjectMask`, as a full frame of shape ``(H, W)`` in
which nonzero is object, or as None when the object is not visible.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import BoolArray, Box, FrameObjects, ObjectMask, ObjectState, Segment, rasterize

BOUNDARY_THRESHOLD = 0.008
"""Tolerance of F as a share of the frame's diagonal, as DAVIS sets it."""

MaskLike: TypeAlias = ObjectMask | npt.NDArray[Any] | None


def jaccard(prediction: MaskLike, truth: MaskLike) -> float:
    """Region similarity J: intersection over union of two masks.

    Returns:
        in [0, 1]; 1 when both are empty
    """
    first, second = _as_mask(prediction), _as_mask(truth)
    if first is None or second is None:
        return 1.0 if first is second else 0.0
    shared = _intersection_area(first, second)
    return shared / (first.area + second.area - shared)


def boundary_f(
    prediction: MaskLike, truth: MaskLike, size: tuple[int, int] | None = None, bound_th: float = BOUNDARY_THRESHOLD
) -> float:
    """Contour accuracy F: harmonic mean of the boundary's precision and recall.

    Args:
        prediction: the mask to judge
        truth: the mask to judge it by
        size: ``(height, width)`` of the frame; may be left out when one of the masks is a full frame
        bound_th: how far apart two boundary pixels may lie and still match: a share of the frame's diagonal (rounded
            up to whole pixels) when below 1, else pixels

    Returns:
        in [0, 1]; 1 when neither mask has a boundary

    Raises:
        DataError: the size of the frame is not known
    """
    height, width = _frame_size(size, prediction, truth)
    first, second = _as_mask(prediction), _as_mask(truth)
    given = [mask.box for mask in (first, second) if mask is not None]
    if not given:
        return 1.0
    radius = bound_th if bound_th >= 1 else math.ceil(bound_th * math.hypot(height, width))
    # A boundary pixel lies inside a mask or one pixel up or left of it; one more row and column keep the crop's own
    # last row and column from being taken for the frame's, where the definition differs.
    x1, y1 = max(0, min(b[0] for b in given) - 1), max(0, min(b[1] for b in given) - 1)
    x2, y2 = min(width, max(b[2] for b in given) + 1), min(height, max(b[3] for b in given) + 1)
    edges = [_boundary(_window(mask, x1, y1, x2, y2)) for mask in (first, second)]
    counts = [int(np.count_nonzero(edge)) for edge in edges]
    if not counts[0] or not counts[1]:
        return 1.0 if counts[0] == counts[1] else 0.0
    precision = _matched(edges[0], edges[1], radius) / counts[0]
    recall = _matched(edges[1], edges[0], radius) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes ``(x1, y1, x2, y2)``, in [0, 1]."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (_box_area(first) + _box_area(second) - shared)


def mean_box_iou(pairs: Iterable[tuple[Box | None, Box | None]]) -> float:
    """Mean IoU over pairs of boxes (prediction, truth).

    A pair of which one is None counts 0; a pair of two None counts 1. NaN when there are no pairs.
    """
    values = [
        box_iou(first, second) if first is not None and second is not None else float(first is second)
        for first, second in pairs
    ]
    return float(np.mean(values)) if values else math.nan


def identity_switches(
    prediction: Sequence[Mapping[int, Box | ObjectMask]],
    truth: Sequence[Mapping[int, Box | ObjectMask]],
    threshold: float = 0.5,
) -> int:
    """Counts how often a true object changes the predicted id that follows it, as in CLEAR MOT.

    On every frame a pair that was matched last time is kept while it still overlaps enough; the rest is matched so that
    the sum of IoU is largest. A switch is counted when an object is matched to another id than when it was last
    matched, also across frames on which it was lost. (Bernardin and Stiefelhagen, *Evaluating Multiple Object Tracking
    Performance: The CLEAR MOT Metrics*, 2008.)

    Args:
        prediction: per frame, the predicted objects by their id: all boxes, or all masks
        truth: per frame, the true objects by their id, in the same geometry
        threshold: smallest IoU of a match

    Raises:
        DataError: the two do not have the same number of frames
    """
    if len(prediction) != len(truth):
        raise DataError(
            f"Identity switches need the same frames on both sides, got {len(prediction)} predicted and "
            f"{len(truth)} true frames."
        )
    scorer = IdentityScorer(threshold)
    for guesses, objects in zip(prediction, truth, strict=True):
        scorer.add(guesses, objects)
    return scorer.switches


@dataclass(frozen=True)
class IdentityScore:
    """How well identities are kept, over some frames.

    Args:
        idtp: object-frames whose predicted id is the one that belongs to the object
        idfp: other predicted object-frames
        idfn: other true object-frames
        switches: how often a true object changed the predicted id that follows it
    """

    idtp: int = 0
    idfp: int = 0
    idfn: int = 0
    switches: int = 0

    @property
    def idf1(self) -> float:
        """``2 IDTP / (2 IDTP + IDFP + IDFN)``, in [0, 1]; NaN where there is nothing on either side."""
        total = 2 * self.idtp + self.idfp + self.idfn
        return 2 * self.idtp / total if total else math.nan

    def __add__(self, other: IdentityScore) -> IdentityScore:
        return IdentityScore(
            self.idtp + other.idtp, self.idfp + other.idfp, self.idfn + other.idfn, self.switches + other.switches
        )


class IdentityScorer:
    """Identity switches and IDF1, frame by frame, in memory that does not grow with the frames.

    Switches are counted as :func:`identity_switches` says. For IDF1 each true object is given at most one predicted id,
    and each predicted id at most one true object, so that over all frames as few object-frames as possible are left
    without their counterpart, where a counterpart overlaps by ``threshold`` or more. (Ristani et al., *Performance
    Measures and a Data Set for Multi-Target, Multi-Camera Tracking*, ECCV workshops 2016.)

    Args:
        threshold: smallest IoU of a match, above 0
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0.0 < threshold <= 1.0:
            raise DataError(f"The smallest IoU of a match is above 0 and at most 1, got {threshold!r}.")
        self._threshold = threshold
        self._followed: dict[int, int] = {}
        self._switches: Counter[int] = Counter()
        self._true: Counter[int] = Counter()
        self._predicted: Counter[int] = Counter()
        self._together: Counter[tuple[int, int]] = Counter()

    def add(self, prediction: Mapping[int, Box | ObjectMask], truth: Mapping[int, Box | ObjectMask]) -> None:
        """Takes the next frame: the predicted and the true objects by their id, all boxes or all masks."""
        self.add_overlaps(truth, prediction, overlap_table(truth, prediction))

    def add_overlaps(
        self, true_ids: Iterable[int], predicted_ids: Iterable[int], table: npt.NDArray[np.float64]
    ) -> None:
        """Takes the next frame, given the IoU of every pair.

        Args:
            true_ids: ids of the true objects
            predicted_ids: ids of the predicted objects
            table: array of shape ``(true objects, predicted objects)``, IoU in [0, 1], in the order of the ids
        """
        rows, columns = list(true_ids), list(predicted_ids)
        self._true.update(rows)
        self._predicted.update(columns)
        for row, column in zip(*np.nonzero(table >= self._threshold), strict=True):
            self._together[rows[row], columns[column]] += 1
        matches = _match(rows, columns, table, self._followed, self._threshold)
        for true_id, guess_id in matches.items():
            if self._followed.get(true_id, guess_id) != guess_id:
                self._switches[true_id] += 1
        self._followed.update(matches)

    @property
    def switches(self) -> int:
        """Identity switches of all objects."""
        return sum(self._switches.values())

    def objects(self) -> dict[int, IdentityScore]:
        """The score of each true object: its own frames, and those of the predicted id that belongs to it."""
        belongs = self._assigned()
        scores = {}
        for true_id in sorted(self._true):
            guess_id = belongs.get(true_id)
            together = self._together[true_id, guess_id] if guess_id is not None else 0
            predicted = self._predicted[guess_id] if guess_id is not None else 0
            scores[true_id] = IdentityScore(
                together, predicted - together, self._true[true_id] - together, self._switches[true_id]
            )
        return scores

    def total(self) -> IdentityScore:
        """The score of all objects together; predicted ids that belong to none count as wrong."""
        together = sum(score.idtp for score in self.objects().values())
        return IdentityScore(
            together,
            sum(self._predicted.values()) - together,
            sum(self._true.values()) - together,
            self.switches,
        )

    def _assigned(self) -> dict[int, int]:
        return assign({pair: float(count) for pair, count in self._together.items()})


def assign(weights: Mapping[tuple[int, int], float]) -> dict[int, int]:
    """Pairs ids off one to one, so that the sum of the pairs' weights is as large as it can be.

    Args:
        weights: weight above 0 by ``(first id, second id)``; other pairs are not made

    Returns:
        second id by first id
    """
    if not weights:
        return {}
    # Only tracking scores need an assignment solver, so that the rest works without SciPy.
    from scipy.optimize import linear_sum_assignment

    rows, columns = sorted({pair[0] for pair in weights}), sorted({pair[1] for pair in weights})
    table = np.zeros((len(rows), len(columns)))
    row_of, column_of = ({key: place for place, key in enumerate(keys)} for keys in (rows, columns))
    for (first, second), weight in weights.items():
        table[row_of[first], column_of[second]] = weight
    pairs = zip(*linear_sum_assignment(-table), strict=True)
    return {rows[row]: columns[column] for row, column in pairs if table[row, column] > 0.0}


def overlap_table(
    truth: Mapping[int, Box | ObjectMask], prediction: Mapping[int, Box | ObjectMask]
) -> npt.NDArray[np.float64]:
    """IoU of every true object with every predicted one.

    Returns:
        array of shape ``(len(truth), len(prediction))``, in [0, 1], in the order of the two

    Raises:
        DataError: boxes and masks are mixed
    """
    table = np.zeros((len(truth), len(prediction)))
    for row, thing in enumerate(truth.values()):
        for column, guess in enumerate(prediction.values()):
            table[row, column] = _overlap(thing, guess)
    return table


def annotation_effort(touched: Iterable[int], span: Segment) -> float:
    """Share of the frames of ``span`` that a person touched, in [0, 1]; frames outside the span do not count."""
    return len({frame for frame in touched if frame in span}) / len(span)


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object: means over the scored frames, in [0, 1]; frames where it is rightly absent count 1."""

    object_id: int
    j: float
    f: float
    frames: int


@dataclass(frozen=True)
class FrameScore:
    """J and F of one object on one frame, with the confidence that the engine gave (0 where it gave no state)."""

    frame: int
    object_id: int
    j: float
    f: float
    confidence: float


@dataclass(frozen=True)
class SequenceScore:
    """The scores of one propagated sequence.

    Args:
        objects: one score per true object, by ascending id
        frames: the single scores behind them, in the order of the frames
        effort: share of the frames that were annotated
    """

    objects: tuple[ObjectScore, ...]
    frames: tuple[FrameScore, ...]
    effort: float

    @property
    def j(self) -> float:
        """Mean J over the objects; NaN when nothing was scored."""
        return float(np.mean([score.j for score in self.objects])) if self.objects else math.nan

    @property
    def f(self) -> float:
        """Mean F over the objects; NaN when nothing was scored."""
        return float(np.mean([score.f for score in self.objects])) if self.objects else math.nan


def score_sequence(
    results: Iterable[FrameObjects],
    truth: Callable[[int], Mapping[int, ObjectMask]],
    annotated: Collection[int],
    size: tuple[int, int],
) -> SequenceScore:
    """Scores the propagation of a whole sequence against its true masks.

    Args:
        results: what the engine yields; consumed as it comes
        truth: the visible true objects of a frame by their id
        annotated: the frames that a person annotated; they are not scored
        size: ``(height, width)`` of the frames

    Returns:
        J and F per object that ``truth`` shows at least once: the mean over all frames that were not annotated, the
        last frame included. Where the object is rightly absent the frame counts 1, where it is wrongly so 0.
        Predicted objects that do not exist are not scored.
    """
    scores: dict[int, list[FrameScore]] = {}
    seen: set[int] = set()
    blank: list[int] = []
    total = 0
    for result in results:
        total += 1
        objects = truth(result.frame)
        seen.update(objects)
        if result.frame in annotated:
            continue
        for object_id in sorted(seen | result.objects.keys()):
            # Before its first appearance nobody looked at an object: those frames were rightly empty.
            history = scores.setdefault(object_id, [FrameScore(f, object_id, 1.0, 1.0, 0.0) for f in blank])
            history.append(_frame_score(result, object_id, objects.get(object_id), size))
        blank.append(result.frame)
    kept = {object_id: scores[object_id] for object_id in sorted(seen & scores.keys())}
    return SequenceScore(
        objects=tuple(
            ObjectScore(
                object_id,
                float(np.mean([score.j for score in history])),
                float(np.mean([score.f for score in history])),
                len(history),
            )
            for object_id, history in kept.items()
        ),
        frames=tuple(sorted((s for h in kept.values() for s in h), key=lambda s: (s.frame, s.object_id))),
        effort=len(set(annotated)) / total if total else 0.0,
    )


def state_mask(state: ObjectState | None, size: tuple[int, int]) -> ObjectMask | None:
    """The pixels of a state: its mask, else its polygon or box filled; None when it has none on the frame.

    Args:
        state: an engine's answer
        size: ``(height, width)`` of the frame
    """
    if state is None:
        return None
    if state.mask is not None:
        return state.mask
    if state.polygon is not None:
        return rasterize(state.polygon, size)
    return _filled_box(state.box, size) if state.box is not None else None


def _filled_box(box: Box, size: tuple[int, int]) -> ObjectMask | None:
    # A pixel belongs to the box when its centre does.
    left, top, right, bottom = (max(0, math.ceil(edge - 0.5)) for edge in box)
    right, bottom = min(size[1], right), min(size[0], bottom)
    if left >= right or top >= bottom:
        return None
    return ObjectMask(left, top, np.ones((bottom - top, right - left), dtype=np.bool_))


def _frame_score(result: FrameObjects, object_id: int, truth: ObjectMask | None, size: tuple[int, int]) -> FrameScore:
    state = result.objects.get(object_id)
    mask = state_mask(state, size)
    confidence = state.confidence if state is not None else 0.0
    return FrameScore(result.frame, object_id, jaccard(mask, truth), boundary_f(mask, truth, size), confidence)


def _as_mask(mask: MaskLike) -> ObjectMask | None:
    return mask if mask is None or isinstance(mask, ObjectMask) else ObjectMask.from_full(mask)


def _frame_size(size: tuple[int, int] | None, *masks: MaskLike) -> tuple[int, int]:
    shapes = {mask.shape for mask in masks if isinstance(mask, np.ndarray)}
    if size is not None:
        shapes.add((size[0], size[1]))
    if len(shapes) != 1:
        found = f"the sizes {sorted(shapes)}" if shapes else "no size"
        raise DataError(f"F needs one frame size: full frames of one shape, or size=(height, width); got {found}.")
    height, width = shapes.pop()
    return int(height), int(width)


def _intersection_area(first: ObjectMask, second: ObjectMask) -> int:
    x1, y1 = max(first.x, second.x), max(first.y, second.y)
    x2, y2 = min(first.box[2], second.box[2]), min(first.box[3], second.box[3])
    if x1 >= x2 or y1 >= y2:
        return 0
    return int(np.count_nonzero(_window(first, x1, y1, x2, y2) & _window(second, x1, y1, x2, y2)))


def _window(mask: ObjectMask | None, x1: int, y1: int, x2: int, y2: int) -> BoolArray:
    window = np.zeros((y2 - y1, x2 - x1), dtype=np.bool_)
    if mask is None:
        return window
    left, top = max(x1, mask.x), max(y1, mask.y)
    right, bottom = min(x2, mask.box[2]), min(y2, mask.box[3])
    if left < right and top < bottom:
        window[top - y1 : bottom - y1, left - x1 : right - x1] = mask.crop[
            top - mask.y : bottom - mask.y, left - mask.x : right - mask.x
        ]
    return window


def _boundary(mask: BoolArray) -> BoolArray:
    """Pixels that differ from their right, lower or lower right neighbour, as far as they have these."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def _matched(edge: BoolArray, other: BoolArray, radius: float) -> int:
    """How many pixels of ``edge`` have a pixel of ``other`` within ``radius``, i.e. under its dilation with a disk."""
    distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances of pixels are whole numbers, so that half a unit separates them whatever the rounding.
    return int(np.count_nonzero(np.square(distance[edge]) <= radius * radius + 0.5))


def _box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(first: Box | ObjectMask, second: Box | ObjectMask) -> float:
    if isinstance(first, ObjectMask) or isinstance(second, ObjectMask):
        if isinstance(first, ObjectMask) and isinstance(second, ObjectMask):
            return jaccard(first, second)
        raise DataError("Identity switches compare boxes with boxes or masks with masks; got one of each.")
    return box_iou(first, second)


def _match(
    true_ids: Sequence[int],
    guess_ids: Sequence[int],
    table: npt.NDArray[np.float64],
    followed: Mapping[int, int],
    threshold: float,
) -> dict[int, int]:
    """Who is whom on one frame; ``table`` holds the IoU of each true object (row) with each predicted one (column)."""
    row_of, column_of = ({key: place for place, key in enumerate(keys)} for keys in (true_ids, guess_ids))
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for true_id, guess_id in followed.items():
        seen = true_id in row_of and guess_id in column_of and guess_id not in taken
        if seen and table[row_of[true_id], column_of[guess_id]] >= threshold:
            matches[true_id] = guess_id
            taken.add(guess_id)
    return matches | assign(
        {
            (true_id, guess_id): float(table[row, column])
            for true_id, row in row_of.items()
            if true_id not in matches
            for guess_id, column in column_of.items()
            if guess_id not in taken and table[row, column] >= threshold
        }
    )


__all__ = [
    "BOUNDARY_THRESHOLD",
    "FrameScore",
    "IdentityScore",
    "IdentityScorer",
    "MaskLike",
    "ObjectScore",
    "SequenceScore",
    "annotation_effort",
    "assign",
    "boundary_f",
    "box_iou",
    "identity_switches",
    "jaccard",
    "mean_box_iou",
    "overlap_table",
    "score_sequence",
    "state_mask",
]
