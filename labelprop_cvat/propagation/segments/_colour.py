"""The embedded detector: hard cuts from colour statistics, and gradual ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.segments import _gradual
from labelprop_cvat.propagation.segments._detector import Scores

_THUMBNAIL = (160, 90)
# The same picture, brighter or darker: a light or an exposure changed, not the shot.
_ALIKE = 0.8


@dataclass(frozen=True)
class _Look:
    """The colour statistics of one frame: per cell of a 4x4 grid and channel mean and deviation, and a histogram."""

    means: npt.NDArray[np.float32]
    deviations: npt.NDArray[np.float32]
    histogram: npt.NDArray[np.float32]

    @classmethod
    def of(cls, thumbnail: Image) -> _Look:
        width, height = 64, 36
        cells = cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        grid = cells.reshape(4, height // 4, 4, width // 4, 3)
        histogram = cv2.calcHist([thumbnail], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
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
    four frames (a camera's flash, a dropped frame) is none, nor is one that leaves the picture as it was but brighter
    or darker.

    Dissolves and fades are found as well, over windows of up to 36 frames. The cut of a dissolve is the first frame
    that has more of the new shot than of the old one; that of a fade is the middle of its blank frames, or the hard cut
    that ends or begins them. A fade back to the picture that there was is none.

    Args:
        threshold: smallest change that can be a cut; 0.05 to 0.3 is usual inside a shot, 1 to 3 at hard cuts
        sensitivity: robust standard deviations above the local median; smaller finds more
        window: frames looked at on each side
        gradual: smallest score of a dissolve, above 0 and up to 1, which finds neither dissolves nor fades

    Raises:
        ConfigurationError: a value is not positive, or ``gradual`` is above 1
    """

    _LAGS = (2, 3, 4)

    metrics: tuple[str, ...] = (
        "change",
        "means",
        "deviations",
        "histogram",
        *(f"change_{lag}" for lag in _LAGS),
        *_gradual.METRICS,
    )
    measuring: frozenset[str] = frozenset()

    def __init__(
        self, threshold: float = 0.5, sensitivity: float = 6.0, window: int = 12, gradual: float = 0.5
    ) -> None:
        if not (threshold > 0 and sensitivity > 0 and window >= 1 and 0 < gradual <= 1):
            raise ConfigurationError(
                f"The heuristic method needs threshold > 0, sensitivity > 0, window >= 1 and 0 < gradual <= 1, got "
                f"threshold={threshold!r}, sensitivity={sensitivity!r}, window={window!r}, gradual={gradual!r}."
            )
        self._threshold = threshold
        self._sensitivity = sensitivity
        self._window = int(window)
        self._gradual = gradual
        self._recent: deque[_Look] = deque(maxlen=max(self._LAGS))
        self._meter = _gradual.GradualMeter()

    def process(self, frame: Image) -> Mapping[str, float]:
        """Measures the next frame against the last few; the first frames of a sequence score 0."""
        thumbnail = np.asarray(cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)
        look = _Look.of(thumbnail)
        measured = dict.fromkeys(self.metrics, 0.0)
        if self._recent:
            measured["means"], measured["deviations"], measured["histogram"] = look.against(self._recent[-1])
            measured["change"] = look.change(self._recent[-1])
        for lag in self._LAGS:
            # A frame that has nothing so far behind it has not returned to anything.
            measured[f"change_{lag}"] = look.change(self._recent[-lag]) if len(self._recent) >= lag else math.inf
        self._recent.append(look)
        return {**measured, **self._meter.measure(thumbnail)}

    def bars(self, scores: Mapping[str, Scores]) -> Mapping[str, Scores]:
        """What ``change`` had to exceed for a hard cut, and ``dissolve`` or ``fade`` for a gradual one."""
        change = scores["change"]
        return {
            "change": np.array([self._bar(change, index) for index in range(len(change))]),
            "dissolve": np.full(len(change), self._gradual),
            "fade": np.full(len(change), _gradual.FADE_BAR if self._gradual < 1 else 1.0),
        }

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """The frames that jump away from what was before and stay away, and those in the middle of gradual changes."""
        change, likeness = scores["change"], scores["likeness"]
        jumps = [index for index in range(1, len(change)) if change[index] > self._bar(change, index)]
        hard = [index for index in jumps if likeness[index] < _ALIKE and not self._is_undone(scores, index)]
        return _gradual.gradual_cuts(scores, self._gradual, hard) if self._gradual < 1 else hard

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


__all__ = ["ColourDetector"]
