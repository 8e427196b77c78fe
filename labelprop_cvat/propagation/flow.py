"""The engine ``flow``: dense optical flow, no weights, runs everywhere; the embedded default."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation._boxes import BoxEstimate, BoxTracker, straight_confidence, waywardness
from labelprop_cvat.propagation._gaps import Gap, find_gaps, prompt_mask
from labelprop_cvat.propagation._reading import ForwardReader, FrameReader
from labelprop_cvat.propagation._smoothing import SmoothingOptions
from labelprop_cvat.propagation._spool import Spool
from labelprop_cvat.propagation._tracking import Estimate, MaskTracker, TrackingOptions
from labelprop_cvat.propagation._views import FrameView, Transform, inverse, scene_motion
from labelprop_cvat.propagation._windows import Window, paste
from labelprop_cvat.propagation._workers import Batch, Workers, available_threads
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.fuse import (
    Fused,
    fuse_boxes,
    fuse_sides,
    mask_confidence,
    refined,
    resolve_overlaps,
    without_strays,
)
from labelprop_cvat.propagation.interpolate import (
    GEOMETRIES,
    PolygonPath,
    as_ring,
    held,
    interpolate_box,
    keyframes_by_object,
)
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.propagator import PropagatorSpec, check_option_names, check_prompts
from labelprop_cvat.propagation.types import (
    Box,
    FrameObjects,
    ObjectMask,
    ObjectState,
    Prompt,
    PromptKind,
    Segment,
)

Passed: TypeAlias = Estimate | BoxEstimate | None
"""What one pass says about one object on one frame."""


@dataclass(frozen=True)
class FlowOptions:
    """Options of the engine ``flow``.

    Args:
        max_pixels: an object whose surroundings are larger is followed at a smaller scale; more is slower and finer
        min_confidence: what is less sure is left out, in [0, 1)
        threads: how many objects and directions are worked on side by side; None is as many as there are processors for
            this process. More are faster, take more memory, and give the same answers

    Raises:
        ConfigurationError: a value is out of range
    """

    max_pixels: int = 160_000
    min_confidence: float = 0.05
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.max_pixels < 4096:
            raise ConfigurationError(f"max_pixels must be at least 4096, got {self.max_pixels!r}.")
        if not 0.0 <= self.min_confidence < 1.0:
            raise ConfigurationError(f"min_confidence must lie in [0, 1), got {self.min_confidence!r}.")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(
                f"threads must be at least 1, or None for one per processor, got {self.threads!r}."
            )


class FlowPropagator:
    """Follows every object from every exemplar in both directions by dense optical flow and fuses the passes.

    Between two exemplars of an object a forward pass from the earlier one and a backward pass from the later one run
    side by side and are kept in a temporary file; then on each frame both are fused, overlaps between objects are
    resolved, and what is not borne out by the image is left out. Before the first and after the last exemplar there is
    one pass only. Objects and passes share a few threads, which live as long as the iteration does.
    """

    def __init__(self, options: FlowOptions | None = None) -> None:
        self._options = options or FlowOptions()

    @property
    def spec(self) -> PropagatorSpec:
        """Static facts about the engine."""
        return PropagatorSpec(name="flow", accepts=GEOMETRIES)

    def propagate(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        """See :meth:`labelprop_cvat.propagation.propagator.Propagator.propagate`."""
        check_prompts(self.spec, prompts, span)
        return _Run(frames, prompts, span, self._options).answers()


class _GapRun:
    """One gap being filled: the pass from behind lies in a spool, and that from before too where there are both."""

    def __init__(self, gap: Gap, options: TrackingOptions, spool: Spool | None) -> None:
        self.gap = gap
        self.spool = spool
        self._options = options
        self._trackers: dict[int, MaskTracker | BoxTracker | None] = {}

    @property
    def two_sided(self) -> bool:
        """Whether there is something to follow at both ends."""
        return self.gap.visible_before is not None and self.gap.visible_after is not None

    @property
    def goes_along(self) -> bool:
        """Whether its only pass goes on as the frames are answered."""
        return self.gap.visible_after is None

    @property
    def needs_motion(self) -> bool:
        """Whether its passes ask how the scene moved."""
        return self.gap.kind is not PromptKind.BOX

    def start(self, direction: int, view: FrameView) -> None:
        """Begins the pass of a direction (1 or -1) on the exemplar of ``view``."""
        self._trackers[direction] = self._tracker(
            view, self.gap.visible_before if direction > 0 else self.gap.visible_after
        )

    def step(self, direction: int, view: FrameView, motion: Transform) -> Passed:
        """Goes on to the next frame in a direction."""
        tracker = self._trackers.get(direction)
        if isinstance(tracker, BoxTracker):
            return tracker.step(view)
        return tracker.step(view, motion) if tracker is not None else None

    def step_and_keep(self, direction: int, view: FrameView, motion: Transform) -> None:
        """Goes on to the next frame and keeps what was found."""
        found = self.step(direction, view, motion)
        if found is not None and self.spool is not None:
            self.spool.put((self.gap.object_id, direction, view.index), pack(found))

    def kept(self, direction: int, frame: int) -> Passed:
        """What the pass of a direction found on a frame."""
        record = self.spool.get((self.gap.object_id, direction, frame)) if self.spool is not None else None
        return None if record is None else unpack(record)

    def followed(self, direction: int) -> bool:
        """Whether there is, or was, a pass in that direction."""
        return self._trackers.get(direction) is not None

    def _tracker(self, view: FrameView, prompt: Prompt | None) -> MaskTracker | BoxTracker | None:
        if prompt is None:
            return None
        if self.gap.kind is PromptKind.BOX and prompt.box is not None:
            return BoxTracker(view, prompt.box)
        mask = prompt_mask(prompt, (view.image.shape[0], view.image.shape[1]))
        return None if mask is None else MaskTracker(view, mask, prompt.polygon, self._options)


class _Motions:
    """How the scene moves between neighbouring frames; where both directions ask, it is found once."""

    def __init__(self, workers: Workers, *, asked: bool, asked_twice: bool) -> None:
        self._workers, self._asked, self._asked_twice = workers, asked, asked_twice
        self._found: dict[int, Batch[Transform]] = {}

    def along(self, views: Iterator[FrameView], before: FrameView | None) -> Iterator[_Move]:
        """The views with the motion that leads to each, which is looked for while the caller does something else."""
        for view in views:
            found = self._between(*_ordered(before, view)) if before is not None and self._asked else None
            yield _Move(view, found)
            before = view

    def _between(self, first: FrameView, second: FrameView) -> Batch[Transform]:
        found = self._found.pop(first.index, None)
        if found is None:
            found = self._workers.start([partial(scene_motion, first, second)])
            if self._asked_twice:
                self._found[first.index] = found
        return found


@dataclass(frozen=True)
class _Move:
    """A frame that the passes of one direction reach, and how the scene moves from the lower index to the higher."""

    view: FrameView
    found: Batch[Transform] | None

    def motion(self, direction: int) -> Transform:
        """The homography from the frame before, in that direction, to this one; waits for it."""
        if self.found is None:
            return np.eye(3)
        (motion,) = self.found.results()
        return motion if direction > 0 else inverse(motion)


@dataclass(frozen=True)
class _Fusion:
    """What the passes say about one object on one frame, by themselves and together."""

    gap: Gap
    sides: tuple[Passed, Passed]
    fused: Fused | None
    agreement: float | None


@dataclass(frozen=True)
class _Pending:
    """A frame whose objects are being fused."""

    frame: int
    fusions: Batch[_Fusion]


class _Run:
    """One call of ``propagate``."""

    def __init__(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment, options: FlowOptions) -> None:
        self._frames, self._span, self._options = frames, span, options
        self._tracking = TrackingOptions(largest_area=options.max_pixels)
        self._smoothing = SmoothingOptions()
        self._boxes: dict[tuple[int, int], list[Box]] = {}
        self._reader = FrameReader(frames)
        self._runs: dict[int, _GapRun] = {}
        self._spools: list[Spool] = []
        self._prompts: dict[int, dict[int, Prompt]] = {}
        for prompt in sorted(prompts, key=lambda prompt: prompt.object_id):
            self._prompts.setdefault(prompt.frame, {})[prompt.object_id] = prompt
        self._strays = {number: waywardness(keyframes) for number, keyframes in keyframes_by_object(prompts).items()}
        self._opening: dict[int, list[Gap]] = {}
        for gap in find_gaps(prompts, span):
            self._opening.setdefault(gap.first, []).append(gap)

    def answers(self) -> Iterator[FrameObjects]:
        """Every frame of the span, ascending."""
        with ExitStack() as stack:
            stack.callback(self._close_spools)
            reader = ForwardReader(self._reader, self._span.stop)
            stack.callback(reader.close)
            # The threads end first: what they work on is closed behind them.
            workers = Workers(self._options.threads or available_threads())
            stack.callback(workers.close)
            before: FrameView | None = None
            pending: _Pending | None = None
            for frame in self._span.frames:
                self._runs = {number: run for number, run in self._runs.items() if run.gap.stop > frame}
                self._open(workers, frame, before)
                starts_next = any(gap.visible_before is not None for gap in self._opening.get(frame + 1, ()))
                view = reader.view(frame) if self._runs or starts_next else None
                found = self._stepped(workers, before, view)
                # While one frame is being fused, the passes go on to the next one.
                if pending is not None:
                    yield self._answer(pending)
                self._close_spools({id(run.spool) for run in self._runs.values()})
                pending = self._fusing(workers, frame, view, found)
                if not workers.side_by_side:
                    yield self._answer(pending)
                    pending = None
                before = view
            if pending is not None:
                yield self._answer(pending)

    def _close_spools(self, used: Collection[int] = ()) -> None:
        for spool in [spool for spool in self._spools if id(spool) not in used]:
            spool.close()
            self._spools.remove(spool)

    def _open(self, workers: Workers, frame: int, before: FrameView | None) -> None:
        gaps = self._opening.get(frame, ())
        spool = None
        if any(gap.visible_after is not None for gap in gaps):
            # One file for all objects of a step: systems allow few open files, some of them 256.
            spool = Spool()
            self._spools.append(spool)
        opened = [_GapRun(gap, self._tracking, spool if gap.visible_after is not None else None) for gap in gaps]
        self._runs.update({run.gap.object_id: run for run in opened})
        if before is not None:
            workers.run([partial(run.start, 1, before) for run in opened if run.gap.visible_before is not None])
        self._run_passes(workers, [run for run in opened if not run.goes_along], frame, before)

    def _run_passes(self, workers: Workers, runs: list[_GapRun], first: int, before: FrameView | None) -> None:
        """Passes from the exemplars behind down to ``first`` and, in step with them, those from ``first`` up to there.

        Args:
            workers: who does it
            runs: gaps that open at ``first`` and end at an exemplar that shows their object
            first: 0-based frame
            before: the frame before it, where there is an exemplar
        """
        ends: dict[int, list[_GapRun]] = {}
        for run in runs:
            ends.setdefault(run.gap.stop, []).append(run)
        if not ends:
            return
        both = [run for run in runs if run.two_sided]
        motions = _Motions(workers, asked=any(run.needs_motion for run in runs), asked_twice=bool(both))
        with (
            closing(self._reader.views(max(ends), first - 1, -1)) as descending,
            closing(self._reader.views(first, max((run.gap.stop for run in both), default=first))) as ascending,
        ):
            moves = zip_longest(motions.along(descending, None), motions.along(ascending, before))
            following = next(moves, None)
            while following is not None:
                back, forth = following
                calls = []
                if back is not None:
                    live = [run for run in runs if back.view.index < run.gap.stop]
                    motion = back.motion(-1)
                    calls += [partial(run.step_and_keep, -1, back.view, motion) for run in live]
                    calls += [partial(run.start, -1, back.view) for run in ends.get(back.view.index, ())]
                if forth is not None:
                    live = [run for run in both if forth.view.index < run.gap.stop]
                    motion = forth.motion(1)
                    calls += [partial(run.step_and_keep, 1, forth.view, motion) for run in live]
                batch = workers.start(calls)
                # Frames are read, and the scene's motion is found, while the passes go on.
                following = next(moves, None)
                batch.results()

    def _stepped(self, workers: Workers, before: FrameView | None, view: FrameView | None) -> dict[int, Batch[Passed]]:
        """Goes on with the passes that are the only ones of their gaps; by object."""
        live = [run for run in self._runs.values() if run.goes_along]
        if before is None or view is None or not live:
            return {}
        motion: Transform = np.eye(3)
        if any(run.needs_motion for run in live):
            (motion,) = workers.run([partial(scene_motion, before, view)])
        return {run.gap.object_id: workers.start([partial(run.step, 1, view, motion)]) for run in live}

    def _fusing(
        self, workers: Workers, frame: int, view: FrameView | None, stepped: dict[int, Batch[Passed]]
    ) -> _Pending:
        if view is None:
            return _Pending(frame, workers.start([]))
        calls = []
        for number, run in self._runs.items():
            (forward,) = stepped[number].results() if number in stepped else (None,)
            calls.append(partial(self._fusion, run, view, forward))
        return _Pending(frame, workers.start(calls))

    def _fusion(self, run: _GapRun, view: FrameView, forward: Passed) -> _Fusion:
        gap, frame = run.gap, view.index
        if not run.goes_along:
            forward = run.kept(1, frame)
        backward = run.kept(-1, frame)
        agreement = _agreement(forward, backward) if run.followed(1) and run.followed(-1) else None
        fused = fuse_sides(_as_mask_estimate(forward), _as_mask_estimate(backward), gap.progress(frame))
        if fused is not None:
            fused = refined(fused, view, self._options.max_pixels, self._smoothing)
        return _Fusion(gap, (forward, backward), fused, agreement)

    def _answer(self, pending: _Pending) -> FrameObjects:
        frame, size = pending.frame, self._frames.size
        prompts = self._prompts.get(frame, {})
        states = {number: held(prompt, frame) for number, prompt in prompts.items() if not prompt.absent}
        fusions = {fusion.gap.object_id: fusion for fusion in pending.fusions.results()}
        for number, fusion in fusions.items():
            if fusion.gap.kind is PromptKind.BOX:
                state = _box_state(fusion, frame, self._strays.get(number, {}))
                if state is not None:
                    states[number] = state
        masks = {number: fusion.fused for number, fusion in sorted(fusions.items()) if fusion.fused is not None}
        taken = {
            number: mask
            for number, prompt in prompts.items()
            if prompt.kind in (PromptKind.MASK, PromptKind.POLYGON) and (mask := prompt_mask(prompt, size)) is not None
        }
        for number, whole in resolve_overlaps(masks, taken, size).items():
            expected = self._expected(fusions[number].gap, frame)
            mask = whole if expected is None else without_strays(whole, expected)
            confidence = mask_confidence(masks[number], mask)
            if confidence >= self._options.min_confidence:
                states[number] = _mask_state(fusions[number], frame, mask, confidence)
        return FrameObjects(frame, dict(sorted(states.items())))

    def _expected(self, gap: Gap, frame: int) -> Box | None:
        """The box around what people drew on both sides of a gap, interpolated; None where one side shows nothing."""
        key = gap.object_id, gap.first
        if key not in self._boxes:
            ends = [prompt_mask(end, self._frames.size) for end in (gap.visible_before, gap.visible_after) if end]
            self._boxes[key] = [_as_box(mask) for mask in ends if mask is not None]
        boxes = self._boxes[key]
        return interpolate_box(boxes[0], boxes[1], gap.progress(frame)) if len(boxes) == 2 else None


def _as_box(mask: ObjectMask) -> Box:
    x1, y1, x2, y2 = mask.box
    return float(x1), float(y1), float(x2), float(y2)


def _ordered(first: FrameView, second: FrameView) -> tuple[FrameView, FrameView]:
    return (first, second) if first.index < second.index else (second, first)


def _as_mask_estimate(passed: Passed) -> Estimate | None:
    return passed if isinstance(passed, Estimate) else None


def _sources(gap: Gap, passed: tuple[Passed, Passed]) -> tuple[int, ...]:
    ends = zip((gap.before, gap.after), passed, strict=True)
    return tuple(end.frame for end, estimate in ends if end is not None and estimate is not None)


def _agreement(forward: Passed, backward: Passed) -> float:
    """How far the passes say the same by themselves: IoU, 0 where only one of them sees the object."""
    if isinstance(forward, BoxEstimate) and isinstance(backward, BoxEstimate):
        return box_iou(forward.box, backward.box)
    if not isinstance(forward, Estimate) or not isinstance(backward, Estimate):
        return 0.0
    window = forward.window.joined(backward.window)
    first, second = (paste(side.probability > 0.5, side.window, window) for side in (forward, backward))
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 0.0


def _mask_state(fusion: _Fusion, frame: int, mask: ObjectMask, confidence: float) -> ObjectState:
    gap = fusion.gap
    rings = [side.polygon if isinstance(side, Estimate) else None for side in fusion.sides]
    polygon = rings[0] or rings[1]
    if rings[0] is not None and rings[1] is not None:
        polygon = PolygonPath(rings[0], rings[1]).at(gap.progress(frame))
    return ObjectState(
        mask=mask,
        polygon=polygon if gap.kind is PromptKind.POLYGON else None,
        confidence=confidence,
        exemplar_frames=_sources(gap, fusion.sides),
        agreement=fusion.agreement,
    )


def _box_state(fusion: _Fusion, frame: int, strays: Mapping[int, float]) -> ObjectState | None:
    """The box between the passes, and between both and the straight line, by how much the passes agree.

    Args:
        fusion: the passes
        frame: 0-based
        strays: what :func:`waywardness` says of the object
    """
    gap = fusion.gap
    first, second = (side if isinstance(side, BoxEstimate) else None for side in fusion.sides)
    progress = gap.progress(frame)
    before, after = gap.visible_before, gap.visible_after
    if before is None or after is None or before.box is None or after.box is None:
        only = first or second
        if only is None:
            return None
        return ObjectState(box=only.box, confidence=only.trust, exemplar_frames=_sources(gap, (first, second)))
    box = interpolate_box(before.box, after.box, progress)
    if first is not None and second is not None:
        box = fuse_boxes(box, first.box, second.box, progress)
    sides = [(side, nearness) for side, nearness in ((first, 1.0 - progress), (second, progress)) if side is not None]
    # Passes that disagree leave the straight way, which may be right all the same; what they see may bear it out.
    borne_out = min(1.0, sum(nearness * box_iou(box, side.box) for side, nearness in sides))
    known = [strays[end.frame] for end in (before, after) if end.frame in strays]
    straight = straight_confidence(before.frame, frame, after.frame, known)
    return ObjectState(
        box=box,
        confidence=1.0 - (1.0 - straight) * (1.0 - borne_out),
        exemplar_frames=(before.frame, after.frame),
        agreement=fusion.agreement,
    )


def pack(estimate: Estimate | BoxEstimate) -> list[npt.NDArray[Any]]:
    """An estimate as arrays; probabilities to one part in 255."""
    if isinstance(estimate, BoxEstimate):
        return [np.array([*estimate.box, estimate.trust], dtype=np.float64)]
    window = estimate.window
    record: list[npt.NDArray[Any]] = [
        np.array([window.x1, window.y1, window.x2, window.y2], dtype=np.int64),
        np.round(estimate.probability * 255.0).astype(np.uint8),
        np.round(estimate.trust * 255.0).astype(np.uint8),
        np.zeros((0, 0), dtype=np.uint8) if estimate.novelty is None else estimate.novelty,
    ]
    return record + [np.array(ring, dtype=np.float64) for ring in estimate.polygon or ()]


def unpack(record: list[npt.NDArray[Any]]) -> Estimate | BoxEstimate:
    """The estimate that :func:`pack` made arrays of."""
    if len(record) == 1:
        x1, y1, x2, y2, trust = (float(v) for v in record[0])
        return BoxEstimate((x1, y1, x2, y2), trust)
    corners = [int(v) for v in record[0]]
    return Estimate(
        Window(*corners),
        record[1].astype(np.float32) / 255.0,
        record[2].astype(np.float32) / 255.0,
        tuple(as_ring(ring) for ring in record[4:]) or None,
        record[3] if record[3].size else None,
    )


def make_flow(**options: Any) -> FlowPropagator:
    """Makes the engine ``flow`` with the options of :class:`FlowOptions`.

    Raises:
        ConfigurationError: it has no such option, or a value is out of range
    """
    check_option_names("flow", options, FlowOptions)
    return FlowPropagator(FlowOptions(**options))


__all__ = ["FlowOptions", "FlowPropagator", "make_flow"]
