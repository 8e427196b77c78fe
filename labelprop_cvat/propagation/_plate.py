"""The scene behind an object, and how far a frame departs from it."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._views import LAB_WEIGHTS, FrameView, Transform, rescaled
from labelprop_cvat.propagation._windows import FloatMap, Window, cut, opencv, paste
from labelprop_cvat.propagation.types import BoolArray

Novelty: TypeAlias = npt.NDArray[np.uint8]
"""How far pixels are from the scene without the object, in :data:`STEPS` of a weighted Lab unit; :data:`UNSEEN` where
nobody has seen it. Over :attr:`~labelprop_cvat.propagation._windows.Window.halved`, at half the resolution."""

STEPS = 4.0
UNSEEN = 255

_SCALE = 0.5
_SQUARED_WEIGHTS = np.square(LAB_WEIGHTS)[None]
# Where the scene is only darker than it was, a shadow is likelier than an object.
_SHADE = (0.3, 1.0, 1.0, 0.0)
_NEIGHBOURS = np.ones((3, 3), dtype=np.uint8)
_BLURRED_EDGE = np.ones((5, 5), dtype=np.uint8)
# The plate is moved once the scene has moved by so many of its pixels: each move blurs it a little.
_MOVED = 0.25
# What lies near the object is not learned: there its own pixels, overlooked, would become scene. The distance is a
# share of the object's size, in pixels of the plate at least so many.
_NEARLY = 0.15
_KEPT_OFF = 0.06
_LEAST_KEPT_OFF = 4


class ScenePlate:
    """A picture of the scene without the object, brought along with the scene's motion.

    It begins with what the exemplar shows beside the object. What comes into view is added, and what is seen anew
    replaces what was seen before. Where a frame departs from it, something else is in front: background subtraction
    with a mosaic, as in *Representing Moving Images with Layers* (Wang and Adelson, 1994). It tells an object that
    moves before the scene from its surroundings whatever it looks like.

    Args:
        view: the exemplar
        mask: array of shape ``(h, w)`` in [0, 1], the object at ``scale``
        scale: at which the object is followed
    """

    def __init__(self, view: FrameView, mask: FloatMap, scale: float) -> None:
        self._scale = scale * _SCALE
        self._image = view.lab(self._scale)
        covered = opencv.resize(mask, self._image.shape[1::-1], interpolation=opencv.INTER_AREA) > 0.0
        self._seen: npt.NDArray[np.uint8] = 1 - opencv.dilate(covered.view(np.uint8), _BLURRED_EDGE)
        self._pending: Transform = np.eye(3)

    def move(self, motion: Transform) -> None:
        """Goes on to the next frame.

        Args:
            motion: takes the pixels of the frame before to this one's, at the scale at which the object is followed
        """
        self._pending = rescaled(motion, _SCALE) @ self._pending
        height, width = self._seen.shape
        corners = np.array([[[0, 0]], [[width, 0]], [[0, height]], [[width, height]]], dtype=np.float64)
        moved = opencv.perspectiveTransform(corners, self._pending)
        if float(np.abs(moved - corners).max()) < _MOVED:
            return
        size = width, height
        self._image = opencv.warpPerspective(
            self._image, self._pending, size, flags=opencv.INTER_LINEAR, borderMode=opencv.BORDER_REPLICATE
        )
        self._seen = opencv.warpPerspective(self._seen, self._pending, size, flags=opencv.INTER_NEAREST)
        self._pending = np.eye(3)

    def novelty(self, view: FrameView, window: Window) -> Novelty:
        """How far a frame departs from the scene over a window.

        What is near by in the scene explains a pixel too, as its motion is known to a pixel at best; and what is merely
        darker departs from it less.
        """
        part = window.halved
        around = part.grown(1)
        known = np.ascontiguousarray(cut(self._image, around))
        frame = cut(view.lab(self._scale), around)
        lowest, highest = opencv.erode(known, _NEIGHBOURS), opencv.dilate(known, _NEIGHBOURS)
        darker = opencv.multiply(opencv.subtract(lowest, frame), _SHADE)
        beyond = opencv.max(opencv.subtract(frame, highest), darker)
        squares = opencv.multiply(beyond, beyond, dtype=opencv.CV_32F)
        distance = opencv.sqrt(opencv.transform(squares, _SQUARED_WEIGHTS))[1:-1, 1:-1]
        found: Novelty = np.minimum(distance * STEPS, UNSEEN - 1).astype(np.uint8)
        found[cut(self._seen, part) == 0] = UNSEEN
        return found

    def learn(self, view: FrameView, window: Window, probability: FloatMap) -> None:
        """Takes over what a frame shows beside the object.

        Args:
            view: the frame
            window: where the object was looked for
            probability: array over ``window`` in [0, 1]
        """
        found = halved(probability, window)
        grown = max(_LEAST_KEPT_OFF, round(_KEPT_OFF * math.sqrt(np.count_nonzero(found > 0.5))))
        part = window.halved.grown(grown)
        near = paste((found > _NEARLY).view(np.uint8), window.halved, part)
        near = opencv.dilate(near, np.ones((2 * grown + 1, 2 * grown + 1), dtype=np.uint8))
        height, width = self._seen.shape
        beside: BoolArray = paste(near, part, Window(0, 0, width, height)) == 0
        frame = view.lab(self._scale)
        # The exemplar's own picture, which others look at too, stays as it is.
        self._image = np.where(beside[..., None], frame, self._image)
        self._seen = self._seen | beside.view(np.uint8)


def halved(values: FloatMap, window: Window) -> FloatMap:
    """Values over a window at half the resolution: array over ``window.halved``."""
    part = window.halved
    whole = Window(2 * part.x1, 2 * part.y1, 2 * part.x2, 2 * part.y2)
    if whole != window:
        values = opencv.copyMakeBorder(
            values,
            window.y1 - whole.y1,
            whole.y2 - window.y2,
            window.x1 - whole.x1,
            whole.x2 - window.x2,
            opencv.BORDER_REPLICATE,
        )
    small: FloatMap = opencv.resize(values, part.shape[::-1], interpolation=opencv.INTER_AREA)
    return small


def doubled(values: FloatMap, window: Window) -> FloatMap:
    """Values over ``window.halved`` at full resolution: array over ``window``."""
    part = window.halved
    whole = Window(2 * part.x1, 2 * part.y1, 2 * part.x2, 2 * part.y2)
    large: FloatMap = opencv.resize(values, whole.shape[::-1], interpolation=opencv.INTER_LINEAR)
    return np.ascontiguousarray(large[whole.part(window)])
