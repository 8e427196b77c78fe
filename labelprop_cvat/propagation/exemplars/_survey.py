"""One reading of a segment: what its frames look like, and how hard it is to get from each to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.types import Segment

FloatArray = npt.NDArray[np.float64]
GreyImage = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_FLOW_WIDTH = 320
_THUMBNAIL = (16, 9)
_CELLS = (6, 4)
_BINS = 9
_COMPONENTS = 48
# Pixels of the small frame by which the flow there and back may miss; half a grey level's noise is not change.
_MISS = 1.0
_NOISE = 4

_opencv: Any = cv2


@dataclass(frozen=True, eq=False)
class Survey:
    """What was seen of a segment's frames.

    Args:
        features: array of shape ``(n, d)``: frames that look alike lie near each other; ``d`` is 0 when nobody asked
        difficulty: array of shape ``(n - 1,)``, from 0: of the step from each frame to the next; of shape ``(0,)`` when
            nobody asked
    """

    features: FloatArray
    difficulty: FloatArray


def survey(
    source: FrameSource,
    segment: Segment,
    *,
    features: bool = True,
    difficulty: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> Survey:
    """Reads a segment once, from front to back.

    Features are classical: a thumbnail in CIE Lab and histograms of gradient directions, reduced to their principal
    components. Difficulty is what dense flow (DIS) between small frames leaves unexplained: pixels that it does not
    bring back to where they were, and pixels that differ from where it says they came from.

    Args:
        source: the sequence
        segment: the frames to read
        features: whether to describe the frames
        difficulty: whether to measure the steps between them; a few milliseconds a frame
        progress: called with the number of frames done

    Raises:
        DataError: a frame cannot be read
    """
    described: list[Floats] = []
    steps: list[float] = []
    meter = _StepMeter()
    for done, (_, frame) in enumerate(source.read(segment.start, segment.stop), start=1):
        if features:
            described.append(_described(frame))
        if difficulty:
            step = meter.step(frame)
            if step is not None:
                steps.append(step)
        if progress is not None:
            progress(done)
    return Survey(_principal(described), np.asarray(steps, dtype=np.float64))


class _StepMeter:
    """Measures each frame against the one before."""

    def __init__(self) -> None:
        # Fast enough at this size to run both ways on every frame.
        self._flow = _opencv.DISOpticalFlow_create(_opencv.DISOPTICAL_FLOW_PRESET_FAST)
        self._size: tuple[int, int] | None = None
        self._before: GreyImage | None = None

    def step(self, frame: Image) -> float | None:
        """How hard it is to get here from the frame before; None on the first."""
        if self._size is None:
            height, width = frame.shape[:2]
            shrink = min(1.0, _FLOW_WIDTH / width)
            self._size = max(16, round(width * shrink)), max(16, round(height * shrink))
        whole = _opencv.cvtColor(frame, _opencv.COLOR_RGB2GRAY)
        grey: GreyImage = _opencv.resize(whole, self._size, interpolation=_opencv.INTER_AREA)
        before, self._before = self._before, grey
        return None if before is None else self._difficulty(before, grey)

    def _difficulty(self, before: GreyImage, after: GreyImage) -> float:
        forward = self._flow.calc(before, after, None)
        backward = self._flow.calc(after, before, None)
        missed = _missed(forward, backward) + _missed(backward, forward)
        return 0.5 * missed + _photometric(before, after, backward)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> Floats:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.ascontiguousarray(np.dstack([columns, rows]))


def _missed(there: Floats, back: Floats) -> float:
    """The share of pixels that the flow there and back does not bring to where they were."""
    places = _grid(*there.shape[:2]) + there
    error = there + _opencv.remap(back, places, None, _opencv.INTER_LINEAR, borderValue=(1e3, 1e3, 0, 0))
    across, down = error[..., 0], error[..., 1]
    return float(np.count_nonzero(across * across + down * down > _MISS * _MISS) / across.size)


def _photometric(before: GreyImage, after: GreyImage, backward: Floats) -> float:
    """What the flow leaves of the difference between two frames, as a share of the contrast of the picture."""
    places = _grid(*after.shape) + backward
    came = _opencv.remap(before, places, None, _opencv.INTER_LINEAR, borderMode=_opencv.BORDER_REPLICATE)
    left = _opencv.mean(_opencv.subtract(_opencv.absdiff(came, after), _NOISE))[0]
    return float(left / (after.std() + _NOISE))


def _described(frame: Image) -> Floats:
    lab = _opencv.cvtColor(_opencv.resize(frame, _THUMBNAIL, interpolation=_opencv.INTER_AREA), _opencv.COLOR_RGB2LAB)
    colours = (lab.astype(np.float64).reshape(-1, 3) - 128.0) / 128.0
    width, height = _CELLS[0] * 16, _CELLS[1] * 16
    grey = _opencv.cvtColor(
        _opencv.resize(frame, (width, height), interpolation=_opencv.INTER_AREA), _opencv.COLOR_RGB2GRAY
    ).astype(np.float32)
    across, down = _opencv.Sobel(grey, _opencv.CV_32F, 1, 0), _opencv.Sobel(grey, _opencv.CV_32F, 0, 1)
    strength = np.hypot(across, down)
    direction = np.floor((np.arctan2(down, across) % np.pi) / np.pi * _BINS).astype(np.intp) % _BINS
    rows, columns = np.mgrid[:height, :width] // 16
    place = (rows * _CELLS[0] + columns) * _BINS + direction
    histogram = np.bincount(place.ravel(), strength.ravel(), minlength=_CELLS[0] * _CELLS[1] * _BINS)
    shares = np.sqrt(histogram / (histogram.sum() + 1e-6))
    # Both halves weigh about the same between two frames that have nothing in common.
    # Single precision: an hour of video in one segment still fits into memory.
    return np.concatenate([colours.ravel() / np.sqrt(colours.size), shares]).astype(np.float32)


def _principal(described: list[Floats]) -> FloatArray:
    if not described:
        return np.zeros((0, 0))
    table = np.vstack(described)
    table -= table.mean(axis=0)
    if len(table) <= _COMPONENTS:
        return table.astype(np.float64)
    # The eigenvectors of the smaller square: a segment may have far more frames than a description has numbers.
    _, vectors = np.linalg.eigh(table.T @ table)
    components: FloatArray = np.asarray(table @ vectors[:, -_COMPONENTS:], dtype=np.float64)
    return components


__all__ = ["Survey", "survey"]
