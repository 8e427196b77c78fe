"""The other ways to run SAM 2 over a video that ``benchmarks.sam2`` measures ours against.

Both answer with :class:`~labelprop_cvat.propagation.types.ObjectMask`, as our engine does, so that the same work is
timed.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image as PILImage

from labelprop_cvat.propagation.frames import FrameSource, Image
from labelprop_cvat.propagation.types import ObjectMask, Prompt

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

Answer = tuple[int, int, ObjectMask | None]
"""Frame, object, and its mask there; None where the model says that it is not visible."""


class OfficialPredictor:
    """The package's own ``SAM2VideoPredictor``, used as its examples do.

    Args:
        predictor: the official predictor, on its device
        turn_back: where the backward pass starts. ``"last"``: at the last exemplar, so that every object is followed
            forward and backward from each of its exemplars. ``"first"``: the predictor's default, at the first exemplar
            of any object, which is less work: frames between exemplars are answered by the forward pass alone, also
            those before an object's own exemplar
    """

    def __init__(self, predictor: Any, turn_back: str = "last") -> None:
        self._predictor = predictor
        self._turn_back = turn_back

    def run(self, frames: FrameSource, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Yields every object on every frame, in the order in which the passes reach them; some twice.

        Args:
            frames: the whole video; it is held in memory, as the predictor does
            prompts: masks
        """
        predictor = self._predictor
        first_of = {number: min(p.frame for p in mine) for number, mine in _by_object(prompts).items()}
        turn = (max if self._turn_back == "last" else min)(p.frame for p in prompts)
        with _precision(predictor), patch("sam2.sam2_video_predictor.tqdm", _no_progress):
            state = self._begin(frames)
            for prompt in prompts:
                predictor.add_new_mask(state, prompt.frame, prompt.object_id, _full(prompt, frames.size))
            for frame, numbers, logits in predictor.propagate_in_video(state):
                # Before its own exemplar an object has been tracked from the future: where a backward pass answers
                # that frame too, its answer counts.
                wanted = [n for n in numbers if self._turn_back == "first" or frame >= first_of[n]]
                yield from _masks(frame, numbers, logits, wanted)
            if turn > 0:
                for frame, numbers, logits in predictor.propagate_in_video(state, start_frame_idx=turn, reverse=True):
                    yield from _masks(frame, numbers, logits, numbers)

    def _begin(self, frames: FrameSource) -> Any:
        # Its own loader wants a folder of JPEG files, or a package that few have; the rest of it runs as it is.
        def load(**_: Any) -> tuple[torch.Tensor, int, int]:
            side = self._predictor.image_size
            images = torch.empty(len(frames), 3, side, side)
            for index, image in frames.read(0, len(frames)):
                images[index] = _scaled(image, side)
            return images.to(self._predictor.device), frames.size[0], frames.size[1]

        with patch("sam2.sam2_video_predictor.load_video_frames", load):
            return self._predictor.init_state(video_path="")


@dataclass
class _Seen:
    """An image that went through the encoder, as SAM 2's ``track_step`` takes it."""

    features: list[torch.Tensor]
    positions: list[torch.Tensor]
    sizes: list[tuple[int, int]]


@dataclass
class _State:
    """One object between two calls: what its exemplar says, and its most recent frames."""

    exemplar: dict[int, Any]
    frame: int = 0
    recent: OrderedDict[int, Any] = field(default_factory=OrderedDict)


