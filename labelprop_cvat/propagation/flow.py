"""The engine ``flow``: dense optical flow, no weights, runs everywhere; the embedded default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation._boxes import BoxEstimate, BoxTracker
from labelprop_cvat.propagation._gaps import Gap, find_gaps, prompt_mask
from labelprop_cvat.propagation._smoothing import SmoothingOptions
from labelprop_cvat.propagation._spool import Spool
from labelprop_cvat.propagation._tracking import Estimate, MaskTracker, TrackingOptions
from labelprop_cvat.propagation._views import FrameView, Transform, scene_motion
from labelprop_cvat.propagation._windows import Window
from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.fuse import Fused, fuse_boxes, fuse_sides, mask_confidence, refined, resolve_overlaps
from labelprop_cvat.propagation.interpolate import (
    GEOMETRIES,
    PolygonPath,
    as_ring,
    distance_confidence,
    held,
    interpolate_box,
)
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.propagator import PropagatorSpec, check_option_names, check_prompts
from labelprop_cvat.propagation.types import (
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

    Raises:
        ConfigurationError: a value is out of range
    """

    max_pixels: int = 160_000
    min_confidence: float = 0.05

    def __post_init__(self) -> None:
        if self.max_pixels < 4096:
            raise ConfigurationError(f"max_pixels must be at least 4096, got {self.max_pixels!r}.")
        if not 0.0 <= self.min_confidence < 1.0:
            raise ConfigurationError(f"min_confidence must lie in [0, 1), got {self.min_confidence!r}.")


