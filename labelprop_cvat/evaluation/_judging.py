"""Judges one sequence frame by frame."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from labelprop_cvat.evaluation._reading import Thing
from labelprop_cvat.evaluation.scores import ObjectFrames, ObjectResult, Scores, SegmentResult
from labelprop_cvat.propagation.calibration import GOOD_J
from labelprop_cvat.propagation.metrics import (
    IdentityScore,
    IdentityScorer,
    assign,
    boundary_f,
    box_iou,
    jaccard,
)
from labelprop_cvat.sequences import TemporalSegment

Things = Mapping[int, Thing]


class Row(NamedTuple):
    """One object-frame; ``key`` is the true object's, or what :func:`stranger` makes of the predicted one's."""

    position: int
    segment: int
    key: int
    j: float
    f: float
    box_iou: float
    predicted: Thing | None
    true: Thing | None

    @property
    def quality(self) -> float:
        return self.box_iou if math.isnan(self.j) else self.j


class Judged(NamedTuple):
    """What came of a sequence; rows carry NaN for J and F where the object's masks cannot be compared."""

    scores: Scores
    objects: tuple[ObjectResult, ...]
    segments: tuple[SegmentResult, ...]
    rows: list[Row]
    extra: npt.NDArray[np.bool_]


@dataclass
class OverlapSums:
    """Who overlaps whom, over a whole sequence: pairs objects off where the two sides number them differently."""

    _sums: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, predicted: Things, true: Things) -> None:
        """Takes the next frame."""
        table = overlaps(predicted, true)
        for row, true_key in enumerate(true):
            for column, guess_key in enumerate(predicted):
                if table[row, column] > 0.0:
                    pair = (guess_key, true_key)
                    self._sums[pair] = self._sums.get(pair, 0.0) + float(table[row, column])

    def matches(self) -> dict[int, int]:
        """True object by predicted one, so that the sum of IoU over the sequence is as large as it can be."""
        return assign(self._sums)


def overlaps(predicted: Things, true: Things) -> npt.NDArray[np.float64]:
    """IoU of every true thing (row) with every predicted one (column), of masks where both have them, else of boxes."""
    table = np.zeros((len(true), len(predicted)))
    for row, thing in enumerate(true.values()):
        for column, guess in enumerate(predicted.values()):
            around = box_iou(thing.box, guess.box)
            if around > 0.0 and thing.mask is not None and guess.mask is not None:
                table[row, column] = jaccard(guess.mask, thing.mask)
            else:
                table[row, column] = around
    return table


_STRANGERS = -(10**9)


def stranger(guess_key: int) -> int:
    """The number of a predicted object that belongs to no true one: far below the numbers of true ones."""
    return _STRANGERS - (2 * guess_key if guess_key >= 0 else -2 * guess_key - 1)


def _own_number(key: int) -> int:
    """The number that the labels have, of a true object or a stranger."""
    if key > _STRANGERS:
        return key
    folded = _STRANGERS - key
    return folded // 2 if folded % 2 == 0 else -(folded + 1) // 2


