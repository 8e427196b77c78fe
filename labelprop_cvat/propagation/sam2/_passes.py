"""The order of work: which frames are looked at when, for which objects, in which direction.

Two ways of following objects share this module. :class:`ExemplarPasses` follows each object away from each of its
exemplars; :class:`OfficialPasses` does what SAM 2's own video predictor does. Both know the whole order beforehand, so
that a thread can prepare frames ahead of them.
"""

from __future__ import annotations

import logging
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation._gaps import Gap, find_gaps, prompt_mask
from labelprop_cvat.propagation._spool import Spool
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.sam2._features import FeatureFeeder
from labelprop_cvat.propagation.sam2._memory import Memory, Pass, closest
from labelprop_cvat.propagation.sam2._tracker import NO_OBJECT, Exemplar, Prediction, Tracker, batch_sizes
from labelprop_cvat.propagation.sam2.model import Sam2Model
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import Prompt, Segment

logger = logging.getLogger(__name__)

_GIB = 2**30
_SURELY_BACKGROUND = -16.0
_REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Sighting:
    """What the passes say about one object on a frame without a prompt.

    Args:
        gap: the prompts before and behind
        forward: from the exemplar before; None where there is none
        backward: from the exemplar behind
    """

    gap: Gap
    forward: Prediction | None
    backward: Prediction | None


@dataclass(frozen=True)
class FrameSightings:
    """What is known of one frame.

    Args:
        frame: its index
        sightings: objects without a prompt on it
        exemplars: what was made of prompts, by object and frame; those of this frame and around it
    """

    frame: int
    sightings: Mapping[int, Sighting]
    exemplars: Mapping[int, Mapping[int, Exemplar]]


class _Passes:
    """What both ways share: the prompts, a tracker and frames' features in the planned order."""

    _spare_exemplars = False

    def __init__(
        self, model: Sam2Model, frames: FrameSource, prompts: Sequence[Prompt], span: Segment, options: Sam2Options
    ) -> None:
        self._model, self._source, self._span, self._options = model, frames, span, options
        self._size = frames.size
        self._shown = {
            (prompt.object_id, prompt.frame): prompt for prompt in prompts if is_visible(prompt, frames.size)
        }
        self._exemplars: dict[int, dict[int, Exemplar]] = {object_id: {} for object_id, _ in self._shown}
        self._memories: dict[int, dict[int, Memory]] = {object_id: {} for object_id, _ in self._shown}
        self._feeder: FeatureFeeder | None = None
        self._spools: list[Spool] = []

    @property
    def encoded(self) -> int:
        """How many times a frame was encoded so far."""
        return self._feeder.encoded if self._feeder is not None else 0

    def _start(self, plan: Iterable[int]) -> FeatureFeeder:
        options = self._options
        disk = options.disk_gib
        if disk is None:
            disk = 8.0 if self._model.device.type == "cpu" else 0.0
        self._feeder = FeatureFeeder(
            self._model, self._source, array("q", plan), window=options.window, disk_bytes=int(disk * _GIB)
        )
        self._tracker = Tracker(
            self._model,
            len(self._span),
            exemplars=self._most_exemplars,
            spare_exemplars=self._spare_exemplars,
            batch_size=batch_sizes(self._model, options.batch_size),
            relieve=self._feeder.shrink,
        )
        return self._feeder

    @property
    def _most_exemplars(self) -> int | None:
        return self._options.max_exemplars

    def _make_exemplars(self, feeder: FeatureFeeder, frame: int, object_ids: Iterable[int], keep_thin: bool) -> None:
        features = feeder.take(frame)
        for object_id in object_ids:
            made = self._tracker.exemplar(features, self._shown[object_id, frame], self._size, keep_thin)
            if made is not None:
                self._exemplars[object_id][frame] = made
                self._memories[object_id][frame] = made.memory

    def _new_spool(self) -> Spool:
        self._spools.append(Spool())
        return self._spools[-1]

    def _close(self) -> None:
        if self._feeder is not None:
            self._feeder.close()
        for spool in self._spools:
            spool.close()


