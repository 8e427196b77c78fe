"""What the engine knows of one frame: its pixels at the scales it works at, and how the scene moved since the last."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._windows import FloatMap, opencv
from labelprop_cvat.propagation.frames import Image

Transform = npt.NDArray[np.float64]
"""Array of shape ``(3, 3)``: a homography of pixel coordinates."""

LAB_WEIGHTS = np.array([0.6, 1.4, 1.4], dtype=np.float32)
_AS_SCALAR = (*(float(weight) for weight in LAB_WEIGHTS), 0.0)
_MOTION_WIDTH = 427


@dataclass
class FrameView:
    """One frame at several scales, each made when first asked for, by whichever thread asks first.

    Args:
        index: 0-based frame index
        image: array of shape ``(H, W, 3)``, uint8, RGB
    """

    index: int
    image: Image
    _labs: dict[float, Image] = field(default_factory=dict)
    _colours: dict[float, FloatMap] = field(default_factory=dict)
    _greys: dict[float, npt.NDArray[np.uint8]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def scaled(self, scale: float) -> Image:
        """The image at a scale of at most 1."""
        if scale == 1.0:
            return self.image
        height, width = scaled_size((self.image.shape[0], self.image.shape[1]), scale)
        smaller: Image = opencv.resize(self.image, (width, height), interpolation=opencv.INTER_AREA)
        return smaller

    def lab(self, scale: float) -> Image:
        """CIE Lab as OpenCV keeps it; array of shape ``(h, w, 3)``, uint8."""
        with self._lock:
            return self._lab(scale)

    def colour(self, scale: float) -> FloatMap:
        """CIE Lab with the channels weighted for comparison; array of shape ``(h, w, 3)``, float32."""
        with self._lock:
            if scale not in self._colours:
                self._colours[scale] = opencv.multiply(self._lab(scale), _AS_SCALAR, dtype=opencv.CV_32F)
            return self._colours[scale]

    def grey(self, scale: float) -> npt.NDArray[np.uint8]:
        """Array of shape ``(h, w)``, uint8."""
        with self._lock:
            if scale not in self._greys:
                self._greys[scale] = opencv.cvtColor(self.scaled(scale), opencv.COLOR_RGB2GRAY)
            return self._greys[scale]

    def _lab(self, scale: float) -> Image:
        if scale not in self._labs:
            self._labs[scale] = opencv.cvtColor(self.scaled(scale), opencv.COLOR_RGB2LAB)
        return self._labs[scale]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """``(height, width)`` of a frame seen at ``scale``."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scene_motion(before: FrameView, after: FrameView, ignore: npt.NDArray[np.uint8] | None = None) -> Transform:
    """How the background moved: the homography that takes pixels of ``before`` to pixels of ``after``."""
    scale = min(1.0, _MOTION_WIDTH / before.image.shape[1])
    first, second = before.grey(scale), after.grey(scale)
    weight = None
    if ignore is not None:
        weight = opencv.resize(ignore, (first.shape[1], first.shape[0]), interpolation=opencv.INTER_NEAREST)
        weight = (opencv.dilate(weight, np.ones((9, 9), np.uint8)) == 0).astype(np.uint8)
    points = opencv.goodFeaturesToTrack(first, 300, 0.01, 6, mask=weight)
    if points is None or len(points) < 8:
        return np.eye(3)
    moved, found, _ = opencv.calcOpticalFlowPyrLK(first, second, points, None, winSize=(15, 15), maxLevel=4)
    back, again, _ = opencv.calcOpticalFlowPyrLK(second, first, moved, None, winSize=(15, 15), maxLevel=4)
    good = (found[:, 0] == 1) & (again[:, 0] == 1) & (np.linalg.norm((back - points)[:, 0], axis=1) < 1.0)
    if good.sum() < 8:
        return np.eye(3)
    model, inliers = opencv.findHomography(points[good], moved[good], opencv.RANSAC, 1.0)
    if model is None or inliers.sum() < max(8, 0.3 * good.sum()):
        shift = np.median((moved - points)[good, 0], axis=0)
        model = np.eye(3)
        model[:2, 2] = shift
    return rescaled(model, 1.0 / scale)


def inverse(model: Transform) -> Transform:
    """The homography back."""
    return np.asarray(np.linalg.inv(model), dtype=np.float64)


def rescaled(model: Transform, scale: float) -> Transform:
    """The homography between frames that are ``scale`` times as large."""
    grow = np.diag([scale, scale, 1.0])
    shrink = np.diag([1.0 / scale, 1.0 / scale, 1.0])
    return grow @ model @ shrink


def transformed(model: Transform, at: FloatMap) -> FloatMap:
    """Where a homography takes frame coordinates of shape ``(h, w, 2)``."""
    moved: FloatMap = opencv.perspectiveTransform(at.reshape(-1, 1, 2), model).reshape(at.shape)
    return moved
