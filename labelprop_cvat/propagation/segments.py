"""Temporal segmentation: where one shot ends and the next begins.

A *detector* looks at one frame at a time and says in numbers how new it is; the *manager*, :func:`score_frames`, reads
the frames, reports progress, keeps every number for tuning and turns cuts into segments.

Methods, as users write them:

``heuristic``
    sharp changes of RGB means, deviations and histograms against what the neighbouring frames do
    (:class:`ColourDetector`)
``adaptive``
    PySceneDetect's ``AdaptiveDetector`` (package ``scenedetect-headless``): content change against a rolling mean
``fixed:n``
    a segment every ``n`` frames, the last one may be shorter
``none``
    the whole sequence is one segment
"""

from __future__ import annotations

import importlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.types import Segment

Progress = Callable[[int, int], None]
Scores = npt.NDArray[np.float64]

METHODS = ("heuristic", "adaptive", "fixed:n", "none")

_NOMINAL_RATE = 25.0
_THUMBNAIL = (160, 90)
_DETECTOR_WIDTH = 256


class SegmentDetector(Protocol):
    """One way to find cuts; used for one sequence and thrown away."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that :meth:`process` gives per frame."""
        ...

    def process(self, frame: Image) -> Mapping[str, float]:
        """Takes the next frame, ``(H, W, 3)``, uint8, RGB, and measures it."""
        ...

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """The 0-based first frames of new shots, ascending, without frame 0; asked once, after the last frame."""
        ...


@dataclass(frozen=True)
class Segmentation:
    """What :func:`score_frames` found.

    Args:
        segments: in order, without gaps, covering all frames
        scores: per metric an array of shape ``(n,)``, float64, one number per frame; empty for methods that measure
            nothing
    """

    segments: tuple[Segment, ...]
    scores: Mapping[str, Scores]

    @property
    def cuts(self) -> list[int]:
        """The first frames of all segments but the first."""
        return [segment.start for segment in self.segments[1:]]