class Judge:
    """Collects the frames of one sequence, and says how good they are.

    Args:
        size: ``(height, width)`` of the frames
        segments: the temporal segments to score, ascending
        annotated: positions that people annotated
        left_out: positions that are not scored
        without_people: leave out the things that a person drew, wherever they are
        matches: true object by predicted one; None where their numbers are the same
        iou: smallest IoU at which identities match
    """

    def __init__(
        self,
        size: tuple[int, int],
        segments: Sequence[TemporalSegment],
        annotated: Collection[int],
        left_out: Collection[int],
        *,
        without_people: bool,
        matches: Mapping[int, int] | None,
        iou: float,
    ) -> None:
        self._size = size
        self._segments = list(segments)
        self._starts = [entry.segment.start for entry in segments]
        self._annotated = sorted(annotated)
        self._left_out = frozenset(left_out)
        self._without_people = without_people
        self._matches = matches
        self._rows: list[Row] = []
        self._scored: Counter[int] = Counter()
        self._dropped: Counter[tuple[int, int]] = Counter()
        self._seen: dict[int, set[int]] = defaultdict(set)
        self._names: dict[int, str | None] = {}
        self._votes: dict[int, Counter[int]] = defaultdict(Counter)
        self._whole = IdentityScorer(iou)
        self._parts = [IdentityScorer(iou) for _ in segments]

    def add(self, position: int, predicted: Things, true: Things) -> None:
        """Takes the next frame, in ascending order; frames outside the segments do not count."""
        segment = self._segment_of(position)
        if segment is None:
            return
        self._seen[segment].update(true)
        for key, thing in true.items():
            self._names.setdefault(key, thing.name)
        if position in self._left_out:
            return
        self._scored[segment] += 1
        guesses = self._by_true_number(predicted)
        table = overlaps(predicted, true)
        for scorer in (self._whole, self._parts[segment]):
            scorer.add_overlaps(true, predicted, table)
        for key in sorted(true.keys() | guesses.keys()):
            guess = guesses.get(key)
            if self._without_people and guess is not None and guess.person:
                self._dropped[segment, key] += 1
            else:
                self._rows.append(self._row(position, segment, key, guess, true.get(key)))

    def distance(self, position: int) -> int:
        """Frames to the nearest annotated frame of the same segment; -1 where it has none."""
        segment = self._segment_of(position)
        if segment is None:
            return -1
        span = self._segments[segment].segment
        place = bisect_left(self._annotated, position)
        near = [at for at in self._annotated[max(0, place - 1) : place + 1] if at in span]
        return min((abs(at - position) for at in near), default=-1)

    def result(self) -> Judged:
        """What came of it; to be called once, at the end."""
        self._blank_what_has_no_masks()
        extra = np.array([row.key not in self._seen[row.segment] for row in self._rows], dtype=np.bool_)
        by_segment: dict[int, list[tuple[Row, bool]]] = defaultdict(list)
        for row, is_extra in zip(self._rows, extra, strict=True):
            by_segment[row.segment].append((row, bool(is_extra)))
        identity = self._whole.objects()
        everywhere = set().union(*self._seen.values()) if self._seen else set()
        objects = tuple(
            self._object(
                key, [s for s in range(len(self._segments)) if key in self._seen[s]], by_segment, identity.get(key)
            )
            for key in sorted(everywhere)
        )
        segments = tuple(self._segment(number, by_segment) for number in range(len(self._segments)))
        pairs = list(zip(self._rows, map(bool, extra), strict=True))
        scores = _group_scores(objects, pairs, self._whole.total(), sum(self._scored.values()))
        return Judged(scores, objects, segments, self._rows, extra)

    def _segment(self, number: int, rows: Mapping[int, list[tuple[Row, bool]]]) -> SegmentResult:
        entry = self._segments[number]
        identity = self._parts[number].objects()
        objects = tuple(self._object(key, [number], rows, identity.get(key)) for key in sorted(self._seen[number]))
        return SegmentResult(
            label=entry.label,
            start=entry.segment.start,
            stop=entry.segment.stop,
            annotated=sum(position in entry.segment for position in self._annotated),
            scores=_group_scores(objects, rows.get(number, []), self._parts[number].total(), self._scored[number]),
            objects=objects,
        )

    def _object(
        self,
        key: int,
        segments: Iterable[int],
        rows: Mapping[int, list[tuple[Row, bool]]],
        identity: IdentityScore | None,
    ) -> ObjectResult:
        segments = list(segments)
        own = [row for number in segments for row, _ in rows.get(number, []) if row.key == key]
        frames = sum(self._scored[number] - self._dropped[number, key] for number in segments)
        # Where it is neither predicted nor true, it is rightly absent.
        blanks = frames - len(own)
        masks = not any(math.isnan(row.j) for row in own) and (bool(own) or self._has_masks)
        votes = self._votes.get(key)
        return ObjectResult(
            index=key,
            label=self._names.get(key),
            scores=Scores(
                j=(sum(row.j for row in own) + blanks) / frames if frames and masks else math.nan,
                f=(sum(row.f for row in own) + blanks) / frames if frames and masks else math.nan,
                miou=_mean(row.j for row in own) if masks else math.nan,
                box_iou=_mean(row.box_iou for row in own),
                identity=identity or IdentityScore(),
                frames=frames,
                object_frames=len(own),
                **_counts(own),
            ),
            predicted_as=votes.most_common(1)[0][0] if votes else None,
        )

    @property
    def _has_masks(self) -> bool:
        return any(not math.isnan(row.j) for row in self._rows)

    def _by_true_number(self, predicted: Things) -> dict[int, Thing]:
        if self._matches is None:
            for key in predicted:
                self._votes[key][key] += 1
            return dict(predicted)
        found = {}
        for key, thing in predicted.items():
            true_key = self._matches.get(key)
            if true_key is not None:
                self._votes[true_key][key] += 1
            found[true_key if true_key is not None else stranger(key)] = thing
        return found

    def _row(self, position: int, segment: int, key: int, guess: Thing | None, thing: Thing | None) -> Row:
        j = f = math.nan
        masks = [one.mask for one in (guess, thing) if one is not None]
        if all(mask is not None for mask in masks):
            pair = (guess.mask if guess is not None else None, thing.mask if thing is not None else None)
            j = jaccard(*pair)
            f = boundary_f(*pair, self._size) if len(masks) == 2 else 0.0
        boxes = box_iou(guess.box, thing.box) if guess is not None and thing is not None else 0.0
        return Row(position, segment, key, j, f, boxes, _without_pixels(guess), _without_pixels(thing))

    def _blank_what_has_no_masks(self) -> None:
        """Where masks stand against boxes, what is missed has no J either: the object is compared by its boxes."""
        pairs = [row for row in self._rows if row.predicted is not None and row.true is not None]
        boxed = {row.key for row in pairs if math.isnan(row.j)}
        compared = {row.key for row in pairs} - boxed
        for place, row in enumerate(self._rows):
            if row.key in boxed or (boxed and row.key not in compared):
                self._rows[place] = row._replace(j=math.nan, f=math.nan)

    def _segment_of(self, position: int) -> int | None:
        place = bisect_left(self._starts, position + 1) - 1
        return place if place >= 0 and position in self._segments[place].segment else None


