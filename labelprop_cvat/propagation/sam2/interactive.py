"""Clicking on single frames: SAM 2 asked about one object at a time, by a person who waits for the answer."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from types import TracebackType
from typing import TypeAlias, TypeVar

from labelprop_cvat.errors import ConfigurationError, DataError, EngineError
from labelprop_cvat.propagation._windows import FloatMap
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.sam2._answers import merge, upsampled
from labelprop_cvat.propagation.sam2._tracker import Clicks, Prediction, Tracker, within_memory
from labelprop_cvat.propagation.sam2.engine import Sam2Propagator
from labelprop_cvat.propagation.sam2.model import FrameFeatures, Sam2Model
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import Box, ObjectMask, Point, Prompt

logger = logging.getLogger(__name__)

_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One thing that clicks may mean.

    Args:
        mask: its pixels, at the resolution of the frame; None where the model sees nothing
        confidence: the model's own estimate, in [0, 1]; 1 for a mask that a person drew, 0 for none
        low_res: mask logits, array of shape ``(S/4, S/4)``, float32, ``S`` being the image size; above 0 is object
    """

    mask: ObjectMask | None
    confidence: float
    low_res: FloatMap


@dataclass(frozen=True, eq=False)
class ClickAnswer:
    """What the model makes of clicks on one frame.

    Args:
        frame: 0-based index
        candidates: the most confident one first. One click on a shirt may mean the shirt or the person, so it has
            several; more clicks, boxes and masks have one
        chosen: which of the candidates is the answer
    """

    frame: int
    candidates: tuple[Candidate, ...]
    chosen: int = 0

    @property
    def mask(self) -> ObjectMask | None:
        """The pixels of the answer; None where the model sees nothing."""
        return self.candidates[self.chosen].mask

    @property
    def confidence(self) -> float:
        """Of the answer, in [0, 1]."""
        return self.candidates[self.chosen].confidence

    @property
    def low_res(self) -> FloatMap:
        """The logits of the answer, which further clicks refine."""
        return self.candidates[self.chosen].low_res

    def choosing(self, candidate: int) -> ClickAnswer:
        """The same with another candidate as the answer, counted from 0.

        Raises:
            DataError: there is no such candidate
        """
        if not 0 <= candidate < len(self.candidates):
            raise DataError(f"The candidates are numbered 0..{len(self.candidates) - 1}, got {candidate!r}.")
        return replace(self, chosen=candidate)


@dataclass(frozen=True, eq=False)
class _Clicked:
    point: Point
    positive: bool


@dataclass(frozen=True, eq=False)
class _Boxed:
    box: Box


@dataclass(frozen=True, eq=False)
class _Drawn:
    mask: ObjectMask


@dataclass(frozen=True, eq=False)
class _Chosen:
    candidate: int


_Action: TypeAlias = _Clicked | _Boxed | _Drawn | _Chosen
_Key: TypeAlias = tuple[int, int]


@dataclass(eq=False)
class _Seen:
    """A frame that was encoded.

    Args:
        features: what the encoder says
        size: ``(height, width)`` of this frame
        answers: by object, each action with its answer; they go when the frame goes, and are made anew of the actions
    """

    features: FrameFeatures
    size: tuple[int, int]
    answers: dict[int, list[tuple[_Action, ClickAnswer]]] = field(default_factory=dict)