@dataclass(frozen=True)
class _Look:
    """The colour statistics of one frame: per cell of a 4x4 grid and channel mean and deviation, and a histogram."""

    means: npt.NDArray[np.float32]
    deviations: npt.NDArray[np.float32]
    histogram: npt.NDArray[np.float32]

    @classmethod
    def of(cls, frame: Image) -> _Look:
        small = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        width, height = 64, 36
        cells = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        grid = cells.reshape(4, height // 4, 4, width // 4, 3)
        histogram = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
        return cls(grid.mean((1, 3)), grid.std((1, 3)), (histogram / histogram.sum()).astype(np.float32))

    def against(self, other: _Look) -> tuple[float, float, float]:
        """Mean differences of the means and deviations in gray levels, and the share of pixels that changed colour."""
        return (
            float(np.abs(self.means - other.means).mean()),
            float(np.abs(self.deviations - other.deviations).mean()),
            float(1.0 - np.minimum(self.histogram, other.histogram).sum()),
        )

    def change(self, other: _Look) -> float:
        """One number for all three: about 0.05 to 0.3 inside a shot, 1 to 3 across a hard cut."""
        means, deviations, histogram = self.against(other)
        return histogram + (means + deviations) / 64.0


class ColourDetector:
    """The ``heuristic`` method: a cut is a frame whose colour statistics jump away from the frames before it.

    The change between neighbouring frames must exceed both ``threshold`` and the median of the changes around it by
    ``sensitivity`` robust deviations, so that fast motion raises the bar where it happens. A jump that is undone within
    four frames (a camera's flash, a dropped frame) is none.

    Args:
        threshold: smallest change that can be a cut; 0.05 to 0.3 is usual inside a shot, 1 to 3 at hard cuts
        sensitivity: robust standard deviations above the local median; smaller finds more
        window: frames looked at on each side

    Raises:
        ConfigurationError: a value is not positive
    """

    _LAGS = (2, 3, 4)

    metrics: tuple[str, ...] = ("change", "means", "deviations", "histogram", *(f"change_{lag}" for lag in _LAGS))

    def __init__(self, threshold: float = 0.5, sensitivity: float = 6.0, window: int = 12) -> None:
        if not (threshold > 0 and sensitivity > 0 and window >= 1):
            raise ConfigurationError(
                f"The heuristic method needs threshold > 0, sensitivity > 0 and window >= 1, got threshold="
                f"{threshold!r}, sensitivity={sensitivity!r}, window={window!r}."
            )
        self._threshold = threshold
        self._sensitivity = sensitivity
        self._window = int(window)
        self._recent: deque[_Look] = deque(maxlen=max(self._LAGS))

    def process(self, frame: Image) -> Mapping[str, float]:
        """Measures the next frame against the last few; the first frames of a sequence score 0."""
        look = _Look.of(frame)
        measured = dict.fromkeys(self.metrics, 0.0)
        if self._recent:
            measured["means"], measured["deviations"], measured["histogram"] = look.against(self._recent[-1])
            measured["change"] = look.change(self._recent[-1])
        for lag in self._LAGS:
            # A frame that has nothing so far behind it has not returned to anything.
            measured[f"change_{lag}"] = look.change(self._recent[-lag]) if len(self._recent) >= lag else math.inf
        self._recent.append(look)
        return measured

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """The frames that jump away from what was before and stay away."""
        change = scores["change"]
        jumps = [index for index in range(1, len(change)) if change[index] > self._bar(change, index)]
        return [index for index in jumps if not self._is_undone(scores, index)]

    def _bar(self, change: Scores, index: int) -> float:
        around = np.concatenate(
            [change[max(1, index - self._window) : index], change[index + 1 : index + 1 + self._window]]
        )
        if around.size == 0:
            return self._threshold
        median = float(np.median(around))
        deviation = 1.4826 * float(np.median(np.abs(around - median)))
        return max(self._threshold, median + self._sensitivity * deviation)

    def _is_undone(self, scores: Mapping[str, Scores], index: int) -> bool:
        height = float(scores["change"][index])
        for lag in self._LAGS:
            back = scores[f"change_{lag}"]
            # Either this frame returns to one before the jump, or a later one returns to the frame before this.
            for later in (index, index - 1 + lag):
                if later < len(back) and back[later] < min(self._threshold, 0.5 * height):
                    return True
        return False


class AdaptiveContentDetector:
    """The ``adaptive`` method: PySceneDetect's ``AdaptiveDetector`` over our frames.

    Args:
        threshold: how many times the mean content change of the frames around it a cut must reach
        minimum_change: smallest content change (mean difference of hue, saturation and brightness, 0..255) of a cut
        window: frames averaged on each side

    Raises:
        ConfigurationError: PySceneDetect is not installed, or refuses a value
    """

    metrics: tuple[str, ...] = ("content",)

    def __init__(self, threshold: float = 3.0, minimum_change: float = 15.0, window: int = 2) -> None:
        try:
            # Imported here: the other methods work without the package.
            common = importlib.import_module("scenedetect.common")
            detectors = importlib.import_module("scenedetect.detectors")
            statistics = importlib.import_module("scenedetect.stats_manager")
        except ImportError as error:
            raise ConfigurationError(
                "The segmentation method 'adaptive' needs PySceneDetect: pip install scenedetect-headless. "
                "The method 'heuristic' works without it."
            ) from error
        try:
            self._detector: Any = detectors.AdaptiveDetector(
                adaptive_threshold=threshold, min_content_val=minimum_change, window_width=window, min_scene_len=1
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"PySceneDetect refuses these options of 'adaptive': {error}.") from error
        self._detector.stats_manager = statistics.StatsManager()
        self._detector.stats_manager.register_metrics(self._detector.get_metrics())
        self._timecode = common.FrameTimecode
        self._count = 0
        self._cuts: list[int] = []

    def process(self, frame: Image) -> Mapping[str, float]:
        """Hands the next frame to PySceneDetect; ``content`` over its local mean is what ``threshold`` meets."""
        height, width = frame.shape[:2]
        if width > _DETECTOR_WIDTH:
            scaled = (_DETECTOR_WIDTH, max(1, round(height * _DETECTOR_WIDTH / width)))
            frame = np.asarray(cv2.resize(frame, scaled, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        now = self._timecode(self._count, _NOMINAL_RATE)
        found = self._detector.process_frame(now, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._cuts += [cut.frame_num for cut in found]
        change = self._detector.stats_manager.get_metrics(now, ["content_val"])[0]
        self._count += 1
        return {"content": float(change or 0.0)}

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """What PySceneDetect reported."""
        return [cut for cut in self._cuts if cut > 0]


_DETECTORS: Mapping[str, Callable[..., SegmentDetector]] = MappingProxyType(
    {"heuristic": ColourDetector, "adaptive": AdaptiveContentDetector}
)


def find_segments(
    source: FrameSource,
    method: str = "heuristic",
    *,
    minimum_length: int = 5,
    progress: Progress | None = None,
    **options: Any,
) -> list[Segment]:
    """Cuts a sequence into segments; :func:`score_frames` without the scores."""
    return list(score_frames(source, method, minimum_length=minimum_length, progress=progress, **options).segments)


def score_frames(
    source: FrameSource,
    method: str = "heuristic",
    *,
    minimum_length: int = 5,
    progress: Progress | None = None,
    **options: Any,
) -> Segmentation:
    """Cuts a sequence into segments and keeps what was measured on the way.

    Args:
        source: the sequence, read once from front to back
        method: ``"heuristic"``, ``"adaptive"``, ``"fixed:n"`` or ``"none"``
        minimum_length: frames; of cuts that would leave a shorter segment the stronger one stays. Not for ``fixed:n``.
        progress: called with frames done and frames in all
        options: the detector's, see :class:`ColourDetector` and :class:`AdaptiveContentDetector`

    Raises:
        ConfigurationError: there is no such method, or an option it does not know
        DataError: a frame cannot be read
    """
    name, _, argument = method.partition(":")
    if minimum_length < 1:
        raise ConfigurationError(f"minimum_length counts frames from 1, got {minimum_length!r}.")
    if method == "none" or name == "fixed":
        if options:
            raise ConfigurationError(f"The segmentation method {method!r} takes no options, got {sorted(options)}.")
        length = len(source) if method == "none" else _fixed_length(method, argument)
        return Segmentation(_segments(range(length, len(source), length), len(source)), MappingProxyType({}))
    if name not in _DETECTORS or argument:
        raise _unknown_method(method)
    try:
        detector = _DETECTORS[name](**options)
    except TypeError as error:
        raise ConfigurationError(
            f"The segmentation method {method!r} does not take these options: {sorted(options)} ({error})."
        ) from error
    scores = _measure(source, detector, progress)
    cuts = _far_apart(detector.cuts(scores), scores[detector.metrics[0]], minimum_length, len(source))
    return Segmentation(_segments(cuts, len(source)), MappingProxyType(scores))


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


def _fixed_length(method: str, argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise ConfigurationError(f"The segmentation method 'fixed:n' needs a number of frames, got {method!r}.")
    return int(argument)


def _unknown_method(method: str) -> ConfigurationError:
    return ConfigurationError(f"There is no segmentation method {method!r}. Methods: {', '.join(METHODS)}.")


__all__ = [
    "METHODS",
    "AdaptiveContentDetector",
    "ColourDetector",
    "SegmentDetector",
    "Segmentation",
    "find_segments",
    "score_frames",
]
