"""Which frames of a temporal segment people annotate."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.exemplars._coverage import LARGEST, cover, cover_to
from labelprop_cvat.propagation.exemplars._decay import DECAY
from labelprop_cvat.propagation.exemplars._medoids import distances, k_medoids
from labelprop_cvat.propagation.exemplars._survey import Survey, survey
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.types import Segment

logger = logging.getLogger(__name__)

METHODS = (
    "first",
    "middle",
    "uniform:k",
    "every:n",
    "all",
    "diverse:k",
    "coverage[:k or :J]",
    "active:k",
    "scores[:threshold]",
)

_DEFAULT_THRESHOLD = 0.5
_DEFAULT_TARGET = 0.85
# Frames at which a frame that nobody annotated scores half of what it can.
_FAR = 10.0
_BELOW = math.nextafter(0.5, 0.0)

_COUNTED = frozenset({"uniform", "every", "diverse", "active"})
_PLAIN = frozenset({"first", "middle", "all"})
_SEEING = frozenset({"diverse", "coverage", "active"})

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The exemplars of one segment.

    Args:
        frames: the positions that were chosen, ascending
        scores: one per frame of the segment, in [0, 1]: at least 0.5 on the chosen ones, below it on all others, so
            that the method ``scores`` finds the choice again. Of the others, the higher the more there is to gain by
            annotating it; 0 on frames that are exemplars already
    """

    frames: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ExemplarSpec:
    """How exemplars are chosen. Made from text by :meth:`parse`; ``str(spec)`` gives that text back.

    ``first``
        the first frame
    ``middle``
        the frame in the middle: no other frame is further than half a segment away
    ``uniform:k``
        ``k`` frames, the middles of ``k`` equal parts; all frames when there are no more than ``k``
    ``every:n``
        the first frame and every ``n``-th after it
    ``all``
        every frame
    ``diverse:k``
        the ``k`` frames that stand best for the looks of all others (k-medoids)
    ``coverage:k``
        the ``k`` frames from which propagation is predicted to lose least, by how hard it is to get from frame to frame
    ``coverage:J`` or ``coverage``
        the fewest such frames with a predicted mean J of at least this: a number with a dot, as in ``coverage:0.9``
        (0.85)
    ``active:k``
        ``k`` further frames by what propagation made of the exemplars so far, see
        :func:`~labelprop_cvat.propagation.exemplars.next_frames`; as long as there is nothing, ``coverage:k``
    ``scores`` or ``scores:threshold``
        the frames with an exemplar score of at least the threshold (0.5); the best frame when none reaches it

    Args:
        method: the name before the colon
        count: the ``k`` or ``n``, from 1
        threshold: smallest score
        target: the mean J to reach, in (0, 1]

    Raises:
        ConfigurationError: there is no such method, or its number is missing, superfluous or out of range
    """

    method: str
    count: int | None = None
    threshold: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if self.method not in _COUNTED | _PLAIN | {"coverage", "scores"}:
            raise _refused(self.method)
        if self.method == "coverage" and self.count is None and self.target is None:
            object.__setattr__(self, "target", _DEFAULT_TARGET)
        if self.method == "scores" and self.threshold is None:
            object.__setattr__(self, "threshold", _DEFAULT_THRESHOLD)
        given = {name for name in ("count", "threshold", "target") if getattr(self, name) is not None}
        wanted = {"count"} if self.method in _COUNTED else {"threshold"} if self.method == "scores" else set()
        if given != wanted and not (self.method == "coverage" and given in ({"count"}, {"target"})):
            raise _refused(str(self))
        if self.count is not None and self.count < 1:
            raise _refused(str(self))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", float(self.threshold))
            if not math.isfinite(self.threshold):
                raise _refused(str(self))
        if self.target is not None and not 0.0 < self.target <= 1.0:
            raise _refused(str(self))

    @classmethod
    def parse(cls, text: str) -> ExemplarSpec:
        """Reads ``"first"``, ``"uniform:3"``, ``"coverage:5"``, ``"coverage:0.9"``, ``"scores:0.8"`` and the like.

        Raises:
            ConfigurationError: the text is none of these
        """
        method, colon, argument = str(text).strip().partition(":")
        try:
            if not colon:
                return cls(method)
            if method == "scores":
                return cls(method, threshold=float(argument))
            if method == "coverage" and "." in argument:
                return cls(method, target=float(argument))
            return cls(method, count=int(argument))
        except ValueError:
            raise _refused(str(text)) from None

    def __str__(self) -> str:
        if self.target is not None:
            # The dot tells a target from a number of frames.
            text = repr(float(self.target))
            return f"{self.method}:{text if '.' in text else f'{self.target:.9f}'}"
        if self.count is not None:
            return f"{self.method}:{self.count}"
        return f"{self.method}:{self.threshold:g}" if self.threshold is not None else self.method

    @property
    def needs_frames(self) -> bool:
        """Whether the method looks at the pictures."""
        return self.method in _SEEING

    def select(
        self,
        segment: Segment,
        scores: Sequence[float | None] | None = None,
        allowed: Container[int] | None = None,
    ) -> list[int]:
        """The frames that :meth:`choose` chooses, for the methods that do not look at them.

        Args:
            segment: the frames to choose from
            scores: one per frame of the segment, higher is better, None for frames without; only for ``scores``
            allowed: the positions that may be exemplars, all when left out. The method chooses among these: ``first``
                is the first of them, ``every:n`` each that is ``n`` or more after the one before

        Returns:
            frame positions inside the segment, ascending; at least one, unless none that could be chosen is allowed

        Raises:
            DataError: ``scores`` is the method and no frame has a score above 0, or their number is wrong
            ConfigurationError: the method looks at the frames
        """
        return list(self.choose(segment, scores=scores, allowed=allowed).frames)

    def choose(
        self,
        segment: Segment,
        source: FrameSource | None = None,
        *,
        scores: Sequence[float | None] | None = None,
        allowed: Container[int] | None = None,
        annotated: Collection[int] = (),
        progress: Callable[[int], Any] | None = None,
    ) -> Selection:
        """Chooses the exemplars of one segment.

        Args:
            segment: the frames to choose from
            source: the sequence; for methods whose ``needs_frames`` is True, which read the segment once
            scores: one per frame of the segment, higher is better, None for frames without; only for ``scores``
            allowed: the positions that may be exemplars, all when left out
            annotated: positions that are exemplars already; the method chooses further ones beside them
            progress: called with the number of frames read

        Returns:
            the new exemplars, at least one unless none that could be chosen is allowed, and everybody's scores. With
            ``annotated`` a target may be reached without new ones.

        Raises:
            DataError: ``scores`` is the method and no frame has a score above 0, or their number is wrong; or a frame
                cannot be read
            ConfigurationError: the method looks at the frames, and there is no ``source``
        """
        known = sorted({frame for frame in annotated if frame in segment})
        taken = set(known)
        frames = [f for f in segment.frames if f not in taken and (allowed is None or f in allowed)]
        if self.needs_frames and source is None:
            raise ConfigurationError(
                f"The method {str(self)!r} looks at the frames, but got none. Pass the sequence as source, or choose "
                f"by a method that does not: first, middle, uniform:k, every:n, all."
            )
        if self.method == "scores":
            return self._scored(segment, scores, frames)
        if not frames:
            return Selection((), (0.0,) * len(segment))
        if self.method == "diverse" and source is not None:
            return _diverse(
                segment, survey(source, segment, difficulty=False, progress=progress), frames, known, self.count or 1
            )
        if self.needs_frames and source is not None:
            if self.method == "active":
                logger.info("Nothing was propagated yet: %s chooses as coverage does.", self)
            seen = survey(source, segment, features=False, progress=progress)
            return self._covering(segment, seen, frames, known)
        return _by_distance(segment, self._plain(frames, known), known)

    def _plain(self, frames: Sequence[int], known: Sequence[int]) -> Sequence[int]:
        if self.method == "first":
            return frames[:1]
        if self.method == "all":
            return frames
        if self.method == "every":
            return _apart(frames, self.count or 1, known)
        count = 1 if self.method == "middle" else self.count or 1
        return _between(frames, count, known) if known else _middles(frames, count)

    def _covering(self, segment: Segment, seen: Survey, frames: Sequence[int], known: Sequence[int]) -> Selection:
        steps = DECAY.lengths(seen.difficulty)
        candidates, fixed = ([frame - segment.start for frame in some] for some in (frames, known))
        if self.target is not None:
            found = cover_to(steps, DECAY, candidates, fixed, self.target)
        else:
            found = cover(steps, DECAY, candidates, fixed, self.count or 1)
        places = np.concatenate([[0.0], np.cumsum(steps)])
        worth = [
            float(DECAY.errors(places, [*fixed, *(other for other in found.chosen if other != at)]).sum())
            - float(found.errors.sum())
            for at in found.chosen
        ]
        return _selection(segment, found.chosen, worth, found.errors)

    def _scored(self, segment: Segment, scores: Sequence[float | None] | None, frames: Sequence[int]) -> Selection:
        threshold = _DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        chosen = set(self._best(segment, scores, frames))
        graded = []
        for frame, score in zip(segment.frames, scores or (), strict=True):
            value = score if score is not None and math.isfinite(score) else 0.0
            if frame in chosen:
                graded.append(0.5 + 0.5 * min(1.0, max(0.0, (value - threshold) / max(1.0 - threshold, 1e-9))))
            else:
                graded.append(0.5 * min(2.0 * _BELOW, max(0.0, value / threshold if threshold > 0 else 0.0)))
        return Selection(tuple(sorted(chosen)), tuple(graded))

    def _best(self, segment: Segment, scores: Sequence[float | None] | None, frames: Sequence[int]) -> list[int]:
        given = list(scores) if scores is not None else [None] * len(segment)
        if len(given) != len(segment):
            raise DataError(f"A segment of {len(segment)} frames needs as many exemplar scores, got {len(given)}.")
        scored = {
            frame: score
            for frame, score in zip(segment.frames, given, strict=True)
            if score is not None and math.isfinite(score) and score > 0
        }
        if not scored:
            raise DataError(
                f"No frame of {segment.start}..{segment.stop - 1} has an exemplar score above 0. Score the frames "
                f"first, or choose exemplars by another method: {', '.join(METHODS[:-1])}."
            )
        known = {frame: scored[frame] for frame in frames if frame in scored}
        chosen = [frame for frame, score in known.items() if score >= (self.threshold or 0.0)]
        return chosen or sorted(known, key=lambda frame: (-known[frame], frame))[:1]


