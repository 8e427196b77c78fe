"""The official SAM 2 predictor, asked the same questions as the engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from unittest import mock

import torch

from benchmarks.sam2_random import random_official_predictor
from benchmarks.speed import MovingDisks
from labelprop_cvat.propagation.sam2.model import Sam2Model
from labelprop_cvat.propagation.types import Prompt

SIZE = 64
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)

Logits = dict[int, dict[int, torch.Tensor]]


class Official:
    """``SAM2VideoPredictor`` with the weights of ``model``; frames that both look at are encoded once for both."""

    def __init__(self, model: Sam2Model) -> None:
        self.predictor: Any = random_official_predictor(SIZE)
        self._known: dict[bytes, Any] = {}
        for network in (self.predictor, model.network):
            network.forward_image = self._remembering(network.forward_image)

    def _remembering(self, forward: Any) -> Any:
        def remembered(image: torch.Tensor) -> dict[str, Any]:
            key = image[0, :, ::7, ::7].contiguous().numpy().tobytes()
            if key not in self._known:
                self._known[key] = forward(image)
            found = self._known[key]
            return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}

        return remembered

    def state(self, frames: MovingDisks, prompts: Iterable[Prompt]) -> Any:
        """A new state with these frames and mask prompts."""
        with mock.patch("sam2.sam2_video_predictor.load_video_frames", return_value=(pixels(frames), *frames.size)):
            state = self.predictor.init_state("frames that are in memory")
        for prompt in prompts:
            assert prompt.mask is not None
            self.predictor.add_new_mask(state, prompt.frame, prompt.object_id, prompt.mask.to_full(frames.size))
        return state

    def propagate(self, state: Any, **how: Any) -> Logits:
        """Logits at the frames' resolution, by frame and object."""
        return {
            frame: dict(zip(object_ids, logits[:, 0], strict=True))
            for frame, object_ids, logits in self.predictor.propagate_in_video(state, **how)
        }

    def both_ways(self, frames: MovingDisks, prompts: Sequence[Prompt]) -> Logits:
        """Forward from the earliest prompt, then backward from there, in one state, as users do it."""
        state = self.state(frames, prompts)
        return self.propagate(state) | self.propagate(state, reverse=True)

    def afresh(self, frames: MovingDisks, prompts: Sequence[Prompt], start: int, reverse: bool) -> Logits:
        """One direction from one frame, in a state of its own."""
        return self.propagate(self.state(frames, prompts), start_frame_idx=start, reverse=reverse)


def pixels(frames: MovingDisks) -> torch.Tensor:
    """All frames as the predictor's own loader prepares them; array of shape ``(n, 3, S, S)``."""
    import numpy as np
    from PIL import Image

    scaled = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE))) for _, image in frames.read(0, len(frames))]
    return (torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).float() / 255.0 - MEAN) / STD


def at_frame_size(logits: Any, size: tuple[int, int]) -> torch.Tensor:
    """Low-resolution logits of one object as the official predictor scales them to the frame."""
    whole = torch.from_numpy(logits)[None, None]
    return torch.nn.functional.interpolate(whole, size=size, mode="bilinear", align_corners=False)[0, 0]
