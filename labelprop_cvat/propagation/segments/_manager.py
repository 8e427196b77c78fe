"""Reads the frames, keeps what was measured, and turns cuts into segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.segments._colour import ColourDetector
from labelprop_cvat.propagation.segments._detector import Scores, SegmentDetector
from labelprop_cvat.propagation.segments._scenedetect import (
    AdaptiveContentDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
)
from labelprop_cvat.propagation.types import Segment

Progress = Callable[[int, int], None]

METHODS = ("auto", "heuristic", "adaptive", "content", "histogram", "hash", "fixed:n", "none")
DEFAULT_METHOD = "auto"
MINIMUM_LENGTH = 5

# docs/choosing-frames.md has the table that says so; python -m benchmarks.segmentation prints it.
_BEST = "heuristic"

_DETECTORS: Mapping[str, Callable[..., SegmentDetector]] = MappingProxyType(
    {
        "heuristic": ColourDetector,
        "adaptive": AdaptiveContentDetector,
        "content": ContentDetector,
        "histogram": HistogramDetector,
        "hash": HashDetector,
    }
)
# Those that give a number per frame.
MEASURING = ("auto", *_DETECTORS)


@dataclass(frozen=True)
class Segmentation:
    """What :func:`score_frames` found.

    Args:
        segments: in order, without gaps, covering all frames
        scores: per metric an array of shape ``(n,)``, float64, one number per frame, the one that says how strong a
            cut is first; empty for methods that measure nothing
        bars: for the metrics that decide, what each frame's number was compared to; arrays like those of ``scores``
        method: how it was done; ``"auto"`` stands here as the method that it chose
        options: the detector's own, as given
        minimum_length: frames of the shortest segment allowed
    """

    segments: tuple[Segment, ...]
    scores: Mapping[str, Scores]
    bars: Mapping[str, Scores] = field(default_factory=dict)
    method: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    minimum_length: int = 1

    @property
    def cuts(self) -> list[int]:
        """The first frames of all segments but the first."""
        return [segment.start for segment in self.segments[1:]]

    @property
    def metric(self) -> str | None:
        """The metric that says how strong a cut is; None for methods that measure nothing."""
        return next(iter(self.scores), None)

    def recut(self, *, minimum_length: int | None = None, **options: Any) -> Segmentation:
        """The same frames against other thresholds, without reading them again.

        Args:
            minimum_length: frames of the shortest segment allowed; None keeps it
            options: the detector's, instead of those given before; the others stay

        Raises:
            ConfigurationError: the method measures nothing, does not know an option, or would have to measure anew
        """
        if self.method not in _DETECTORS:
            raise ConfigurationError(
                f"Segments made by {self.method!r} have no scores that could be cut again. Segment with one of "
                f"{', '.join(_DETECTORS)} first."
            )
        merged = {**self.options, **options}
        minimum = self.minimum_length if minimum_length is None else minimum_length
        detector = _detector(self.method, merged)
        anew = sorted(
            name for name in detector.measuring if name in options and options[name] != self.options.get(name)
        )
        if anew:
            raise ConfigurationError(
                f"{', '.join(anew)} of {self.method!r} changes what is measured, so the frames must be read again. "
                f"Call score_frames() with it."
            )
        return _decided(detector, self.scores, self.method, merged, minimum)


def measures(method: str) -> bool:
    """Whether a method measures anything per frame.

    Raises:
        ConfigurationError: there is no such method
    """
    if method not in MEASURING and method != "none" and not method.startswith("fixed:"):
        raise _unknown_method(method)
    return method in MEASURING


def find_segments(
    source: FrameSource,
    method: str = DEFAULT_METHOD,
    *,
    minimum_length: int = MINIMUM_LENGTH,
    progress: Progress | None = None,
    **options: Any,
) -> list[Segment]:
    """Cuts a sequence into segments; :func:`score_frames` without the scores."""
    return list(score_frames(source, method, minimum_length=minimum_length, progress=progress, **options).segments)


def score_frames(
    source: FrameSource,
    method: str = DEFAULT_METHOD,
    *,
    minimum_length: int = MINIMUM_LENGTH,
    progress: Progress | None = None,
    **options: Any,
) -> Segmentation:
    """Cuts a sequence into segments and keeps what was measured on the way.

    Args:
        source: the sequence, read once from front to back
        method: one of :data:`METHODS`
        minimum_length: frames; of cuts that would leave a shorter segment the stronger one stays. Not for ``fixed:n``.
        progress: called with frames done and frames in all
        options: the detector's, see :class:`ColourDetector` and PySceneDetect's

    Raises:
        ConfigurationError: there is no such method, or an option it does not know
        DataError: a frame cannot be read
    """
    if method == "auto":
        method = _BEST
    name, _, argument = method.partition(":")
    _check_length(minimum_length)
    if method == "none" or name == "fixed":
        if options:
            raise ConfigurationError(f"The segmentation method {method!r} takes no options, got {sorted(options)}.")
        length = len(source) if method == "none" else _fixed_length(method, argument)
        segments = _segments(range(length, len(source), length), len(source))
        return Segmentation(segments, {}, method=method)
    if name not in _DETECTORS or argument:
        raise _unknown_method(method)
    detector = _detector(method, options)
    return _decided(detector, _measure(source, detector, progress), method, options, minimum_length)


def _detector(method: str, options: Mapping[str, Any]) -> SegmentDetector:
    try:
        return _DETECTORS[method](**options)
    except TypeError as error:
        raise ConfigurationError(
            f"The segmentation method {method!r} does not take these options: {sorted(options)} ({error})."
        ) from error


def _decided(
    detector: SegmentDetector, scores: Mapping[str, Scores], method: str, options: Mapping[str, Any], minimum: int
) -> Segmentation:
    _check_length(minimum)
    strength = scores[detector.metrics[0]]
    cuts = _far_apart(detector.cuts(scores), strength, minimum, len(strength))
    return Segmentation(
        _segments(cuts, len(strength)),
        dict(scores),
        dict(detector.bars(scores)),
        method,
        dict(options),
        minimum,
    )


def _measure(source: FrameSource, detector: SegmentDetector, progress: Progress | None) -> dict[str, Scores]:
    total = len(source)
    scores = {metric: np.zeros(total) for metric in detector.metrics}
    for index, frame in source.read(0, total):
        for metric, value in detector.process(frame).items():
            scores[metric][index] = value
        if progress is not None:
            progress(index + 1, total)
    return scores


def _far_apart(cuts: Sequence[int], strength: Scores, minimum: int, total: int) -> list[int]:
    """The strongest cuts that leave no segment shorter than ``minimum``, ascending."""
    kept = [0, total]
    for cut in sorted(cuts, key=lambda index: (-strength[index], index)):
        if all(abs(cut - other) >= minimum for other in kept):
            kept.append(cut)
    return sorted(kept)[1:-1]


def _segments(cuts: Sequence[int], total: int) -> tuple[Segment, ...]:
    bounds = [0, *cuts, total]
    return tuple(Segment(start, stop) for start, stop in pairwise(bounds))


def _check_length(minimum: int) -> None:
    if minimum < 1:
        raise ConfigurationError(f"minimum_length counts frames from 1, got {minimum!r}.")


def _fixed_length(method: str, argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise ConfigurationError(f"The segmentation method 'fixed:n' needs a number of frames, got {method!r}.")
    return int(argument)


def _unknown_method(method: str) -> ConfigurationError:
    return ConfigurationError(f"There is no segmentation method {method!r}. Methods: {', '.join(METHODS)}.")


__all__ = ["DEFAULT_METHOD", "MEASURING", "METHODS", "Segmentation", "find_segments", "measures", "score_frames"]