def select_exemplars(
    segment: Segment,
    method: str | ExemplarSpec = "first",
    scores: Sequence[float | None] | None = None,
    allowed: Container[int] | None = None,
    source: FrameSource | None = None,
) -> list[int]:
    """Chooses the exemplars of one segment by a method's text; see :meth:`ExemplarSpec.choose`."""
    spec = method if isinstance(method, ExemplarSpec) else ExemplarSpec.parse(method)
    return list(spec.choose(segment, source, scores=scores, allowed=allowed).frames)


def _diverse(segment: Segment, seen: Survey, frames: Sequence[int], known: Sequence[int], count: int) -> Selection:
    start = segment.start
    rows = np.arange(len(segment))
    if len(rows) > LARGEST:
        rows = np.union1d(rows[:: -(-len(rows) // LARGEST)], [frame - start for frame in known]).astype(np.intp)
    open_ = np.intersect1d(rows, [frame - start for frame in frames])
    if len(open_) < count:
        extra = np.setdiff1d([frame - start for frame in frames], open_)
        open_ = np.union1d(open_, extra[np.linspace(0, len(extra) - 1, min(len(extra), count)).astype(np.intp)])
        rows = np.union1d(rows, open_)
    apart = distances(seen.features[rows])
    fixed = np.searchsorted(rows, [frame - start for frame in known])
    chosen = k_medoids(apart, count, np.searchsorted(rows, open_).tolist(), fixed.tolist())
    medoids = [*(int(rows[i]) for i in chosen), *(frame - start for frame in known)]
    ways = np.stack([np.linalg.norm(seen.features - seen.features[at], axis=1) for at in medoids])
    nearest, order = ways.min(axis=0), ways.argmin(axis=0)
    members = [float(np.count_nonzero(order == place)) for place in range(len(chosen))]
    return _selection(segment, medoids[: len(chosen)], members, nearest / max(float(nearest.max()), 1e-9))


def _by_distance(segment: Segment, chosen: Sequence[int], known: Sequence[int]) -> Selection:
    ends = np.array(sorted([*chosen, *known]))
    away = np.abs(np.arange(segment.start, segment.stop)[:, None] - ends[None, :]).min(axis=1)
    return _selection(segment, [frame - segment.start for frame in chosen], [1.0] * len(chosen), away / (away + _FAR))


def _selection(segment: Segment, chosen: Sequence[int], worth: Sequence[float], doubt: npt.ArrayLike) -> Selection:
    """Grades the frames.

    Args:
        chosen: indices in the segment
        worth: what each of them is worth, in any unit
        doubt: of every frame, in [0, 1]: what is left to gain there
    """
    scores = np.minimum(0.5 * np.asarray(doubt, dtype=np.float64), _BELOW)
    most = max(worth, default=0.0)
    for at, value in zip(chosen, worth, strict=True):
        scores[at] = 0.5 + 0.5 * (max(0.0, value) / most if most > 0.0 else 1.0)
    return Selection(
        tuple(sorted(segment.start + at for at in chosen)), tuple(float(min(1.0, score)) for score in scores)
    )


def _middles(frames: Sequence[int], parts: int) -> list[int]:
    length = len(frames)
    if parts >= length:
        return list(frames)
    return [frames[(2 * part + 1) * length // (2 * parts)] for part in range(parts)]


def _between(frames: Sequence[int], count: int, known: Sequence[int]) -> list[int]:
    """The ``count`` frames that leave the least sum of distances to the nearest exemplar, beside those there are."""
    open_ = np.asarray(frames if len(frames) <= max(LARGEST, count) else frames[:: -(-len(frames) // LARGEST)])
    places = np.union1d(open_, known)
    apart = np.abs(np.subtract.outer(places, places)).astype(np.float64)
    candidates, fixed = (np.searchsorted(places, some).tolist() for some in (open_, np.asarray(known)))
    return [int(places[at]) for at in k_medoids(apart, count, candidates, fixed)]


def _apart(frames: Sequence[int], distance: int, known: Sequence[int]) -> list[int]:
    chosen: list[int] = []
    for frame in frames:
        place = bisect_left(known, frame)
        around = [*chosen[-1:], *known[max(0, place - 1) : place + 1]]
        if all(abs(frame - other) >= distance for other in around):
            chosen.append(frame)
    return chosen


def _refused(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"There is no way to choose exemplars called {text!r}. Methods: {', '.join(METHODS)}, "
        f"with k and n whole numbers from 1, as in 'uniform:3', and J with a dot, as in 'coverage:0.9'."
    )


__all__ = ["METHODS", "ExemplarSpec", "Selection", "select_exemplars"]