class CvatTracker:
    """How CVAT's published SAM 2 tracker works, after its pages about the tracker and about tracking functions.

    A run starts from the shapes of one frame and goes forward to a target frame. An image is prepared once a run, apart
    from any object; every object has a state of its own that holds its exemplar and at most ``num_maskmem`` recent
    frames, and is advanced by itself. There is no backward pass, an exemplar further on knows nothing of the ones
    before it, and frames before the first exemplar stay empty.

    Args:
        network: a ``SAM2Base``, on its device
        together: run all objects that are drawn on one frame at once, so that they share the prepared image ("running
            on multiple objects"); else object by object, as from the menu of an object
    """

    def __init__(self, network: Any, together: bool = False) -> None:
        self._network = network
        self._together = together

    def run(self, frames: FrameSource, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Yields what the tracker answers: every object from its first exemplar on, run by run.

        Args:
            frames: the whole video; each run reads the frames that it needs
            prompts: masks
        """
        for group in self._runs(prompts, len(frames)):
            start, stop = group[0][0].frame, group[0][1]
            reading = frames.read(start, stop)
            with _precision(self._network), torch.inference_mode():
                _, image = next(reading)
                seen = self._prepare(image)
                states = {p.object_id: self._begin(seen, _full(p, frames.size)) for p, _ in group}
                for prompt, _ in group:
                    yield start, prompt.object_id, prompt.mask
                for frame, image in reading:
                    seen = self._prepare(image)
                    for number, state in states.items():
                        yield frame, number, self._follow(seen, state, frames.size)

    def _runs(self, prompts: Sequence[Prompt], length: int) -> list[list[tuple[Prompt, int]]]:
        """Which prompts are run together, each with the frame at which its run ends (exclusive)."""
        spans: list[tuple[Prompt, int]] = []
        for mine in _by_object(prompts).values():
            stops = [p.frame for p in mine[1:]] + [length]
            spans.extend(zip(mine, stops, strict=True))
        if not self._together:
            return [[span] for span in spans]
        spans.sort(key=lambda span: (span[0].frame, span[1], span[0].object_id))
        grouped = itertools.groupby(spans, key=lambda span: (span[0].frame, span[1]))
        return [list(group) for _, group in grouped]

    def _prepare(self, image: Image) -> _Seen:
        network = self._network
        pixels = _scaled(image, network.image_size).unsqueeze(0).to(network.device)
        _, features, positions, sizes = network._prepare_backbone_features(network.forward_image(pixels))
        return _Seen(features, positions, sizes)

    def _begin(self, seen: _Seen, mask: torch.Tensor) -> _State:
        network = self._network
        side = network.image_size
        scaled = torch.nn.functional.interpolate(
            mask[None, None].float().to(network.device), size=(side, side), mode="bilinear", antialias=True
        )
        state = _State(exemplar={})
        state.exemplar[0] = self._step(seen, state, (scaled >= 0.5).float())
        return state

    def _follow(self, seen: _Seen, state: _State, size: tuple[int, int]) -> ObjectMask | None:
        state.frame += 1
        found = self._step(seen, state, None)
        state.recent[state.frame] = found
        while len(state.recent) > self._network.num_maskmem:
            state.recent.popitem(last=False)
        logits = torch.nn.functional.interpolate(found["pred_masks"].float(), size=size, mode="bilinear")
        return ObjectMask.from_full((logits[0, 0] > 0).cpu().numpy())

    def _step(self, seen: _Seen, state: _State, mask: torch.Tensor | None) -> dict[str, Any]:
        found = self._network.track_step(
            frame_idx=state.frame,
            is_init_cond_frame=mask is not None,
            current_vision_feats=seen.features,
            current_vision_pos_embeds=seen.positions,
            feat_sizes=seen.sizes,
            point_inputs=None,
            mask_inputs=mask,
            output_dict={"cond_frame_outputs": state.exemplar, "non_cond_frame_outputs": state.recent},
            num_frames=state.frame + 1,
        )
        return {key: found[key] for key in ("pred_masks", "obj_ptr", "maskmem_features", "maskmem_pos_enc")}


@contextmanager
def encoder_calls() -> Iterator[list[int]]:
    """Counts the images that go through the image encoder, whoever sends them.

    Yields:
        a list that gets the number of images of each call
    """
    from sam2.modeling.backbones.image_encoder import ImageEncoder

    calls: list[int] = []
    encode: Callable[..., Any] = ImageEncoder.forward

    def counted(self: Any, sample: torch.Tensor) -> Any:
        calls.append(int(sample.shape[0]))
        return encode(self, sample)

    with patch.object(ImageEncoder, "forward", counted):
        yield calls


def _precision(network: Any) -> AbstractContextManager[Any]:
    # As SAM 2's own examples do on a GPU.
    if network.device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _by_object(prompts: Sequence[Prompt]) -> dict[int, list[Prompt]]:
    found: dict[int, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: (p.object_id, p.frame)):
        found.setdefault(prompt.object_id, []).append(prompt)
    return found


def _full(prompt: Prompt, size: tuple[int, int]) -> torch.Tensor:
    if prompt.mask is None:
        raise ValueError(f"the rivals take masks; the prompt on frame {prompt.frame} is of kind {prompt.kind.value}")
    return torch.from_numpy(prompt.mask.to_full(size))


def _scaled(image: Image, side: int) -> torch.Tensor:
    """As the package's loader of images does: PIL's bicubic, ImageNet's mean and deviation; ``(3, side, side)``."""
    scaled = np.asarray(PILImage.fromarray(image).resize((side, side)), dtype=np.float32) / 255.0
    pixels = torch.from_numpy(scaled).permute(2, 0, 1)
    return (pixels - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def _masks(frame: int, numbers: Sequence[int], logits: torch.Tensor, wanted: Sequence[int]) -> Iterator[Answer]:
    shown = (logits[:, 0] > 0).cpu().numpy()
    for number, mask in zip(numbers, shown, strict=True):
        if number in wanted:
            yield frame, number, ObjectMask.from_full(mask)


def _no_progress(iterable: Any, **_: Any) -> Any:
    return iterable
