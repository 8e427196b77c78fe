"""PySceneDetect's detectors (package ``scenedetect-headless``) over our frames.

PySceneDetect measures; what is measured is kept and compared here, so that other thresholds need no second reading.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.segments._detector import Scores

_NOMINAL_RATE = 25.0
_WIDTH = 256


class _SceneDetector:
    """What all of them share.

    Fades: where ``black`` is above 0, PySceneDetect's ``ThresholdDetector`` finds passages whose mean brightness is
    below it. Their middle is a cut, unless the method itself finds exactly one within ``_FADE_REACH`` frames of it:
    then a shot begins or ends without fading.
    """

    metrics: tuple[str, ...]
    measuring: frozenset[str] = frozenset()

    _FADE_REACH = 12

    def __init__(self, method: str, detector: str, threshold: float, black: float, **options: Any) -> None:
        try:
            # Imported here: the other methods work without the package.
            self._common = importlib.import_module("scenedetect.common")
            self._detectors = importlib.import_module("scenedetect.detectors")
            self._statistics = importlib.import_module("scenedetect.stats_manager")
        except ImportError as error:
            raise ConfigurationError(
                f"The segmentation method {method!r} needs PySceneDetect: pip install scenedetect-headless. "
                f"The method 'heuristic' works without it."
            ) from error
        if not threshold > 0:
            raise ConfigurationError(f"The threshold of {method!r} is a number above 0, got {threshold!r}.")
        if not 0 <= black < 256:
            raise ConfigurationError(f"black is a brightness from 0 (fades are not looked for) to 255, got {black!r}.")
        try:
            self._detector: Any = getattr(self._detectors, detector)(min_scene_len=0, **options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"PySceneDetect refuses these options of {method!r}: {error}.") from error
        self._threshold = threshold
        self._black = black
        self._detector.stats_manager = self._statistics.StatsManager()
        self._detector.stats_manager.register_metrics(self._detector.get_metrics())
        self._count = 0

    def process(self, frame: Image) -> Mapping[str, float]:
        """Hands the next frame to PySceneDetect, at most 256 pixels wide."""
        height, width = frame.shape[:2]
        if width > _WIDTH:
            scaled = (_WIDTH, max(1, round(height * _WIDTH / width)))
            frame = np.asarray(cv2.resize(frame, scaled, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        now = self._timecode(self._count)
        self._detector.process_frame(now, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        measured = {self.metrics[0]: self._measured(now), "brightness": float(frame.mean())}
        self._count += 1
        return measured

    def bars(self, scores: Mapping[str, Scores]) -> Mapping[str, Scores]:
        """What the method's own metric had to reach; infinite where it looks for no cuts."""
        return {self.metrics[0]: self._bar(scores[self.metrics[0]])}

    def cuts(self, scores: Mapping[str, Scores]) -> list[int]:
        """The frames that reach the bar, and the middles of fades through black."""
        over = scores[self.metrics[0]] >= self._bar(scores[self.metrics[0]])
        cuts = [int(index) for index in np.flatnonzero(over) if index > 0]
        for fade in self._fades(scores["brightness"]):
            near = [cut for cut in cuts if abs(cut - fade) <= self._FADE_REACH]
            if len(near) != 1:
                cuts = [cut for cut in cuts if cut not in near] + [fade]
        return sorted(cuts)

    def _bar(self, scores: Scores) -> Scores:
        """What the method's own metric must reach: an array like ``scores``."""
        return np.full(len(scores), self._threshold)

    def _measured(self, now: Any) -> float:
        """The method's own metric for the frame just processed."""
        raise NotImplementedError

    def _value(self, name: str, now: Any) -> float:
        """PySceneDetect's own number for the frame just processed; that of the first frame is none."""
        return float(self._detector.stats_manager.get_metrics(now, [name])[0] or 0.0)

    def _timecode(self, index: int) -> Any:
        return self._common.FrameTimecode(index, _NOMINAL_RATE)

    def _fades(self, brightness: Scores) -> list[int]:
        if not self._black:
            return []
        detector = self._detectors.ThresholdDetector(threshold=self._black, min_scene_len=0)
        detector.stats_manager = self._statistics.StatsManager()
        detector.stats_manager.register_metrics(detector.get_metrics())
        (name,) = detector.get_metrics()
        found = []
        for index, value in enumerate(brightness):
            now = self._timecode(index)
            # It takes a known brightness from there and never looks at the picture.
            detector.stats_manager.set_metrics(now, {name: float(value)})
            found += [cut.frame_num for cut in detector.process_frame(now, None)]
        # A sequence that begins in the dark begins one shot.
        begin = int(np.argmax(brightness >= self._black))
        return [cut for cut in found if cut > begin]