def columns(judged: Judged, judge: Judge) -> ObjectFrames:
    """The rows as arrays."""

    def known(values: Iterator[float | None]) -> npt.NDArray[np.float64]:
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    rows = judged.rows
    distance = {position: judge.distance(position) for position in {row.position for row in rows}}
    return ObjectFrames(
        position=np.array([row.position for row in rows], dtype=np.int64),
        index=np.array([_own_number(row.key) for row in rows], dtype=np.int64),
        j=np.array([row.j for row in rows], dtype=np.float64),
        f=np.array([row.f for row in rows], dtype=np.float64),
        box_iou=np.array([row.box_iou for row in rows], dtype=np.float64),
        confidence=known(row.predicted.confidence if row.predicted is not None else None for row in rows),
        agreement=known(row.predicted.agreement if row.predicted is not None else None for row in rows),
        distance=np.array([distance[row.position] for row in rows], dtype=np.int64),
        predicted=np.array([row.predicted is not None for row in rows], dtype=np.bool_),
        true=np.array([row.true is not None for row in rows], dtype=np.bool_),
        extra=judged.extra,
    )


def pooled(groups: Sequence[Scores], objects: Sequence[ObjectResult]) -> Scores:
    """The scores of several sequences together: J and F over all their objects, the others over all object-frames."""
    weights = [group.object_frames for group in groups]
    identity = IdentityScore()
    for group in groups:
        identity += group.identity
    return Scores(
        j=_mean(entry.scores.j for entry in objects),
        f=_mean(entry.scores.f for entry in objects),
        miou=_weighted([group.miou for group in groups], weights),
        box_iou=_weighted([group.box_iou for group in groups], weights),
        identity=identity,
        frames=sum(group.frames for group in groups),
        object_frames=sum(weights),
        missed=sum(group.missed for group in groups),
        extra=sum(group.extra for group in groups),
        bad=sum(group.bad for group in groups),
    )


def _group_scores(
    objects: Sequence[ObjectResult], rows: Sequence[tuple[Row, bool]], identity: IdentityScore, frames: int
) -> Scores:
    return Scores(
        j=_mean(entry.scores.j for entry in objects),
        f=_mean(entry.scores.f for entry in objects),
        miou=_mean(row.j for row, _ in rows),
        box_iou=_mean(row.box_iou for row, _ in rows),
        identity=identity,
        frames=frames,
        object_frames=len(rows),
        **_counts([row for row, _ in rows]),
    )


def _without_pixels(thing: Thing | None) -> Thing | None:
    # Rows are kept for as long as the sequence is looked at, masks are not.
    return thing if thing is None or thing.mask is None else replace(thing, mask=None)


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "missed": sum(row.predicted is None for row in rows),
        "extra": sum(row.true is None for row in rows),
        "bad": sum(row.quality < GOOD_J for row in rows),
    }


def _mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    kept = [value for value in values if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    kept = [(value, weight) for value, weight in zip(values, weights, strict=True) if not math.isnan(value)]
    total = sum(weight for _, weight in kept)
    return sum(value * weight for value, weight in kept) / total if total else math.nan


__all__ = ["Judge", "Judged", "OverlapSums", "Row", "columns", "overlaps", "pooled", "stranger"]
