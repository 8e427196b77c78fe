"""The engine ``sam2``: SAM 2's network, driven for exemplars anywhere in the video, many objects, and any length."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.propagator import PropagatorSpec, check_option_names, check_prompts
from labelprop_cvat.propagation.sam2._answers import AnswerMaker
from labelprop_cvat.propagation.sam2._passes import ExemplarPasses, FrameSightings, OfficialPasses, follows_anything
from labelprop_cvat.propagation.sam2.model import Progress, Sam2Model, check_packages, load_model, named_model
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.sam2.weights import find_checkpoint
from labelprop_cvat.propagation.types import FrameObjects, Prompt, PromptKind, Segment

logger = logging.getLogger(__name__)

_KINDS = frozenset({PromptKind.MASK, PromptKind.BOX, PromptKind.POLYGON, PromptKind.POINTS})


class Sam2Propagator:
    """Follows every object from every exemplar in both directions with SAM 2, and fuses the passes.

    The weights are loaded, or downloaded first, when they are needed for the first time, and kept until :meth:`close`.

    A prompt of points, or a mask with refining points, has no shape of its own: on its frame the answer is the mask
    that the model makes of it, with the model's confidence and not marked as a keyframe.

    Args:
        options: see :class:`Sam2Options`
        model: weights that are loaded already, whatever the options say of model, checkpoint, device and dtype
    """

    def __init__(self, options: Sam2Options | None = None, model: Sam2Model | None = None) -> None:
        self.options = options or Sam2Options()
        self._model = model
        self._loading = threading.Lock()

    @property
    def spec(self) -> PropagatorSpec:
        """Static facts about the engine."""
        return PropagatorSpec(name="sam2", accepts=_KINDS, needs_weights=True, wants_gpu=True)

    def load(self, progress: Progress | None = None) -> Sam2Model:
        """Makes the weights ready; later calls return the same.

        Args:
            progress: called with bytes done and bytes in all while weights are downloaded

        Raises:
            ConfigurationError: a package, the device or the file is not there or not what it should be
            EngineError: the weights can't be downloaded, or do not fit into memory
        """
        with self._loading:
            if self._model is None:
                self._model = load_model(self.options, progress)
            return self._model

    def missing(self) -> str | None:
        """What is not on this machine yet, in a sentence; None when the engine could start. Downloads nothing."""
        if self._model is not None:
            return None
        info = named_model(self.options)
        try:
            if find_checkpoint(info, self.options.checkpoint) is not None:
                return None
        except ConfigurationError as error:
            return str(error)
        return (
            f"The weights of {info.name} ({info.size_bytes / 1e6:.0f} MB) are not on this machine; they are downloaded "
            f"when frames are filled for the first time. 'labelprop weights {info.name}' gets them now."
        )

    def close(self) -> None:
        """Lets go of the weights; they are loaded again when needed."""
        with self._loading:
            self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def propagate(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        """See :meth:`labelprop_cvat.propagation.propagator.Propagator.propagate`."""
        check_prompts(self.spec, prompts, span)
        return self._answers(frames, prompts, span)

    def sightings(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameSightings]:
        """What the network sees, frame by frame, before passes are fused and masks are made; for measuring."""
        check_prompts(self.spec, prompts, span)
        way = OfficialPasses if self.options.semantics == "official" else ExemplarPasses
        return way(self.load(), frames, prompts, span, self.options).frames()

    def _answers(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        by_frame: dict[int, dict[int, Prompt]] = {}
        for prompt in prompts:
            by_frame.setdefault(prompt.frame, {})[prompt.object_id] = prompt
        maker = AnswerMaker(by_frame, frames.size, self.options)
        if not follows_anything(prompts, span, frames.size, self.options):
            # Nothing is loaded, or downloaded, for a span that people annotated whole, or in which there is nothing.
            for frame in span.frames:
                yield maker.answer(FrameSightings(frame, {}, {}))
            return
        with closing(self.sightings(frames, prompts, span)) as known:  # type: ignore[type-var]
            for one in known:
                yield maker.answer(one)


def make_sam2(**options: Any) -> Sam2Propagator:
    """Makes the engine ``sam2`` with the options of :class:`Sam2Options`; loads nothing yet.

    Raises:
        ConfigurationError: a package is missing, or an option is unknown or out of range
    """
    check_packages()
    check_option_names("sam2", options, Sam2Options)
    return Sam2Propagator(Sam2Options(**options))


__all__ = ["Sam2Propagator", "make_sam2"]