class ContentDetector(_SceneDetector):
    """The ``content`` method: PySceneDetect's ``ContentDetector``.

    Args:
        threshold: the mean change of hue, saturation and brightness (0..255) that a cut must reach
        black: mean brightness (0..255) below which a frame belongs to a fade; 0: fades are not looked for

    Raises:
        ConfigurationError: PySceneDetect is not installed, or refuses a value
    """

    metrics: tuple[str, ...] = ("content", "brightness")

    def __init__(self, threshold: float = 27.0, black: float = 12.0) -> None:
        super().__init__("content", "ContentDetector", threshold, black)

    def _measured(self, now: Any) -> float:
        return self._value("content_val", now)


class AdaptiveContentDetector(_SceneDetector):
    """The ``adaptive`` method: content change against its rolling mean, as PySceneDetect's ``AdaptiveDetector`` does.

    It finds nothing in the first and the last ``window`` frames.

    Args:
        threshold: how many times the mean content change of the frames around it a cut must reach
        minimum_change: smallest content change (mean difference of hue, saturation and brightness, 0..255) of a cut
        window: frames averaged on each side
        black: mean brightness (0..255) below which a frame belongs to a fade; 0: fades are not looked for

    Raises:
        ConfigurationError: PySceneDetect is not installed, or a value makes no sense
    """

    metrics: tuple[str, ...] = ("content", "brightness")

    def __init__(
        self, threshold: float = 3.0, minimum_change: float = 15.0, window: int = 2, black: float = 12.0
    ) -> None:
        super().__init__("adaptive", "ContentDetector", threshold, black)
        if window < 1 or minimum_change < 0:
            raise ConfigurationError(
                f"The method 'adaptive' needs window >= 1 and minimum_change >= 0, got window={window!r}, "
                f"minimum_change={minimum_change!r}."
            )
        self._minimum_change = minimum_change
        self._window = int(window)

    def _measured(self, now: Any) -> float:
        return self._value("content_val", now)

    def _bar(self, scores: Scores) -> Scores:
        # PySceneDetect's own decision comes some frames late and cannot be asked again with another threshold.
        bar = np.full(len(scores), np.inf)
        width = 2 * self._window + 1
        if len(scores) >= width:
            sums = np.lib.stride_tricks.sliding_window_view(scores, width).sum(1)
            inner = slice(self._window, len(scores) - self._window)
            around = (sums - scores[inner]) / (2 * self._window)
            bar[inner] = np.maximum(self._threshold * around, self._minimum_change)
        return bar


class HistogramDetector(_SceneDetector):
    """The ``histogram`` method: PySceneDetect's ``HistogramDetector``, brightness histograms of neighbouring frames.

    Args:
        threshold: what 1 minus the histograms' correlation must reach, 0..1
        bins: bins of the histograms
        black: mean brightness (0..255) below which a frame belongs to a fade; 0: fades are not looked for

    Raises:
        ConfigurationError: PySceneDetect is not installed, or refuses a value
    """

    metrics: tuple[str, ...] = ("histogram", "brightness")
    measuring: frozenset[str] = frozenset({"bins"})

    def __init__(self, threshold: float = 0.2, bins: int = 128, black: float = 12.0) -> None:
        if not 2 <= bins <= 256:
            raise ConfigurationError(f"The method 'histogram' needs 2 to 256 bins, got {bins!r}.")
        super().__init__("histogram", "HistogramDetector", threshold, black, bins=int(bins))
        (self._name,) = self._detector.get_metrics()

    def _measured(self, now: Any) -> float:
        return 1.0 - self._value(self._name, now) if self._count else 0.0


class HashDetector(_SceneDetector):
    """The ``hash`` method: PySceneDetect's ``HashDetector``, perceptual hashes of neighbouring frames.

    Args:
        threshold: the share of the hashes' bits that must differ, 0..1
        size: bits of a hash along each side
        lowpass: how much detail the hash leaves out: 2 is half of it
        black: mean brightness (0..255) below which a frame belongs to a fade; 0: fades are not looked for

    Raises:
        ConfigurationError: PySceneDetect is not installed, or refuses a value
    """

    metrics: tuple[str, ...] = ("hash", "brightness")
    measuring: frozenset[str] = frozenset({"size", "lowpass"})

    def __init__(self, threshold: float = 0.35, size: int = 8, lowpass: int = 2, black: float = 12.0) -> None:
        if size < 2 or lowpass < 1:
            raise ConfigurationError(
                f"The method 'hash' needs size >= 2 and lowpass >= 1, got size={size!r}, lowpass={lowpass!r}."
            )
        super().__init__("hash", "HashDetector", threshold, black, size=int(size), lowpass=int(lowpass))
        (self._name,) = self._detector.get_metrics()

    def _measured(self, now: Any) -> float:
        return self._value(self._name, now)


__all__ = ["AdaptiveContentDetector", "ContentDetector", "HashDetector", "HistogramDetector"]