# --- each object from each of its exemplars --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """What happens on one frame of the span.

    Args:
        frame: the frame
        exemplars: ``(frame, objects)`` of prompts that become memories now, ascending
        backward: gaps that begin here and have an exemplar behind them
        follows: whether an object is followed forward onto this frame
    """

    frame: int
    exemplars: tuple[tuple[int, tuple[int, ...]], ...]
    backward: tuple[Gap, ...]
    follows: bool

    @property
    def reads(self) -> Iterator[int]:
        """The frames that are looked at, in order."""
        yield from (frame for frame, _ in self.exemplars)
        if self.backward:
            yield from range(max(gap.stop for gap in self.backward) - 1, self.frame - 1, -1)
        if self.follows:
            yield self.frame


@dataclass
class _Open:
    """A gap that is being filled; the pass from behind lies in a spool, by object and frame."""

    gap: Gap
    forward: Pass | None
    spool: Spool | None


class ExemplarPasses(_Passes):
    """Follows each object forward and backward from each of its exemplars, to the next one.

    Each pass begins with no memory but the object's exemplars, the closest of them on either side: what an earlier pass
    got wrong is not handed on, and no object is looked for before somebody has shown it. Where a gap between two
    exemplars begins, the pass from behind runs first and is kept in a temporary file.
    """

    def __init__(
        self, model: Sam2Model, frames: FrameSource, prompts: Sequence[Prompt], span: Segment, options: Sam2Options
    ) -> None:
        super().__init__(model, frames, prompts, span, options)
        self._opening: dict[int, list[Gap]] = {}
        for gap in find_gaps(prompts, span):
            self._opening.setdefault(gap.first, []).append(gap)
        self._order: dict[int, list[int]] = {}
        self._asking: dict[int, list[int]] = {}
        for (object_id, frame), prompt in sorted(self._shown.items(), key=itemgetter(0)):
            self._order.setdefault(object_id, []).append(frame)
            if _asks(prompt, options):
                self._asking.setdefault(frame, []).append(object_id)

    def frames(self) -> Iterator[FrameSightings]:
        """Every frame of the span, ascending."""
        live: dict[int, _Open] = {}
        try:
            feeder = self._start(index for step in self._steps() for index in step.reads)
            for step in self._steps():
                for object_id in [o for o, entry in live.items() if entry.gap.stop <= step.frame]:
                    del live[object_id]
                self._let_go({id(entry.spool) for entry in live.values()})
                for frame, object_ids in step.exemplars:
                    self._make_exemplars(feeder, frame, object_ids, keep_thin=True)
                # One file for all objects of a step: systems allow few open files, some of them 256.
                spool = self._new_spool() if step.backward else None
                for gap in self._opening.get(step.frame, ()):
                    live[gap.object_id] = self._opened(gap, spool)
                self._run_backward(feeder, [live[gap.object_id] for gap in step.backward], step.frame)
                yield FrameSightings(step.frame, self._run_forward(feeder, step, live), self._exemplars)
                self._forget_exemplars(step)
        finally:
            self._close()

    def _steps(self) -> Iterator[_Step]:
        made: set[tuple[int, int]] = set()
        forward: dict[int, int] = {}
        for frame in self._span.frames:
            opened = self._opening.get(frame, ())
            wanted = {(at, gap.object_id) for gap in opened for at in self._near(gap)}
            # What clicks or a box stand for is asked for on their own frame, before any gap begins.
            wanted |= {(frame, object_id) for object_id in self._asking.get(frame, ())}
            new = sorted(wanted - made)
            made |= set(new)
            forward = {object_id: stop for object_id, stop in forward.items() if frame < stop}
            forward |= {gap.object_id: gap.stop for gap in opened if self._starts(gap.before)}
            yield _Step(
                frame,
                tuple((at, tuple(object_id for _, object_id in group)) for at, group in groupby(new, itemgetter(0))),
                tuple(gap for gap in opened if self._starts(gap.after)),
                bool(forward),
            )

    def _starts(self, prompt: Prompt | None) -> bool:
        return prompt is not None and (prompt.object_id, prompt.frame) in self._shown

    def _near(self, gap: Gap) -> list[int]:
        """The exemplars of a gap's object that any frame of the gap attends to."""
        order = self._order.get(gap.object_id, [])
        most = self._options.max_exemplars
        if most is None or len(order) <= most:
            return order
        place = bisect_left(order, gap.first)
        # On a side without exemplars the other side fills the places that are left.
        low, high = max(0, place - most), min(len(order), place + most)
        nearby = order[low:high]
        # The chosen ones lie next to each other, and move on as the frame does.
        oldest, newest = min(closest(gap.first, nearby, most)), max(closest(gap.stop - 1, nearby, most))
        return [frame for frame in nearby if oldest <= frame <= newest]

    def _opened(self, gap: Gap, spool: Spool | None) -> _Open:
        forward = Pass(gap.object_id, 1, self._memories[gap.object_id]) if self._starts(gap.before) else None
        return _Open(gap, forward, spool if self._starts(gap.after) else None)

    def _let_go(self, used: set[int]) -> None:
        """Deletes the files that no gap reads any more."""
        for spool in [spool for spool in self._spools if id(spool) not in used]:
            spool.close()
            self._spools.remove(spool)

    def _run_backward(self, feeder: FeatureFeeder, entries: list[_Open], first: int) -> None:
        if not entries:
            return
        start = max(entry.gap.stop for entry in entries) - 1
        passes = {id(entry): Pass(entry.gap.object_id, -1, self._memories[entry.gap.object_id]) for entry in entries}
        reported = time.monotonic()
        for index in range(start, first - 1, -1):
            features = feeder.take(index)
            live = [entry for entry in entries if index < entry.gap.stop]
            found = self._tracker.step(index, features, [passes[id(entry)] for entry in live])
            for entry, prediction in zip(live, found, strict=True):
                if entry.spool is not None:
                    entry.spool.put((entry.gap.object_id, index), pack(prediction))
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                logger.info(
                    "SAM 2: following %d objects backward from frame %d: at frame %d of %d.",
                    len(live),
                    start + 1,
                    index,
                    first,
                )

    def _run_forward(self, feeder: FeatureFeeder, step: _Step, live: Mapping[int, _Open]) -> dict[int, Sighting]:
        entries = [entry for entry in live.values() if entry.gap.first <= step.frame < entry.gap.stop]
        followed = [(entry, entry.forward) for entry in entries if entry.forward is not None]
        forward: dict[int, Prediction] = {}
        if step.follows:
            features = feeder.take(step.frame)
            found = self._tracker.step(step.frame, features, [one for _, one in followed])
            forward = {entry.gap.object_id: p for (entry, _), p in zip(followed, found, strict=True)}
        sightings = {}
        for entry in entries:
            record = entry.spool.get((entry.gap.object_id, step.frame)) if entry.spool is not None else None
            backward = None if record is None else unpack(record)
            sightings[entry.gap.object_id] = Sighting(entry.gap, forward.get(entry.gap.object_id), backward)
        return sightings

    def _forget_exemplars(self, step: _Step) -> None:
        most = self._options.max_exemplars
        if most is None:
            return
        for object_id in {object_id for _, object_ids in step.exemplars for object_id in object_ids}:
            order = self._order[object_id]
            oldest = order[max(0, bisect_left(order, step.frame) - most)]
            for known in (self._exemplars[object_id], self._memories[object_id]):
                for frame in [frame for frame in known if frame < oldest]:
                    del known[frame]