class FlowPropagator:
    """Follows every object from every exemplar in both directions by dense optical flow and fuses the passes.

    Between two exemplars of an object a backward pass from the later one is kept in a temporary file while the forward
    pass from the earlier one runs; on each frame both are fused, overlaps between objects are resolved, and what is not
    borne out by the image is left out. Before the first and after the last exemplar there is one pass only.
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
    """One gap being filled: the pass from behind lies in a spool, the one from before goes along."""

    def __init__(self, gap: Gap, options: TrackingOptions) -> None:
        self.gap = gap
        self._options = options
        self._spool = Spool() if gap.visible_after is not None else None
        self._forward: MaskTracker | BoxTracker | None = None
        self._backward: MaskTracker | BoxTracker | None = None
        self._return_error: float | None = None

    def close(self) -> None:
        """Releases the temporary file."""
        if self._spool is not None:
            self._spool.close()

    def start_backward(self, view: FrameView) -> None:
        self._backward = self._tracker(view, self.gap.visible_after)

    def step_backward(self, view: FrameView, motion: Transform) -> None:
        estimate = _step(self._backward, view, motion)
        if estimate is not None and self._spool is not None:
            self._spool.put(view.index, pack(estimate))

    def start_forward(self, view: FrameView) -> None:
        self._forward = self._tracker(view, self.gap.visible_before)

    def step_forward(self, view: FrameView, motion: Transform) -> tuple[Passed, Passed]:
        """What the two passes say about this frame."""
        record = self._spool.get(view.index) if self._spool is not None else None
        return _step(self._forward, view, motion), None if record is None else unpack(record)

    @property
    def follows(self) -> bool:
        return self._forward is not None

    def _tracker(self, view: FrameView, prompt: Prompt | None) -> MaskTracker | BoxTracker | None:
        if prompt is None:
            return None
        if self.gap.kind is PromptKind.BOX and prompt.box is not None:
            return BoxTracker(view, prompt.box)
        mask = prompt_mask(prompt, (view.image.shape[0], view.image.shape[1]))
        return None if mask is None else MaskTracker(view, mask, prompt.polygon, self._options)


class _Run:
    """One call of ``propagate``."""

    def __init__(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment, options: FlowOptions) -> None:
        self._frames, self._span, self._options = frames, span, options
        self._tracking = TrackingOptions(largest_area=options.max_pixels)
        self._smoothing = SmoothingOptions()
        self._prompts: dict[int, dict[int, Prompt]] = {}
        for prompt in sorted(prompts, key=lambda prompt: prompt.object_id):
            self._prompts.setdefault(prompt.frame, {})[prompt.object_id] = prompt
        self._opening: dict[int, list[Gap]] = {}
        for gap in find_gaps(prompts, span):
            self._opening.setdefault(gap.first, []).append(gap)

    def answers(self) -> Iterator[FrameObjects]:
        """Every frame of the span, ascending."""
        runs: dict[int, _GapRun] = {}
        reader = _ForwardReader(self._frames, self._span.stop)
        try:
            before: FrameView | None = None
            for frame in self._span.frames:
                self._close_ended(runs, frame)
                self._open(runs, frame, before)
                starts_next = any(gap.visible_before is not None for gap in self._opening.get(frame + 1, ()))
                view = reader.view(frame) if runs or starts_next else None
                yield self._answer(frame, runs, before, view)
                before = view
        finally:
            reader.close()
            for run in runs.values():
                run.close()

    def _close_ended(self, runs: dict[int, _GapRun], frame: int) -> None:
        for object_id in [object_id for object_id, run in runs.items() if run.gap.stop <= frame]:
            runs.pop(object_id).close()

    def _open(self, runs: dict[int, _GapRun], frame: int, before: FrameView | None) -> None:
        opened = []
        for gap in self._opening.get(frame, ()):
            runs[gap.object_id] = run = _GapRun(gap, self._tracking)
            opened.append(run)
            if before is not None and gap.visible_before is not None:
                run.start_forward(before)
        self._run_backward([run for run in opened if run.gap.visible_after is not None], frame)

    def _run_backward(self, runs: list[_GapRun], first: int) -> None:
        """Passes from the exemplars behind down to ``first``, all objects in one reading."""
        starts: dict[int, list[_GapRun]] = {}
        for run in runs:
            starts.setdefault(run.gap.stop, []).append(run)
        if not starts:
            return
        live: list[_GapRun] = []
        before: FrameView | None = None
        for index, image in self._frames.read(max(starts), first - 1, -1):
            view = FrameView(index, image)
            if before is not None and live:
                motion = scene_motion(before, view)
                for run in live:
                    run.step_backward(view, motion)
            for run in starts.get(index, ()):
                run.start_backward(view)
                live.append(run)
            before = view

    def _answer(
        self, frame: int, runs: dict[int, _GapRun], before: FrameView | None, view: FrameView | None
    ) -> FrameObjects:
        prompts = self._prompts.get(frame, {})
        states = {object_id: held(prompt, frame) for object_id, prompt in prompts.items() if not prompt.absent}
        if view is not None and runs:
            moves = before is not None and any(run.follows for run in runs.values())
            motion = scene_motion(before, view) if before is not None and moves else np.eye(3)
            passed = {object_id: run.step_forward(view, motion) for object_id, run in runs.items()}
            states.update(self._fused(view, runs, passed))
        return FrameObjects(frame, dict(sorted(states.items())))

    def _fused(
        self, view: FrameView, runs: dict[int, _GapRun], passed: dict[int, tuple[Passed, Passed]]
    ) -> dict[int, ObjectState]:
        frame = view.index
        states: dict[int, ObjectState] = {}
        masks: dict[int, Fused] = {}
        for object_id, (forward, backward) in passed.items():
            gap = runs[object_id].gap
            if gap.kind is PromptKind.BOX:
                state = _box_state(gap, frame, forward, backward)
                if state is not None:
                    states[object_id] = state
                continue
            fused = fuse_sides(_as_mask_estimate(forward), _as_mask_estimate(backward), gap.progress(frame))
            if fused is not None:
                masks[object_id] = refined(fused, view, self._options.max_pixels, self._smoothing)
        size = self._frames.size
        taken = {
            object_id: mask
            for object_id, prompt in self._prompts.get(frame, {}).items()
            if prompt.kind in (PromptKind.MASK, PromptKind.POLYGON) and (mask := prompt_mask(prompt, size)) is not None
        }
        for object_id, mask in resolve_overlaps(dict(sorted(masks.items())), taken, size).items():
            confidence = mask_confidence(masks[object_id], mask)
            if confidence >= self._options.min_confidence:
                gap = runs[object_id].gap
                states[object_id] = _mask_state(gap, frame, passed[object_id], mask, confidence)
        return states


class _ForwardReader:
    """Frames in ascending order; those that nobody asks for are not decoded."""

    def __init__(self, frames: FrameSource, stop: int) -> None:
        self._frames, self._stop = frames, stop
        self._reading: Iterator[tuple[int, Image]] | None = None
        self._next = -1

    def view(self, frame: int) -> FrameView:
        """The frame; asking in steps of one reads on, anything else starts anew."""
        if self._reading is None or frame != self._next:
            self.close()
            self._reading = self._frames.read(frame, self._stop)
        index, image = next(self._reading)
        self._next = index + 1
        return FrameView(index, image)

    def close(self) -> None:
        """Ends the reading, and with it whatever it holds open."""
        close = getattr(self._reading, "close", None)
        if close is not None:
            close()
        self._reading = None


def _step(tracker: MaskTracker | BoxTracker | None, view: FrameView, motion: Transform) -> Passed:
    if isinstance(tracker, BoxTracker):
        return tracker.step(view)
    return tracker.step(view, motion) if tracker is not None else None


def _as_mask_estimate(passed: Passed) -> Estimate | None:
    return passed if isinstance(passed, Estimate) else None


def _sources(gap: Gap, passed: tuple[Passed, Passed]) -> tuple[int, ...]:
    ends = zip((gap.before, gap.after), passed, strict=True)
    return tuple(end.frame for end, estimate in ends if end is not None and estimate is not None)


def _mask_state(
    gap: Gap, frame: int, passed: tuple[Passed, Passed], mask: ObjectMask, confidence: float
) -> ObjectState:
    rings = [e.polygon if isinstance(e, Estimate) else None for e in passed]
    polygon = rings[0] or rings[1]
    if rings[0] is not None and rings[1] is not None:
        polygon = PolygonPath(rings[0], rings[1]).at(gap.progress(frame))
    return ObjectState(
        mask=mask,
        polygon=polygon if gap.kind is PromptKind.POLYGON else None,
        confidence=confidence,
        exemplar_frames=_sources(gap, passed),
    )


def _box_state(gap: Gap, frame: int, forward: Passed, backward: Passed) -> ObjectState | None:
    """The box between the passes, and between both and the straight line, by how much the passes agree."""
    first = forward if isinstance(forward, BoxEstimate) else None
    second = backward if isinstance(backward, BoxEstimate) else None
    progress = gap.progress(frame)
    before, after = gap.visible_before, gap.visible_after
    if before is None or after is None or before.box is None or after.box is None:
        only = first or second
        if only is None:
            return None
        return ObjectState(box=only.box, confidence=only.trust, exemplar_frames=_sources(gap, (first, second)))
    line = interpolate_box(before.box, after.box, progress)
    distance = min(frame - before.frame, after.frame - frame)
    if first is None or second is None:
        return ObjectState(
            box=line, confidence=distance_confidence(distance), exemplar_frames=(before.frame, after.frame)
        )
    return ObjectState(
        box=fuse_boxes(line, first.box, second.box, progress),
        confidence=box_iou(first.box, second.box),
        exemplar_frames=(before.frame, after.frame),
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
        tuple(as_ring(ring) for ring in record[3:]) or None,
    )


def make_flow(**options: Any) -> FlowPropagator:
    """Makes the engine ``flow`` with the options of :class:`FlowOptions`.

    Raises:
        ConfigurationError: it has no such option, or a value is out of range
    """
    check_option_names("flow", options, FlowOptions)
    return FlowPropagator(FlowOptions(**options))


__all__ = ["FlowOptions", "FlowPropagator", "make_flow"]
