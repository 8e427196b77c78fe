"""Following one object's pixels away from one exemplar, in one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._appearance import LocalColours
from labelprop_cvat.propagation._evidence import islands, scene_odds
from labelprop_cvat.propagation._plate import Novelty, ScenePlate, doubled, halved
from labelprop_cvat.propagation._views import (
    LAB_WEIGHTS,
    FrameView,
    Transform,
    inverse,
    rescaled,
    scaled_size,
    transformed,
)
from labelprop_cvat.propagation._windows import FloatMap, Window, cut, length, opencv, paste, pixel_grid, sample
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.types import BoolArray, ObjectMask, Ring

_SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
_COARSE = 4
# An object is looked for anew when less than this share of its usual area is left; a place is believed when colours
# tell it from its surroundings at least so well, and not much worse than on the exemplar.
_COVERED = 0.35
_CLEAR = 0.8
_ALIKE = 0.4
_RING = 3
_SMALLEST = 16
_MENDED_MARGIN = 12
_NOT_THERE = -4.0
_SQUARED_WEIGHTS = np.square(LAB_WEIGHTS)[None]


@dataclass(frozen=True)
class TrackingOptions:
    """How one pass follows an object. The defaults were tuned on DAVIS-like videos of 854x480.

    Args:
        largest_area: pixels of a window; larger ones are worked on at a smaller scale
        margin: what is looked at around the object, as a share of its longer side
        colour_sigma: difference of weighted Lab colours at which a hypothesis loses its weight
        flow_weight: vote of what the flow brought
        scene_weight: vote of what the scene's motion brought
        floor: vote of the prior, which decides where nothing fits
        consistency: pixels by which the flow there and back may miss
        appearance_weight: how much the local colour model counts
        novelty_weight: how much it counts that the image departs from the scene behind the object
        least_novelty: the scene's look speaks against the object by so much at most, in logits: what shows through a
            sail, or is like what is behind it, is as much the object as the rest
        shift_penalty: grey levels squared that a coarse match must gain to be believed at its full reach
    """

    largest_area: int = 160_000
    margin: float = 0.25
    colour_sigma: float = 14.0
    flow_weight: float = 1.0
    scene_weight: float = 0.6
    floor: float = 0.02
    consistency: float = 3.0
    appearance_weight: float = 0.7
    novelty_weight: float = 0.5
    least_novelty: float = -0.5
    shift_penalty: float = 4000.0


@dataclass(frozen=True)
class Estimate:
    """What a pass believes about one object on one frame.

    Args:
        window: where it looked, in frame pixels; inside the frame
        probability: array over ``window`` in [0, 1]
        trust: array over ``window`` in [0, 1]: how well the image bears it out
        polygon: the prompt's rings moved along with the pixels, when it was a polygon
        novelty: how far the image departs from the scene as this pass has seen it; over ``window.halved``
    """

    window: Window
    probability: FloatMap
    trust: FloatMap
    polygon: tuple[Ring, ...] | None = None
    novelty: Novelty | None = None


class MaskTracker:
    """One object's mask, followed frame by frame from its exemplar.

    Every pixel carries the place on the exemplar from which dense flow (DIS, Kroeger et al., ECCV 2016) brought it, so
    that the mask is looked up once instead of being resampled again and again; on each frame the flow is mended against
    the exemplar itself. Several hypotheses then vote for every pixel, each by how well the image fits: the exemplar and
    the frame before, seen through the flow and through the motion of the scene. The scene's motion is what tells
    occluders and uncovered background from the object. A local colour model of the exemplar and a picture of the scene
    behind the object have the last word.
    """

    def __init__(
        self, view: FrameView, mask: ObjectMask, polygon: tuple[Ring, ...] | None, options: TrackingOptions
    ) -> None:
        self._polygon = polygon
        self._options = options
        size = (view.image.shape[0], view.image.shape[1])
        self._frame_size = size
        self._scale = _working_scale(mask, options)
        self._size = scaled_size(size, self._scale)
        full = mask.to_full(size).astype(np.float32)
        if self._scale != 1.0:
            full = opencv.resize(full, self._size[::-1], interpolation=opencv.INTER_AREA)
        frame = Window(0, 0, self._size[1], self._size[0])
        box = _support(full > 0.5, frame) or frame
        self._flow, self._coarse_flow = _flow_engine(0), _flow_engine(1)
        self._frame = frame
        self._exemplar, self._mask = view, full
        self._plate = ScenePlate(view, full, self._scale)
        self._before = view
        self._box = self._whole_box = self._exemplar_box = box
        self._window = self._window_around(box)
        self._probability: FloatMap = np.ascontiguousarray(cut(full, self._window))
        self._origins: FloatMap = np.zeros((*self._window.shape, 2), dtype=np.float32)
        self._scene: Transform = np.eye(3)
        self._velocity = np.zeros(2)
        self._area = self._usual_area = float(full.sum())
        self._lost = False
        self._palette: LocalColours | None = None
        around = self._window.grown(16).clipped(self._size)
        cell = max(4, max(around.shape) // 8)
        self._colours = LocalColours(cut(view.lab(self._scale), around), cut(full, around), around, cell)

    def step(self, view: FrameView, motion: Transform) -> Estimate | None:
        """Goes on to the next frame; ``motion`` takes the pixels of the frame before to this one's. None when lost."""
        motion = rescaled(motion, self._scale)
        self._scene = motion @ self._scene
        self._plate.move(motion)
        before, self._before = self._before, view
        estimate = self._followed(before, view, motion)
        if estimate is not None:
            self._plate.learn(view, self._window, self._probability)
        return estimate

    def _followed(self, before: FrameView, view: FrameView, motion: Transform) -> Estimate | None:
        if self._lost:
            return self._found_again(view)
        shift = self._displacement(before, view)
        window = self._window_around(self._box.shifted(*shift))
        if min(window.shape) < _SMALLEST:
            self._lost = True
            return None
        estimate = self._advance(before, view, window, shift, motion)
        if estimate is None or self._shrunk:
            return self._found_again(view) or estimate
        return estimate

    @property
    def _shrunk(self) -> bool:
        """Whether so little is left that the object was covered, or the flow has slipped off it."""
        return bool(np.count_nonzero(self._probability > 0.5) < _COVERED * self._usual_area)

    def _found_again(self, view: FrameView) -> Estimate | None:
        """Looks for the exemplar's object, as it was, near where it was lost; None when nothing is like it."""
        shift = self._best_match(view)
        if shift is None:
            return None
        window = self._window_around(self._exemplar_box.shifted(*shift))
        colours = cut(view.lab(self._scale), window)
        places = self._mended(view, window, pixel_grid(window) - np.array(shift, dtype=np.float32), colours)
        carried = sample(self._mask, self._frame, places, outside=0.0)
        votes = _Votes(colours, self._options.colour_sigma)
        votes.add(self._exemplar.lab(self._scale), places, carried, self._options.flow_weight)
        self._add_scene(
            votes, self._exemplar, self._mask, self._frame, transformed(inverse(self._scene), pixel_grid(window))
        )
        probability, weight = votes.result(np.float32(0.5) * carried, self._options.floor)
        probability = self._with_appearance(probability, carried, colours, places)
        probability, novelty = self._before_scene(probability, view, window)
        self._lost, self._velocity = False, np.zeros(2)
        self._probability, self._window = probability, window
        return self._accept(window, probability, weight / (weight + 0.3), places, novelty)

    def _best_match(self, view: FrameView) -> tuple[int, int] | None:
        """The shift that brings the exemplar's mask onto its colours and its surroundings off them."""
        box, around = self._exemplar_box.grown(_RING * _COARSE), self._whole_box
        height, width = (max(1, side // _COARSE) * _COARSE for side in box.shape)
        source = Window(box.x1, box.y1, box.x1 + width, box.y1 + height)
        middle = (around.x1 + around.x2) // 2, (around.y1 + around.y2) // 2
        reach = 3 * width // 2, 3 * height // 2
        target = Window(middle[0] - reach[0], middle[1] - reach[1], middle[0] + reach[0], middle[1] + reach[1])
        inside = _coarse(paste(self._mask, self._frame, source), source)
        if inside.sum() < 12.0:
            return None
        kernel = inside / inside.sum() - (1.0 - inside) / max(1.0, float((1.0 - inside).sum()))
        usual = float((kernel * self._colour_odds(self._exemplar, source)).sum())
        likeness = opencv.matchTemplate(self._colour_odds(view, target), kernel, opencv.TM_CCORR)
        row, column = np.unravel_index(int(np.argmax(likeness)), likeness.shape)
        if likeness[row, column] < max(_CLEAR, _ALIKE * usual):
            return None
        return target.x1 + int(column) * _COARSE - source.x1, target.y1 + int(row) * _COARSE - source.y1

    def _colour_odds(self, view: FrameView, window: Window) -> FloatMap:
        """How much likelier each colour is on the object than around it, wherever; a coarse map of logarithms."""
        if self._palette is None:
            whole = self._window_around(self._exemplar_box)
            colours = cut(self._exemplar.lab(self._scale), whole)
            self._palette = LocalColours(colours, cut(self._mask, whole), whole, 2 * max(self._size))
        colours = _coarse(cut(view.lab(self._scale), window), window)
        mine, others = self._palette.counts(colours, np.zeros((*colours.shape[:2], 2), dtype=np.float32))
        return np.asarray(np.clip(np.log((mine + 0.5) / (others + 0.5)), -2.0, 2.0), dtype=np.float32)

    def _advance(
        self, before: FrameView, view: FrameView, window: Window, shift: tuple[int, int], motion: Transform
    ) -> Estimate | None:
        options = self._options
        grid = pixel_grid(window)
        back, mismatch = self._flow_back(before, view, window, shift)
        places = sample(self._origins, self._window, back) + back
        colours = cut(view.lab(self._scale), window)
        places = self._mended(view, window, places, colours, self._box.shifted(*shift))
        carried = sample(self._probability, self._window, back, outside=0.0)
        steady = opencv.exp(np.minimum(mismatch, 20.0) * np.float32(-1.0 / options.consistency))
        votes = _Votes(colours, options.colour_sigma)
        seen = sample(self._mask, self._frame, places, outside=0.0)
        votes.add(self._exemplar.lab(self._scale), places, seen, options.flow_weight)
        votes.add(before.lab(self._scale), back, carried, options.flow_weight * steady)
        self._add_scene(votes, self._exemplar, self._mask, self._frame, transformed(inverse(self._scene), grid))
        self._add_scene(votes, before, self._probability, self._window, transformed(inverse(motion), grid))
        # Where nothing fits, pixels that the flow does not bring back are background that came out from behind.
        probability, weight = votes.result(carried * steady, options.floor)
        probability = self._with_appearance(probability, carried, colours, places)
        probability, novelty = self._before_scene(probability, view, window)
        return self._accept(window, probability, weight / (weight + 0.3), places, novelty)

    def _add_scene(self, votes: _Votes, view: FrameView, label: FloatMap, where: Window, at: FloatMap) -> None:
        seen = sample(label, where, at, outside=0.0)
        # What was object there says nothing about the scene behind it.
        weight = (seen < 0.1) * np.float32(self._options.scene_weight)
        votes.add(view.lab(self._scale), at, seen, weight)

    def _accept(
        self, window: Window, probability: FloatMap, trust: FloatMap, places: FloatMap, novelty: Novelty
    ) -> Estimate | None:
        mask = probability > 0.5
        box, area = _support(mask, window), float(np.count_nonzero(mask))
        if box is None or area < 0.02 * self._area:
            self._lost = True
            return None
        moved = _centre(mask, window) - _centre(self._probability > 0.5, self._window)
        self._velocity = 0.5 * (self._velocity + moved)
        self._usual_area = max(0.97 * self._usual_area, area)
        self._window, self._probability, self._box = window, probability, box
        self._origins = places - pixel_grid(window)
        if area > 0.5 * self._usual_area:
            self._whole_box = box
        return self._in_frame_pixels(window, probability, trust, novelty)

    def _moved_polygon(self) -> tuple[Ring, ...] | None:
        """Every vertex goes along with the pixel of the object that came from nearest to it."""
        if self._polygon is None:
            return None
        inside = self._probability > 0.5
        at = pixel_grid(self._window)[inside]
        origin = at + self._origins[inside]
        rings = []
        for ring in self._polygon:
            points = np.asarray(ring, dtype=np.float32) * self._scale - 0.5
            nearest = [int(np.argmin(np.square(origin - point).sum(axis=1))) for point in points]
            moved = (points + at[nearest] - origin[nearest] + 0.5) / self._scale
            rings.append(tuple((float(x), float(y)) for x, y in moved))
        return tuple(rings)

    def _in_frame_pixels(self, window: Window, probability: FloatMap, trust: FloatMap, novelty: Novelty) -> Estimate:
        polygon = self._moved_polygon()
        if self._scale == 1.0:
            return Estimate(window, probability, trust, polygon, novelty)
        factor = 1.0 / self._scale
        corners = [round(v * factor) for v in (window.x1, window.y1, window.x2, window.y2)]
        full = Window(*corners).clipped(self._frame_size)
        shape = full.shape[::-1]
        return Estimate(
            full,
            opencv.resize(probability, shape, interpolation=opencv.INTER_LINEAR),
            opencv.resize(trust, shape, interpolation=opencv.INTER_LINEAR),
            polygon,
            opencv.resize(novelty, full.halved.shape[::-1], interpolation=opencv.INTER_NEAREST),
        )

    def _window_around(self, box: Window) -> Window:
        return box.grown(_margin(box, self._options)).clipped(self._size)

    def _flow_back(
        self, before: FrameView, view: FrameView, window: Window, shift: tuple[int, int]
    ) -> tuple[FloatMap, FloatMap]:
        """Where on the frame before each pixel was, and how far the flow there and back misses, in pixels."""
        source = window.shifted(-shift[0], -shift[1])
        first = np.ascontiguousarray(cut(before.grey(self._scale), source))
        second = np.ascontiguousarray(cut(view.grey(self._scale), window))
        backward = self._flow.calc(second, first, None)
        # All that is asked of the way there is whether it leads back.
        forward = self._coarse_flow.calc(first, second, None)
        local = Window(0, 0, window.x2 - window.x1, window.y2 - window.y1)
        mismatch = length(backward + sample(forward, local, pixel_grid(local) + backward))
        return pixel_grid(source) + backward, mismatch

    def _mended(
        self, view: FrameView, window: Window, places: FloatMap, colours: Image, box: Window | None = None
    ) -> FloatMap:
        """Takes out drift: flow between this frame and the exemplar brought here, where that fits the image better.

        Args:
            view: the frame
            window: where on it
            places: where on the exemplar each pixel of the window seems to be; array of shape ``(h, w, 2)``
            colours: the frame's colours over the window
            box: where the object should be; far from it nothing is mended. None for everywhere
        """
        inner = window if box is None else box.grown(_MENDED_MARGIN).within(window)
        if min(inner.shape) < _SMALLEST:
            return places
        part = window.part(inner)
        grey = np.ascontiguousarray(cut(view.grey(self._scale), inner))
        old_places = np.ascontiguousarray(places[part])
        rest = self._flow.calc(grey, _look_up(self._exemplar.grey(self._scale), old_places), None)
        new_places = sample(old_places, inner, pixel_grid(inner) + rest)
        exemplar = self._exemplar.lab(self._scale)
        old, new = (_misfit(colours[part], _look_up(exemplar, at), 2.0) for at in (old_places, new_places))
        better = ((new < 0.9 * old) & (length(rest) < 8.0)).astype(np.float32)
        share = opencv.GaussianBlur(better, (0, 0), 2.0)
        mended: FloatMap = places.copy()
        mended[part] += opencv.merge((share, share)) * (new_places - old_places)
        return mended

    def _with_appearance(self, probability: FloatMap, carried: FloatMap, colours: Image, places: FloatMap) -> FloatMap:
        mine, others = self._colours.counts(colours, places)
        half = 0.5 * carried
        evidence = opencv.log((mine + (half + 0.02)) / (others + (0.52 - half)))
        evidence = np.clip(evidence, -2.0, 2.0, out=evidence) * np.float32(self._options.appearance_weight)
        return _with_evidence(probability, evidence)

    def _before_scene(self, probability: FloatMap, view: FrameView, window: Window) -> tuple[FloatMap, Novelty]:
        """The probability, knowing how far the image departs from the scene behind; and how far it does."""
        novelty = self._plate.novelty(view, window)
        small = halved(probability, window)
        odds = scene_odds(novelty, small)
        evidence = np.maximum(odds, self._options.least_novelty) * np.float32(self._options.novelty_weight)
        evidence[islands(small, odds)] = _NOT_THERE
        return _with_evidence(probability, doubled(evidence, window)), novelty

    def _displacement(self, before: FrameView, view: FrameView) -> tuple[int, int]:
        """The whole-pixel shift that brings the object onto itself: a coarse match near where it was going."""
        box = self._box
        height, width = (max(1, side // _COARSE) * _COARSE for side in box.shape)
        source = Window(box.x1, box.y1, box.x1 + width, box.y1 + height)
        reach = max(32, max(box.shape) // 2) // _COARSE
        going = [round(float(v) / _COARSE) * _COARSE for v in self._velocity]
        weight = _coarse(paste(self._probability, self._window, source), source)
        if weight.sum() < 6.0:
            return going[0], going[1]
        target = source.shifted(*going).grown(reach * _COARSE)
        template = _coarse(cut(before.grey(self._scale), source), source).astype(np.float32)
        area = _coarse(cut(view.grey(self._scale), target), target).astype(np.float32)
        misfit = opencv.matchTemplate(area, template, opencv.TM_SQDIFF, mask=weight) / weight.sum()
        steps = np.arange(-reach, reach + 1, dtype=np.float32)
        misfit = (
            misfit
            + self._options.shift_penalty
            * np.minimum(
                steps[:, None] ** 2 + steps**2,
                (steps[:, None] + going[1] / _COARSE) ** 2 + (steps + going[0] / _COARSE) ** 2,
            )
            / reach**2
        )
        row, column = np.unravel_index(int(np.argmin(misfit)), misfit.shape)
        return going[0] + (int(column) - reach) * _COARSE, going[1] + (int(row) - reach) * _COARSE


class _Votes:
    """Hypotheses about where a pixel comes from, each weighted by how well the colours there fit."""

    def __init__(self, colours: Image, sigma: float) -> None:
        self._colours, self._decay = colours, np.float32(-0.5 / sigma**2)
        self._votes = np.zeros(colours.shape[:2], dtype=np.float32)
        self._weights = np.zeros(colours.shape[:2], dtype=np.float32)

    def add(self, image: Image, at: FloatMap, label: FloatMap, weight: FloatMap | float) -> None:
        fit = _misfit(self._colours, _look_up(image, at), 1.2)
        fit *= self._decay
        fit = opencv.exp(np.maximum(fit, -20.0, out=fit))
        fit *= weight
        # What comes in over the edge has been seen by nobody.
        height, width = image.shape[:2]
        fit = opencv.bitwise_and(fit, fit, mask=opencv.inRange(at, (-1.0, -1.0), (float(width), float(height))))
        self._weights += fit
        self._votes += fit * label

    def result(self, prior: FloatMap, floor: float) -> tuple[FloatMap, FloatMap]:
        """The share of the votes for the object, and their weight; where nothing fits the prior stays."""
        total = self._weights + floor
        return (self._votes + floor * prior) / total, total


def _with_evidence(probability: FloatMap, evidence: FloatMap) -> FloatMap:
    """The logistic function of log((p + 0.02) / (1.02 - p)) + evidence, without the detour over logarithms."""
    mine, others = (probability + 0.02) * opencv.exp(evidence), 1.02 - probability
    return np.asarray(mine / (mine + others), dtype=np.float32)


def _working_scale(mask: ObjectMask, options: TrackingOptions) -> float:
    box = Window(*mask.box)
    height, width = box.grown(_margin(box, options)).shape
    return next((s for s in _SCALES if height * width * s * s <= options.largest_area), _SCALES[-1])


def _margin(box: Window, options: TrackingOptions) -> int:
    return max(24, int(options.margin * max(box.shape)))


def _flow_engine(finest_scale: int) -> Any:
    """Dense flow down to the pixel (0) or to blocks of two by two pixels (1), four times as fast."""
    # Without variational refinement the flow keeps its edges at the object's outline.
    engine = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_MEDIUM)
    engine.setFinestScale(finest_scale)
    engine.setVariationalRefinementIterations(0)
    return engine


def _support(mask: BoolArray, window: Window) -> Window | None:
    x, y, width, height = opencv.boundingRect(mask.view(np.uint8))
    if width == 0:
        return None
    return Window(window.x1 + x, window.y1 + y, window.x1 + x + width, window.y1 + y + height)


def _centre(mask: BoolArray, window: Window) -> npt.NDArray[np.float64]:
    moments = opencv.moments(mask.view(np.uint8), binaryImage=True)
    area = max(moments["m00"], 1.0)
    return np.array([window.x1 + moments["m10"] / area, window.y1 + moments["m01"] / area])


def _look_up(image: npt.NDArray[Any], at: FloatMap) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = opencv.remap(image, at, None, opencv.INTER_LINEAR, borderMode=opencv.BORDER_REPLICATE)
    return found


def _misfit(first: Image, second: Image, blur: float) -> FloatMap:
    """Squared distance of weighted Lab colours, averaged over a small neighbourhood; array of shape ``(h, w)``."""
    difference = opencv.absdiff(first, second)
    squares = opencv.multiply(difference, difference, dtype=opencv.CV_32F)
    misfit: FloatMap = opencv.GaussianBlur(opencv.transform(squares, _SQUARED_WEIGHTS), (0, 0), blur)
    return misfit


def _coarse(part: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """What lies over a window, four times smaller."""
    height, width = window.shape
    small: npt.NDArray[Any] = opencv.resize(
        part, (width // _COARSE, height // _COARSE), interpolation=opencv.INTER_AREA
    )
    return small