# --- the official predictor's way ------------------------------------------------------------------------------------


class OfficialPasses(_Passes):
    """What ``SAM2VideoPredictor`` answers after ``propagate_in_video()`` and ``propagate_in_video(reverse=True)``.

    Every object is tracked forward from the earliest prompt of any object, and backward from there, with one memory for
    both directions and all of its prompts as exemplars from the start.
    """

    _spare_exemplars = True

    @property
    def _most_exemplars(self) -> int | None:
        return self._model.official_most_exemplars

    def frames(self) -> Iterator[FrameSightings]:
        """Every frame of the span, ascending."""
        gaps = {
            object_id: list(find_gaps([p for (o, _), p in self._shown.items() if o == object_id], self._span))
            for object_id in self._memories
        }
        by_frame: dict[int, list[int]] = {}
        for object_id, frame in sorted(self._shown):
            by_frame.setdefault(frame, []).append(object_id)
        if not by_frame:
            for frame in self._span.frames:
                yield FrameSightings(frame, {}, {})
            return
        start, stop = min(by_frame), self._span.stop
        # A pass backward attends to what the pass forward left on the frames behind its start.
        backward = range(start, self._span.start - 1, -1) if start > self._span.start else range(0)
        network = self._model.network
        reach = max(network.max_obj_ptrs_in_encoder, network.num_maskmem * network.memory_temporal_stride_for_eval)
        first = range(start, min(stop, start + reach) if backward else start)
        forth = {object_id: Pass(object_id, 1, memories) for object_id, memories in self._memories.items()}
        try:
            feeder = self._start([*sorted(by_frame), *first, *backward, *range(first.stop, stop)])
            for frame in sorted(by_frame):
                self._make_exemplars(feeder, frame, by_frame[frame], keep_thin=False)
            spool = self._new_spool() if backward else None
            back = {object_id: Pass(object_id, -1, memories) for object_id, memories in self._memories.items()}
            for frame in first:
                self._spooled(spool, frame, self._tracked(feeder, frame, forth))
                for object_id, one in forth.items():
                    if frame in one.recent:
                        back[object_id].recent[frame] = one.recent[frame]
            for frame in backward:
                self._spooled(spool, frame, self._tracked(feeder, frame, back))
            for frame in self._span.frames:
                if frame < first.stop:
                    records = {o: None if spool is None else spool.get((o, frame)) for o in forth}
                    found = {o: unpack(record) for o, record in records.items() if record is not None}
                else:
                    found = self._tracked(feeder, frame, forth)
                yield FrameSightings(frame, self._sightings(frame, found, gaps), self._exemplars)
        finally:
            self._close()

    def _tracked(self, feeder: FeatureFeeder, frame: int, passes: Mapping[int, Pass]) -> dict[int, Prediction]:
        features = feeder.take(frame)
        wanted = [one for one in passes.values() if (one.object_id, frame) not in self._shown and one.exemplars]
        found = self._tracker.step(frame, features, wanted)
        return {one.object_id: prediction for one, prediction in zip(wanted, found, strict=True)}

    def _spooled(self, spool: Spool | None, frame: int, found: Mapping[int, Prediction]) -> None:
        for object_id, prediction in found.items():
            if spool is not None:
                spool.put((object_id, frame), pack(prediction, whole=True))

    def _sightings(
        self, frame: int, found: Mapping[int, Prediction], gaps: Mapping[int, list[Gap]]
    ) -> dict[int, Sighting]:
        sightings = {}
        for object_id, prediction in found.items():
            gap = next(gap for gap in gaps[object_id] if gap.first <= frame < gap.stop)
            sightings[object_id] = Sighting(gap, prediction, None)
        return sightings


