"""Following a box away from one exemplar, in one direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._views import FrameView
from labelprop_cvat.propagation._windows import opencv
from labelprop_cvat.propagation.interpolate import distance_confidence, interpolate_box
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.types import Box, Prompt

FloatArray = npt.NDArray[np.float64]

_MOST_POINTS = 120
_FEWEST_POINTS = 6
_MISS = 1.0
_PATCH = (7, 21)
_LOOKS = (24, 24)
_MEMORY = 0.3
_UNLIKE = 0.1
_ALIKE = 0.6


@dataclass(frozen=True)
class BoxEstimate:
    """Where a pass believes a box to be, and the share of its points that could be followed."""

    box: Box
    trust: float


class BoxTracker:
    """One object's box, moved by the median shift and scale of the points inside it.

    After *Forward-Backward Error* (Kalal, Mikolajczyk and Matas, ICPR 2010): points are followed there and back, those
    that do not return are dropped. The corners of a box are mostly background: only points inside its ellipse count.
    """

    def __init__(self, view: FrameView, box: Box) -> None:
        self._before = view
        self._box = np.array(box, dtype=np.float64)
        self._lost = False
        self._looks = _appearance(view, self._box)
        self._likeness = 1.0

    def step(self, view: FrameView) -> BoxEstimate | None:
        """Goes on to the next frame; None once the box could not be followed."""
        before, self._before = self._before, view
        if self._lost:
            return None
        moved = self._moved(before, view)
        height, width = view.image.shape[:2]
        if moved is None or moved[2] < 1 or moved[3] < 1 or moved[0] > width - 1 or moved[1] > height - 1:
            self._lost = True
            return None
        self._box = moved
        # What is followed must go on looking like what was drawn: behind a pillar, the pillar is followed.
        likeness = float(np.mean(self._looks * _appearance(view, moved)))
        self._likeness += _MEMORY * (likeness - self._likeness)
        if self._likeness < _UNLIKE:
            self._lost = True
            return None
        x1, y1, x2, y2 = (float(v) for v in moved)
        return BoxEstimate((x1, y1, x2, y2), self._trust * min(1.0, max(0.0, self._likeness) / _ALIKE))

    def _moved(self, before: FrameView, view: FrameView) -> FloatArray | None:
        first, second = before.grey(1.0), view.grey(1.0)
        points = self._points(first)
        if len(points) < _FEWEST_POINTS:
            return None
        # Patches that reach over the outline of a small object would follow the background.
        side = int(np.clip(min(self._box[2:] - self._box[:2]) / 3, *_PATCH)) | 1
        settings = {"winSize": (side, side), "maxLevel": 3}
        there, found, _ = opencv.calcOpticalFlowPyrLK(first, second, points, None, **settings)
        back, again, _ = opencv.calcOpticalFlowPyrLK(second, first, there, None, **settings)
        miss = np.linalg.norm((back - points)[:, 0], axis=1)
        good = (found[:, 0] == 1) & (again[:, 0] == 1) & (miss < max(_MISS, float(np.median(miss))))
        self._trust = float(np.mean((miss < _MISS) & good))
        if good.sum() < _FEWEST_POINTS:
            return None
        return _median_motion(self._box, points[good, 0], there[good, 0])

    def _points(self, grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        x1, y1, x2, y2 = self._box
        mask = np.zeros(grey.shape, dtype=np.uint8)
        centre = round((x1 + x2) / 2), round((y1 + y2) / 2)
        axes = max(2, round((x2 - x1) * 0.4)), max(2, round((y2 - y1) * 0.45))
        opencv.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
        spacing = max(2.0, float(np.sqrt(axes[0] * axes[1] / _MOST_POINTS)))
        points = opencv.goodFeaturesToTrack(grey, _MOST_POINTS, 0.005, spacing, mask=mask)
        return np.zeros((0, 1, 2), np.float32) if points is None else points


def _appearance(view: FrameView, box: FloatArray) -> FloatArray:
    """The grey values inside a box, scaled to :data:`_LOOKS`, with mean 0 and standard deviation 1."""
    grey = view.grey(1.0)
    centre = float(box[0] + box[2]) / 2 - 0.5, float(box[1] + box[3]) / 2 - 0.5
    size = max(1, round(float(box[2] - box[0]))), max(1, round(float(box[3] - box[1])))
    patch = cv2.getRectSubPix(grey, size, centre)
    values = np.asarray(cv2.resize(patch, _LOOKS, interpolation=cv2.INTER_AREA), dtype=np.float64)
    return np.asarray((values - values.mean()) / max(1.0, float(values.std())))


def _median_motion(box: FloatArray, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> FloatArray:
    shift = np.median(after - before, axis=0)
    first, second = np.triu_indices(len(before), 1)
    distance = np.linalg.norm(before[first] - before[second], axis=1)
    far = distance > 4.0
    scale = 1.0
    if far.any():
        scale = float(np.median(np.linalg.norm(after[first] - after[second], axis=1)[far] / distance[far]))
        scale = float(np.clip(scale, 0.9, 1.1))
    centre = (box[:2] + box[2:]) / 2 + shift
    half = (box[2:] - box[:2]) / 2 * scale
    return np.concatenate([centre - half, centre + half])


def waywardness(keyframes: Sequence[Prompt]) -> dict[int, float]:
    """How much an object strays from the straight way, as its own keyframes tell.

    Every keyframe that has another one on either side is compared with the straight way between these.

    Args:
        keyframes: of one object, by ascending frame

    Returns:
        by frame of such a keyframe, IoU lost by the measure of :func:`_stray`; those without boxes have no entry
    """
    found: dict[int, float] = {}
    for before, here, after in zip(keyframes, keyframes[1:], keyframes[2:], strict=False):
        if before.box is not None and here.box is not None and after.box is not None:
            progress = (here.frame - before.frame) / (after.frame - before.frame)
            lost = 1.0 - box_iou(interpolate_box(before.box, after.box, progress), here.box)
            found[here.frame] = lost / _stray(before.frame, here.frame, after.frame)
    return found


def straight_confidence(before: int, frame: int, after: int, strays: Sequence[float]) -> float:
    """What the straight way between two exemplars is worth on a frame that lies between them, in [0, 1].

    Args:
        before: frame of the exemplar before
        frame: the frame
        after: frame of the exemplar behind
        strays: what :func:`waywardness` says at these two; without any, the way to the nearer one decides
    """
    if not strays:
        return distance_confidence(min(frame - before, after - frame))
    return max(0.0, 1.0 - mean(strays) * _stray(before, frame, after))


def _stray(before: int, frame: int, after: int) -> float:
    """How far a random walk comes off the straight way when it is held at both ends, as a standard deviation."""
    return math.sqrt((frame - before) * (after - frame) / (after - before))