class ClickSession:
    """Answers clicks on single frames of one sequence. A frame is encoded once, by far the longest part; every further
    click on it takes milliseconds, for whatever object.

    :meth:`predict` answers a question and remembers nothing of it. :meth:`click`, :meth:`draw_box`, :meth:`draw_mask`
    and :meth:`choose` build up objects frame by frame, as the official video predictor does it: every click goes to the
    model with all earlier clicks on the object and with the logits of the answer before. :meth:`prompts` hands over
    what came of it to an engine's ``propagate``.

    Everything may be called from several threads: one looks at a new frame while another answers clicks on others.
    All coordinates are pixels of the frame, origin at the top-left corner, right and bottom edge included.

    Args:
        engine: the engine whose model answers and whose options hold, or a loaded model, with default options; weights
            that are not loaded are loaded now
        frames: the sequence; only frames that are asked about are read. Frames may differ in size
        cached_frames: how many encoded frames are kept, those used last; 16.8 MB each at an image size of 1024

    Raises:
        ConfigurationError: ``cached_frames`` is below 1, or the engine can't be loaded
        EngineError: the weights can't be downloaded, or do not fit into memory
    """

    def __init__(self, engine: Sam2Propagator | Sam2Model, frames: FrameSource, *, cached_frames: int = 8) -> None:
        if cached_frames < 1:
            raise ConfigurationError(f"cached_frames must be a number of frames from 1, got {cached_frames!r}.")
        self._options = engine.options if isinstance(engine, Sam2Propagator) else Sam2Options()
        self._model = engine.load() if isinstance(engine, Sam2Propagator) else engine
        self._frames = frames
        self._tracker = Tracker(self._model, len(frames), exemplars=None, batch_size=1)
        self._capacity = cached_frames
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._actions: dict[_Key, tuple[_Action, ...]] = {}
        self._shown: dict[_Key, ObjectMask | None] = {}
        # Taken in this order where both are.
        self._encoding, self._lock = threading.Lock(), threading.RLock()
        self.encoded = 0
        """How many times a frame was encoded so far."""

    def __enter__(self) -> ClickSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forgets all frames and all that was clicked; the model stays with its engine."""
        with self._lock:
            self._seen.clear()
            self.reset()

    # --- questions ---------------------------------------------------------------------------------------------------

    def prepare(self, frame: int) -> None:
        """Encodes a frame before anybody clicks on it, such as when it comes into view.

        Raises:
            DataError: there is no such frame, or it can't be read
            EngineError: there is not enough memory for it
        """
        self._looked_at(frame)

    def predict(
        self,
        frame: int,
        *,
        points: Sequence[Point] | None = None,
        labels: Sequence[int] | None = None,
        box: Box | None = None,
        mask: ObjectMask | None = None,
        refine: ClickAnswer | None = None,
    ) -> ClickAnswer:
        """Answers one question; nothing of it is remembered but the frame.

        Args:
            frame: 0-based index
            points: clicks ``(x, y)``, all of them: also those that led to ``refine``
            labels: one of 1 (on the object) or 0 (not on it) per point; None for all on it
            box: ``(x1, y1, x2, y2)`` around the object
            mask: the object as somebody drew it; with points or a box they refine it, alone it is the answer
            refine: an earlier answer for the same object and frame that points and box refine

        Raises:
            DataError: nothing was asked, the arguments do not fit together, or something lies outside the frame
            EngineError: there is not enough memory
        """
        seen = self._looked_at(frame)
        clicks = _checked_clicks(frame, points, labels, box, seen.size)
        if mask is not None and refine is not None:
            raise DataError("Pass either a mask or an earlier answer to refine, not both.")
        if mask is not None:
            drawn = self._drawn(seen, frame, _checked_mask(mask, seen.size))
            if clicks is None:
                return drawn
            refine = drawn
        if clicks is None:
            raise DataError("There is nothing to answer: pass points, a box or a mask.")
        return self._asked(seen, frame, clicks, refine)

    # --- objects -----------------------------------------------------------------------------------------------------

    def click(self, frame: int, object_id: int, x: float, y: float, positive: bool = True) -> ClickAnswer:
        """Adds a click to an object.

        Args:
            frame: 0-based index
            object_id: number of the object, from 1
            x: column
            y: row
            positive: whether the object is there, or is not

        Raises:
            DataError: the click lies outside the frame, or there is no such frame or object number
            EngineError: there is not enough memory
        """
        return self._act(frame, object_id, _Clicked((float(x), float(y)), bool(positive)))

    def draw_box(self, frame: int, object_id: int, box: Box) -> ClickAnswer:
        """Begins the object on this frame with a box, ``(x1, y1, x2, y2)``; what was there before only :meth:`undo`
        knows.

        Raises:
            DataError: no part of the box lies inside the frame, or there is no such frame or object number
            EngineError: there is not enough memory
        """
        return self._act(frame, object_id, _Boxed(box))

    def draw_mask(self, frame: int, object_id: int, mask: ObjectMask) -> ClickAnswer:
        """Begins the object on this frame with a mask, such as one that was propagated and is to be corrected. It is
        the answer as it is, until clicks refine it.

        Raises:
            DataError: no pixel lies inside the frame, or there is no such frame or object number
            EngineError: there is not enough memory
        """
        return self._act(frame, object_id, _Drawn(mask))

    def choose(self, frame: int, object_id: int, candidate: int) -> ClickAnswer:
        """Takes another candidate of the object's answer, counted from 0; further clicks refine that one.

        Raises:
            DataError: the object was not clicked on this frame, or has no such candidate
            EngineError: there is not enough memory
        """
        return self._act(frame, object_id, _Chosen(candidate))

    def undo(self, frame: int, object_id: int) -> ClickAnswer | None:
        """Takes back the last click, box, mask or choice of an object.

        Returns:
            the answer before it; None where nothing is left

        Raises:
            EngineError: there is not enough memory
        """
        key = (frame, object_id)
        if self._count(key) > 1:
            seen = self._looked_at(frame)
            with self._lock:
                if self._count(key) > 1:
                    return self._told(seen, key, self._actions[key][:-1])
        self.reset(frame, object_id)
        return None

    def reset(self, frame: int | None = None, object_id: int | None = None) -> None:
        """Forgets what was clicked.

        Args:
            frame: only on this frame
            object_id: only for this object
        """
        with self._lock:
            for key in list(self._actions):
                if frame in (None, key[0]) and object_id in (None, key[1]):
                    del self._actions[key], self._shown[key]

    def answer(self, frame: int, object_id: int) -> ClickAnswer | None:
        """What an object's clicks on a frame have come to; None where there are none.

        Raises:
            EngineError: there is not enough memory
        """
        key = (frame, object_id)
        if not self._count(key):
            return None
        seen = self._looked_at(frame)
        with self._lock:
            return self._told(seen, key, self._actions[key]) if self._count(key) else None

    def prompts(self) -> list[Prompt]:
        """What was clicked, for ``propagate``: what is propagated are the masks that were shown.

        A prompt holds all of its points at once, but a mask that several clicks led to depends on the answers in
        between. So the clicks themselves are handed over where they alone give the same mask: one click, one click on a
        drawn mask, a mask, and a box where the engine has ``masks_from_boxes``. All else becomes the mask that was
        shown. Objects that the model saw nothing of are left out.

        Returns:
            one prompt per object and frame, in the order of frames and objects
        """
        with self._lock:
            return [
                self._prompt(key, self._actions[key], mask)
                for key, mask in sorted(self._shown.items(), key=itemgetter(0))
                if mask is not None
            ]

    def _prompt(self, key: _Key, actions: tuple[_Action, ...], shown: ObjectMask) -> Prompt:
        frame, object_id = key
        match actions[_beginning(actions) :]:
            case (_Clicked() as only,):
                return Prompt(frame, object_id, points=(only.point,), point_labels=(int(only.positive),))
            case (_Drawn() as drawn, _Clicked() as one):
                points, labels = (one.point,), (int(one.positive),)
                return Prompt(frame, object_id, mask=drawn.mask, points=points, point_labels=labels)
            case (_Boxed() as boxed,) if self._options.masks_from_boxes:
                return Prompt(frame, object_id, box=boxed.box)
        return Prompt(frame, object_id, mask=shown)

    def _count(self, key: _Key) -> int:
        with self._lock:
            return len(self._actions.get(key, ()))

    def _act(self, frame: int, object_id: int, action: _Action) -> ClickAnswer:
        seen = self._looked_at(frame)
        action = _checked_action(frame, object_id, action, seen.size)
        key = (int(frame), int(object_id))
        with self._lock:
            if isinstance(action, _Chosen) and not self._count(key):
                raise DataError(f"Object {object_id} was not clicked on frame {frame}, so there is nothing to choose.")
            return self._told(seen, key, (*self._actions.get(key, ()), action))

    def _told(self, seen: _Seen, key: _Key, actions: tuple[_Action, ...]) -> ClickAnswer:
        """Makes ``actions`` the ones of the object, and answers the last."""
        frame, object_id = key
        known = seen.answers.get(object_id, [])
        # What was taken back, here or by another thread, is still known to the frame.
        same = next((n for n, (one, two) in enumerate(zip(known, actions, strict=False)) if one[0] is not two), None)
        told = known[: min(len(known), len(actions)) if same is None else same]
        for number in range(len(told), len(actions)):
            before = told[-1][1] if told else None
            told = [*told, (actions[number], self._answered(seen, frame, actions[: number + 1], before))]
        answer = told[-1][1]
        seen.answers[object_id] = told
        self._actions[key], self._shown[key] = actions, answer.mask
        return answer

    def _answered(
        self, seen: _Seen, frame: int, actions: tuple[_Action, ...], before: ClickAnswer | None
    ) -> ClickAnswer:
        last = actions[-1]
        if isinstance(last, _Drawn):
            return self._drawn(seen, frame, last.mask)
        if isinstance(last, _Boxed):
            return self._asked(seen, frame, Clicks(box=last.box), None)
        if isinstance(last, _Chosen):
            if before is None:
                raise EngineError("A choice comes after an answer.")
            return before.choosing(last.candidate)
        since = actions[_beginning(actions) :]
        clicked = [one for one in since if isinstance(one, _Clicked)]
        box = next((one.box for one in since if isinstance(one, _Boxed)), None)
        clicks = Clicks(tuple(one.point for one in clicked), tuple(int(one.positive) for one in clicked), box)
        return self._asked(seen, frame, clicks, before)

    # --- the model ---------------------------------------------------------------------------------------------------

    def _asked(self, seen: _Seen, frame: int, clicks: Clicks, refine: ClickAnswer | None) -> ClickAnswer:
        before = None if refine is None else refine.low_res
        side = self._model.image_size // 4
        if before is not None and before.shape != (side, side):
            raise DataError(
                f"An answer to refine needs logits of shape {(side, side)}, got {before.shape}. Take one of a session "
                f"with the same image_size."
            )
        found = self._within_memory(lambda: self._tracker.click(seen.features, clicks, seen.size, before), seen)
        return ClickAnswer(frame, tuple(self._candidate(prediction, seen.size) for prediction in found))

    def _drawn(self, seen: _Seen, frame: int, mask: ObjectMask) -> ClickAnswer:
        found = self._within_memory(lambda: self._tracker.draw(seen.features, mask, seen.size), seen)
        return ClickAnswer(frame, (Candidate(mask, 1.0, _read_only(found.logits)),))

    def _candidate(self, prediction: Prediction, size: tuple[int, int]) -> Candidate:
        logits = _read_only(prediction.logits)
        # As the engine answers a prompt of clicks.
        made = merge(prediction, None, 0.0, self._options.fill_holes)
        if made is None:
            return Candidate(None, 0.0, logits)
        window, scaled = upsampled(made.logits, size)
        mask = ObjectMask.from_crop(window.x1, window.y1, scaled > 0)
        return Candidate(mask, 0.0 if mask is None else made.confidence, logits)

    def _looked_at(self, frame: int) -> _Seen:
        if not 0 <= frame < len(self._frames):
            raise DataError(f"The frames are numbered 0..{len(self._frames) - 1}, got {frame!r}.")
        return self._cached(frame) or self._encoded(frame)

    def _cached(self, frame: int) -> _Seen | None:
        with self._lock:
            seen = self._seen.get(frame)
            if seen is not None:
                self._seen.move_to_end(frame)
            return seen

    def _encoded(self, frame: int) -> _Seen:
        with self._encoding:
            # Another thread may have been faster.
            seen = self._cached(frame)
            if seen is not None:
                return seen
            image = self._frames[frame]
            prepared = self._model.prepare(image)
            features = self._within_memory(lambda: self._model.encode(prepared))
            seen = _Seen(features, (image.shape[0], image.shape[1]))
            with self._lock:
                self.encoded += 1
                self._seen[frame] = seen
                self._make_room(self._capacity)
            return seen

    def _make_room(self, capacity: int) -> None:
        while len(self._seen) > capacity:
            self._seen.popitem(last=False)

    def _within_memory(self, compute: Callable[[], _Made], needed: _Seen | None = None) -> _Made:
        """What ``compute`` returns; where memory is short, frames other than the ``needed`` one are let go of."""
        return within_memory(self._model, compute, lambda: self._relieve(needed))

    def _relieve(self, needed: _Seen | None) -> bool:
        with self._lock:
            others = [frame for frame, seen in self._seen.items() if seen is not needed]
            for frame in others[: (len(others) + 1) // 2]:
                del self._seen[frame]
            self._capacity = max(1, len(self._seen))
        if others:
            logger.warning("Memory is short: only %d encoded frames are kept from here on.", self._capacity)
        return bool(others)


def _beginning(actions: tuple[_Action, ...]) -> int:
    """Where the last box or mask is, with which the object began anew; 0 where clicks alone made it."""
    places = [number for number, action in enumerate(actions) if isinstance(action, _Boxed | _Drawn)]
    return places[-1] if places else 0


def _checked_action(frame: int, object_id: int, action: _Action, size: tuple[int, int]) -> _Action:
    if isinstance(action, _Clicked):
        _check_inside(Prompt(frame, object_id, points=(action.point,)), size)
        return action
    if isinstance(action, _Boxed):
        prompt = Prompt(frame, object_id, box=action.box)
        _check_inside(prompt, size)
        return _Boxed(prompt.box or action.box)
    if isinstance(action, _Drawn):
        return _Drawn(_checked_mask(Prompt(frame, object_id, mask=action.mask).mask, size))
    return action


def _checked_mask(mask: ObjectMask | None, size: tuple[int, int]) -> ObjectMask:
    if not isinstance(mask, ObjectMask):
        raise DataError(
            f"A mask is an ObjectMask, got {type(mask).__name__}. ObjectMask.from_full makes one of an array."
        )
    inside = ObjectMask.from_full(mask.to_full(size))
    if inside is None:
        raise DataError(_outside("mask", mask.box, size))
    return inside


def _checked_clicks(
    frame: int,
    points: Sequence[Point] | None,
    labels: Sequence[int] | None,
    box: Box | None,
    size: tuple[int, int],
) -> Clicks | None:
    """The clicks of a question; None where there are none."""
    if points is None and labels is not None:
        raise DataError("Labels belong to points: pass points as well, or leave the labels out.")
    if points is None and box is None:
        return None
    clicks = Clicks()
    if points is not None:
        given = None if labels is None else tuple(int(label) for label in labels)
        prompt = Prompt(frame, 1, points=tuple((float(x), float(y)) for x, y in points), point_labels=given)
        _check_inside(prompt, size)
        clicks = Clicks(prompt.points or (), prompt.point_labels or ())
    if box is not None:
        prompt = Prompt(frame, 1, box=box)
        _check_inside(prompt, size)
        clicks = replace(clicks, box=prompt.box)
    return clicks


def _check_inside(prompt: Prompt, size: tuple[int, int]) -> None:
    height, width = size
    for x, y in prompt.points or ():
        if not (0 <= x <= width and 0 <= y <= height):
            raise DataError(_outside("click", (x, y), size))
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
            raise DataError(_outside("box", prompt.box, size))


def _outside(what: str, where: tuple[float, ...], size: tuple[int, int]) -> str:
    place = ", ".join(f"{value:g}" for value in where)
    return f"The {what} at ({place}) lies outside the frame, which is {size[1]} pixels wide and {size[0]} high."


def _read_only(logits: FloatMap) -> FloatMap:
    logits.flags.writeable = False
    return logits


__all__ = ["Candidate", "ClickAnswer", "ClickSession"]