# --- results of a pass on disk ---------------------------------------------------------------------------------------


def pack(prediction: Prediction, whole: bool = False) -> list[npt.NDArray[Any]]:
    """A prediction as arrays; what is surely background is cut off, unless the ``whole`` is asked for."""
    logits = prediction.logits
    rows = np.flatnonzero((logits > _SURELY_BACKGROUND).any(axis=1))
    columns = np.flatnonzero((logits > _SURELY_BACKGROUND).any(axis=0))
    if whole:
        y1, y2, x1, x2 = 0, logits.shape[0], 0, logits.shape[1]
    elif rows.size == 0:
        y1 = y2 = x1 = x2 = 0
    else:
        y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return [
        np.array([prediction.iou, prediction.score], dtype=np.float64),
        np.array([*logits.shape, y1, x1, *prediction.exemplars], dtype=np.int64),
        logits[y1:y2, x1:x2],
    ]


def unpack(record: list[npt.NDArray[Any]]) -> Prediction:
    """The prediction that :func:`pack` made arrays of."""
    (iou, score), (height, width, y, x, *exemplars), part = record
    logits = np.full((height, width), NO_OBJECT, dtype=np.float32)
    logits[y : y + part.shape[0], x : x + part.shape[1]] = part
    return Prediction(logits, float(iou), float(score), tuple(int(frame) for frame in exemplars))


def is_visible(prompt: Prompt, size: tuple[int, int]) -> bool:
    """Whether a prompt has a pixel, or a click, inside a frame of ``(height, width)``."""
    height, width = size
    if prompt.absent:
        return False
    if prompt.mask is not None:
        mask = prompt.mask
        return bool(mask.crop[: max(0, height - mask.y), : max(0, width - mask.x)].any())
    if prompt.points is not None:
        return any(0 <= x <= width and 0 <= y <= height for x, y in prompt.points)
    return prompt_mask(prompt, size) is not None


def follows_anything(prompts: Sequence[Prompt], span: Segment, size: tuple[int, int], options: Sam2Options) -> bool:
    """Whether the network has anything to do: a frame to fill, or a prompt whose shape it has to find.

    Args:
        prompts: of the span
        span: the frames to fill
        size: ``(height, width)`` of the frames
        options: the engine's
    """
    shown = {(prompt.object_id, prompt.frame) for prompt in prompts if is_visible(prompt, size)}
    if any(_asks(prompt, options) for prompt in prompts if (prompt.object_id, prompt.frame) in shown):
        return True
    ends = (end for gap in find_gaps(prompts, span) for end in (gap.before, gap.after) if end is not None)
    return any((end.object_id, end.frame) in shown for end in ends)


def _asks(prompt: Prompt, options: Sam2Options) -> bool:
    """Whether the answer on the prompt's own frame is the network's."""
    return prompt.points is not None or (prompt.box is not None and options.masks_from_boxes)


__all__ = [
    "ExemplarPasses",
    "FrameSightings",
    "OfficialPasses",
    "Sighting",
    "follows_anything",
    "is_visible",
    "pack",
    "unpack",
]
