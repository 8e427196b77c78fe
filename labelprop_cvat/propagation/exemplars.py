"""Which frames of a temporal segment people annotate."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.types import Segment

METHODS = ("first", "middle", "uniform:k", "every:n", "all", "scores[:threshold]")

_DEFAULT_THRESHOLD = 0.5


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
    ``scores`` or ``scores:threshold``
        the frames with an exemplar score of at least the threshold (0.5); the best frame when none reaches it

    Args:
        method: ``"first"``, ``"middle"``, ``"uniform"``, ``"every"``, ``"all"`` or ``"scores"``
        count: the ``k`` or ``n``, from 1
        threshold: smallest score

    Raises:
        ConfigurationError: there is no such method, or its number is missing, superfluous or out of range
    """

    method: str
    count: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.method not in ("first", "middle", "uniform", "every", "all", "scores"):
            raise _refused(self.method)
        counted = self.method in ("uniform", "every")
        if counted != (self.count is not None) or (self.count is not None and self.count < 1):
            raise _refused(str(self))
        if self.method == "scores":
            threshold = _DEFAULT_THRESHOLD if self.threshold is None else float(self.threshold)
            if not math.isfinite(threshold):
                raise _refused(str(self))
            object.__setattr__(self, "threshold", threshold)
        elif self.threshold is not None:
            raise _refused(str(self))

    @classmethod
    def parse(cls, text: str) -> ExemplarSpec:
        """Reads ``"first"``, ``"middle"``, ``"all"``, ``"uniform:3"``, ``"every:10"``, ``"scores"``, ``"scores:0.8"``.

        Raises:
            ConfigurationError: the text is none of these
        """
        method, colon, argument = str(text).strip().partition(":")
        try:
            if not colon:
                return cls(method)
            if method == "scores":
                return cls(method, threshold=float(argument))
            return cls(method, count=int(argument))
        except ValueError:
            raise _refused(str(text)) from None

    def __str__(self) -> str:
        if self.count is not None:
            return f"{self.method}:{self.count}"
        return f"{self.method}:{self.threshold:g}" if self.threshold is not None else self.method

    def select(
        self,
        segment: Segment,
        scores: Sequence[float | None] | None = None,
        allowed: Container[int] | None = None,
    ) -> list[int]:
        """Chooses the exemplars of one segment.

        Args:
            segment: the frames to choose from
            scores: one per frame of the segment, higher is better, None for frames without; only for ``scores``
            allowed: the positions that may be exemplars, all when left out. The method chooses among these: ``first``
                is the first of them, ``every:n`` each that is ``n`` or more after the one before

        Returns:
            frame positions inside the segment, ascending; at least one, unless none that could be chosen is allowed

        Raises:
            DataError: ``scores`` is the method and no frame has a score above 0, or their number is wrong
        """
        frames = [frame for frame in segment.frames if allowed is None or frame in allowed]
        if not frames:
            return []
        if self.method == "first":
            return frames[:1]
        if self.method == "middle":
            return _middles(frames, 1)
        if self.method == "uniform":
            return _middles(frames, self.count or 1)
        if self.method == "every":
            return _apart(frames, self.count or 1)
        if self.method == "all":
            return frames
        return self._best(segment, scores, frames)

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
) -> list[int]:
    """Chooses the exemplars of one segment by a method's text; see :class:`ExemplarSpec`."""
    spec = method if isinstance(method, ExemplarSpec) else ExemplarSpec.parse(method)
    return spec.select(segment, scores, allowed)


def _middles(frames: Sequence[int], parts: int) -> list[int]:
    length = len(frames)
    if parts >= length:
        return list(frames)
    return [frames[(2 * part + 1) * length // (2 * parts)] for part in range(parts)]


def _apart(frames: Sequence[int], distance: int) -> list[int]:
    chosen = [frames[0]]
    for frame in frames[1:]:
        if frame - chosen[-1] >= distance:
            chosen.append(frame)
    return chosen


def _refused(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"There is no way to choose exemplars called {text!r}. Methods: {', '.join(METHODS)}, "
        f"with k and n whole numbers from 1, as in 'uniform:3'."
    )


__all__ = ["METHODS", "ExemplarSpec", "select_exemplars"]
