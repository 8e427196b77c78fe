"""The steps of SAM 2: an exemplar becomes a memory, and objects are found on a frame by what is remembered of them.

The algorithm is that of *SAM 2: Segment Anything in Images and Videos* (Ravi et al., 2024) as the ``sam2`` package
computes it; objects are computed in batches, and what is the same for all of them is computed once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from labelprop_cvat.errors import EngineError
from labelprop_cvat.propagation._gaps import prompt_mask
from labelprop_cvat.propagation._windows import FloatMap
from labelprop_cvat.propagation.sam2._memory import Attended, Memory, MemoryRules, Pass
from labelprop_cvat.propagation.sam2.model import FrameFeatures, Sam2Model, is_out_of_memory
from labelprop_cvat.propagation.types import Box, ObjectMask, Point, Prompt

logger = logging.getLogger(__name__)

_Made = TypeVar("_Made")

NO_OBJECT = -1024.0
"""The logit of every pixel of an object that is not there, as in the official predictor."""

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_CLAMP = 32.0
# Masks of objects that are a few pixels wide lose their shape on the way through a quarter of the resolution.
_LEAST_KEPT = 0.5


@dataclass(frozen=True)
class Prediction:
    """One object on one frame as the network sees it.

    Args:
        logits: mask logits, array of shape ``(S/4, S/4)``, float32, ``S`` being the image size; above 0 is object
        iou: the network's estimate of its own IoU, in [0, 1]
        score: logit of whether the object is visible at all
        exemplars: the exemplar frames that it was derived from, ascending
    """

    logits: FloatMap
    iou: float
    score: float
    exemplars: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exemplar:
    """An exemplar of one object, ready to be attended to.

    Args:
        memory: what passes attend to
        prediction: the mask that was remembered: the person's own at the model's resolution, or what the model made of
            clicks or a box
    """

    memory: Memory
    prediction: Prediction


@dataclass(frozen=True)
class Clicks:
    """What a person points at on one frame, in its pixels: points, a box, or points after a box.

    Args:
        points: ``(x, y)``
        labels: 1 (on the object) or 0 (not on it) per point
        box: ``(x1, y1, x2, y2)``
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None


class Tracker:
    """Computes with one model; holds no state of any object.

    Args:
        model: the network
        frame_count: length of the sequence
        exemplars: how many exemplars are attended to at most; None for all
        spare_exemplars: whether exemplars beyond those count as ordinary frames
        batch_size: objects that are computed at once at most
        relieve: called when memory is short though objects are computed one by one; says whether it freed some
    """

    def __init__(
        self,
        model: Sam2Model,
        frame_count: int,
        *,
        exemplars: int | None,
        spare_exemplars: bool = False,
        batch_size: int,
        relieve: Callable[[], bool] = lambda: False,
    ) -> None:
        self._model = model
        self._network = model.network
        self._batch_size = batch_size
        self._padded = batch_size > 1
        self._relieve = relieve
        network = self._network
        pointers = min(frame_count, network.max_obj_ptrs_in_encoder) if network.use_obj_ptrs_in_encoder else 0
        self.rules = MemoryRules(
            maps=network.num_maskmem,
            pointers=pointers,
            stride=network.memory_temporal_stride_for_eval,
            past_only=network.only_obj_ptrs_in_the_past_for_eval,
            signed=network.use_signed_tpos_enc_to_obj_ptrs,
            exemplars=exemplars,
            spare_exemplars=spare_exemplars,
        )
        self._frame_count = frame_count

    # --- exemplars ---------------------------------------------------------------------------------------------------

    def exemplar(
        self, features: FrameFeatures, prompt: Prompt, size: tuple[int, int], keep_thin: bool = True
    ) -> Exemplar | None:
        """Makes a memory of a prompt.

        Args:
            features: of the prompt's frame
            prompt: a mask, a polygon, a box, points, or a mask with points
            size: ``(height, width)`` of the frame
            keep_thin: an object that (nearly) vanishes when its mask is scaled to the model's resolution, or to a
                quarter of it, is remembered by its strongest pixels; the official predictor loses it

        Returns:
            the exemplar, or None where the prompt has no pixel inside the frame

        Raises:
            EngineError: memory does not suffice for a single object
        """
        pixels: ObjectMask | None = None
        if prompt.mask is not None or prompt.polygon is not None:
            pixels = prompt_mask(prompt, size)
            if pixels is None:
                return None
        return within_memory(
            self._model, lambda: self._exemplar(features, prompt, pixels, size, keep_thin), self._relieve
        )

    def _exemplar(
        self, features: FrameFeatures, prompt: Prompt, pixels: ObjectMask | None, size: tuple[int, int], keep_thin: bool
    ) -> Exemplar:
        mask = None if pixels is None else self._scaled_mask(pixels.to_full(size), keep_thin)
        clicks = Clicks(prompt.points or (), prompt.point_labels or (), prompt.box)
        with self._model.computing():
            if mask is not None and prompt.points is None:
                return self._remembered(features, self._from_mask(features, mask), mask if keep_thin else None)
            before = None if mask is None else self._from_mask(features, mask).low_res
            return self._remembered(features, self._from_points(features, *self._points(clicks, size), before))

    def click(
        self, features: FrameFeatures, clicks: Clicks, size: tuple[int, int], before: FloatMap | None = None
    ) -> list[Prediction]:
        """What the model makes of clicks on a frame, without remembering anything.

        Args:
            features: of the frame
            clicks: all of them, the ones that made ``before`` as well
            size: ``(height, width)`` of the frame
            before: logits of the mask that the clicks refine, array of shape ``(S/4, S/4)``

        Returns:
            the best mask first; several where one click may mean several things
        """
        refined = None if before is None else torch.tensor(before, device=self._model.device)[None, None]
        with self._model.computing():
            found = self._from_points(features, *self._points(clicks, size), refined)
        order = torch.argsort(found.all_ious[0], descending=True, stable=True).tolist()
        logits = found.all_low_res[0].float().cpu().numpy()
        ious = found.all_ious[0].float().cpu().tolist()
        score = float(found.score)
        return [Prediction(logits[place], ious[place], score) for place in order]

    def draw(
        self, features: FrameFeatures, mask: ObjectMask, size: tuple[int, int], keep_thin: bool = True
    ) -> Prediction:
        """What the model sees of a mask that a person drew, without remembering anything; see :meth:`exemplar`."""
        with self._model.computing():
            found = self._from_mask(features, self._scaled_mask(mask.to_full(size), keep_thin))
        return Prediction(found.low_res[0, 0].float().cpu().numpy(), float(found.iou), float(found.score))

    def _scaled_mask(self, full: npt.NDArray[np.bool_], keep_thin: bool) -> torch.Tensor:
        side = self._model.image_size
        mask = torch.from_numpy(full)[None, None].float().to(self._model.device)
        if mask.shape[-2:] == (side, side):
            return mask
        scaled = functional.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        threshold = 0.5
        if keep_thin:
            threshold = min(threshold, float(scaled.max()) / 2)
        return (scaled >= threshold).float()

    def _points(self, clicks: Clicks, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates in the model's square and labels: 2 and 3 are a box's corners, which go before any point."""
        corners = [] if clicks.box is None else [clicks.box[:2], clicks.box[2:]]
        places, labels = [*corners, *clicks.points], [*(2, 3)[: len(corners)], *clicks.labels]
        scale = torch.tensor([size[1], size[0]], dtype=torch.float32)
        coordinates = torch.tensor(places, dtype=torch.float32)[None] / scale * self._model.image_size
        device = self._model.device
        return coordinates.to(device), torch.tensor([labels], dtype=torch.int32, device=device)

    def _from_mask(self, features: FrameFeatures, mask: torch.Tensor) -> _Found:
        outputs = self._network._use_mask_as_output(features.top, list(features.fine), mask)
        low_res, _, ious, _, _, pointer, score = outputs
        return _Found(low_res, ious, low_res, pointer, score)

    def _from_points(
        self, features: FrameFeatures, places: torch.Tensor, labels: torch.Tensor, before: torch.Tensor | None
    ) -> _Found:
        network, top = self._network, features.top
        points = {"point_coords": places, "point_labels": labels}
        height, width = top.shape[-2:]
        with_memory = network._prepare_memory_conditioned_features(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=[_tokens(top)],
            current_vision_pos_embeds=[_tokens(self._model.top_positions(top))],
            feat_sizes=[(height, width)],
            output_dict={},
            num_frames=self._frame_count,
        )
        prompts = self._network.sam_prompt_encoder(
            points=(places, labels), boxes=None, masks=None if before is None else self._as_mask_prompt(before)
        )
        return self._decoded(with_memory, features, prompts, network._use_multimask(True, points))

    def _as_mask_prompt(self, low_res: torch.Tensor) -> torch.Tensor:
        clamped = torch.clamp(low_res, -_CLAMP, _CLAMP)
        wanted = self._network.sam_prompt_encoder.mask_input_size
        if clamped.shape[-2:] == tuple(wanted):
            return clamped
        return functional.interpolate(clamped, size=wanted, mode="bilinear", align_corners=False, antialias=True)

    def _remembered(self, features: FrameFeatures, found: _Found, mask: torch.Tensor | None = None) -> Exemplar:
        masks = self._full_size(found.low_res)
        if mask is not None and _overlap(masks > 0, mask > 0) < _LEAST_KEPT:
            masks = mask * 2.0 - 1.0
        maps = self._memory_maps(features.top, masks, found.score, from_person=True)
        prediction = Prediction(found.low_res[0, 0].float().cpu().numpy(), float(found.iou), float(found.score))
        return Exemplar(Memory(maps, found.pointer), prediction)

    # --- tracking ----------------------------------------------------------------------------------------------------

    def step(self, frame: int, features: FrameFeatures, passes: Sequence[Pass]) -> list[Prediction]:
        """Finds the objects of all passes on one frame and remembers what was found.

        Args:
            frame: its index
            features: its features
            passes: the objects; each has an exemplar

        Returns:
            a prediction for each pass, in their order

        Raises:
            EngineError: memory does not suffice for a single object
        """
        attended = [one.attended(frame, self.rules) for one in passes]
        groups: dict[tuple[int, int], list[int]] = {}
        for place, found in enumerate(attended):
            groups.setdefault(found.shape, []).append(place)
        predictions: dict[int, Prediction] = {}
        with self._model.computing():
            shared = within_memory(self._model, lambda: self._shared_attention(features), self._relieve)
            for places in groups.values():
                done = 0
                while done < len(places):
                    batch = places[done : done + self._batch_size]
                    results = self._batch(features, shared, [attended[place] for place in batch])
                    if results is None:
                        continue
                    for place, (prediction, memory) in zip(batch, results, strict=True):
                        predictions[place] = prediction
                        passes[place].remember(frame, memory, self.rules)
                    done += len(batch)
        return [predictions[place] for place in range(len(passes))]

    def _batch(
        self, features: FrameFeatures, shared: _Shared, attended: list[Attended]
    ) -> list[tuple[Prediction, Memory]] | None:
        """The results of one batch; None where memory was short and the batch size went down."""
        try:
            return list(self._computed(features, shared, attended))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = error
        # Outside the handler: the traceback holds on to the tensors that were in the way.
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(attended) > 1:
            self._batch_size = max(1, len(attended) // 2)
            logger.warning("Memory is short: objects are tracked at most %d at a time now.", self._batch_size)
            return None
        if self._relieve():
            return None
        raise _too_little_memory(self._model) from reason

    def _computed(
        self, features: FrameFeatures, shared: _Shared, attended: list[Attended]
    ) -> Iterator[tuple[Prediction, Memory]]:
        count = len(attended)
        if self._padded:
            # A few fixed sizes: compiled graphs and tuned kernels are used again. What is added is thrown away.
            size = next((size for size in _BATCH_SIZES if size >= count), count)
            attended = attended + [attended[-1]] * (min(size, self._batch_size) - count)
        memory, positions, pointer_tokens = self._memories(attended)
        top = self._attend(shared, memory, positions, pointer_tokens)
        prompts = self._no_prompts(len(attended))
        found = self._decoded(top, features, prompts, self._network._use_multimask(False, None))
        maps = self._memory_maps(features.top, self._full_size(found.low_res), found.score, from_person=False)
        logits = found.low_res[:count, 0].float().cpu().numpy()
        ious = found.iou[:count].float().cpu().tolist()
        scores = found.score[:count, 0].float().cpu().tolist()
        for place in range(count):
            yield (
                Prediction(logits[place], ious[place], scores[place], attended[place].exemplars),
                Memory(maps[place : place + 1], found.pointer[place : place + 1]),
            )

    def _memories(self, attended: list[Attended]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Everything that a batch attends to: tokens and their positions, of shape ``(n, B, Cm)``, pointers last."""
        network, size = self._network, len(attended)
        device = self._model.device
        # Memories are bfloat16 whatever the model computes with; autocast to float16 does not put those together.
        with torch.autocast(device.type, enabled=False):
            maps = torch.stack(
                [torch.cat([found.maps[slot][1] for found in attended]) for slot in range(len(attended[0].maps))]
            )
        slots, _, channels, height, width = maps.shape
        tokens = [maps.permute(0, 3, 4, 1, 2).reshape(slots * height * width, size, channels).to(torch.float32)]
        t_pos = torch.tensor([[found.maps[slot][0] for found in attended] for slot in range(slots)], device=device)
        times = network.maskmem_tpos_enc[network.num_maskmem - t_pos - 1].view(slots, 1, size, channels)
        places = self._model.memory_positions(maps[0, :1]).flatten(2).permute(2, 0, 1)
        positions = [(places.unsqueeze(0) + times).reshape(slots * height * width, size, channels)]
        pointer_tokens = 0
        if attended[0].pointers:
            pointers = torch.stack(
                [torch.cat([p[1] for p in slot]) for slot in zip(*(f.pointers for f in attended), strict=True)]
            )
            distances = torch.tensor([[p[0] for p in found.pointers] for found in attended], device=device).T
            parts = pointers.shape[2] // channels
            split = pointers.reshape(-1, size, parts, channels).permute(0, 2, 1, 3).flatten(0, 1)
            tokens.append(split)
            positions.append(self._pointer_positions(distances, channels).repeat_interleave(parts, dim=0))
            pointer_tokens = split.shape[0]
        return torch.cat(tokens), torch.cat(positions), pointer_tokens

    def _pointer_positions(self, distances: torch.Tensor, channels: int) -> torch.Tensor:
        """Array of shape ``(pointers, B, Cm)`` for distances of shape ``(pointers, B)``."""
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        network = self._network
        if not network.add_tpos_enc_to_obj_ptrs:
            return torch.zeros((*distances.shape, channels), device=distances.device)
        furthest = max(1, self.rules.pointers - 1)
        dimensions = network.hidden_dim if network.proj_tpos_enc_in_obj_ptrs else channels
        encoded = get_1d_sine_pe(distances.reshape(-1) / furthest, dim=dimensions)
        projected: torch.Tensor = network.obj_ptr_tpos_proj(encoded)
        return projected.reshape(*distances.shape, channels)

    def _shared_attention(self, features: FrameFeatures) -> _Shared:
        """What memory attention computes before it looks at any memory, which is the same for all objects."""
        attention = self._network.memory_attention
        tokens, places = _tokens(features.top), _tokens(self._model.top_positions(features.top))
        if attention.pos_enc_at_input:
            tokens = tokens + 0.1 * places
        if attention.batch_first:
            tokens, places = tokens.transpose(0, 1), places.transpose(0, 1)
        return _Shared(attention.layers[0]._forward_sa(tokens, places), places)

    def _attend(
        self, shared: _Shared, memory: torch.Tensor, positions: torch.Tensor, pointer_tokens: int
    ) -> torch.Tensor:
        """The frame's features conditioned on the memories; array of shape ``(B, C, h, w)``."""
        attention = self._network.memory_attention
        batch = memory.shape[1]
        if attention.batch_first:
            memory, positions = memory.transpose(0, 1), positions.transpose(0, 1)
        along = 0 if attention.batch_first else 1
        tokens = shared.tokens.repeat_interleave(batch, dim=along) if batch > 1 else shared.tokens
        places = shared.places.expand(batch, -1, -1) if attention.batch_first else shared.places.expand(-1, batch, -1)
        answer = self._model.attend(tokens, places, memory, positions, pointer_tokens)
        if attention.batch_first:
            answer = answer.transpose(0, 1)
        side = int(answer.shape[0] ** 0.5)
        return answer.permute(1, 2, 0).view(batch, -1, side, side)

    # --- both --------------------------------------------------------------------------------------------------------

    def _no_prompts(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = self._model.empty_prompts()
        return sparse.expand(batch, -1, -1), dense.expand(batch, -1, -1, -1)

    def _decoded(
        self,
        top: torch.Tensor,
        features: FrameFeatures,
        prompts: tuple[torch.Tensor, torch.Tensor],
        multimask: bool,
    ) -> _Found:
        network = self._network
        low_res, ious, tokens, score = network.sam_mask_decoder(
            image_embeddings=top,
            image_pe=network.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[0],
            dense_prompt_embeddings=prompts[1],
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=list(features.fine) or None,
        )
        if network.pred_obj_scores:
            low_res = torch.where((score > 0)[:, None, None], low_res, NO_OBJECT)
        low_res = low_res.float()
        token = tokens[:, 0]
        best, best_iou = low_res[:, :1], ious[:, 0]
        if multimask:
            # The others are not needed at full size.
            rows, places = torch.arange(low_res.shape[0], device=low_res.device), torch.argmax(ious, dim=-1)
            best, best_iou = low_res[rows, places].unsqueeze(1), ious[rows, places]
            if tokens.shape[1] > 1:
                token = tokens[rows, places]
        return _Found(low_res, ious, best, self._pointer(token, score), score, best_iou)

    def _pointer(self, token: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        network = self._network
        pointer: torch.Tensor = network.obj_ptr_proj(token)
        if network.pred_obj_scores:
            there = score.sigmoid() if network.soft_no_obj_ptr else (score > 0).float()
            if network.fixed_no_obj_ptr:
                pointer = there * pointer
            pointer = pointer + (1 - there) * network.no_obj_ptr
        return pointer

    def _full_size(self, low_res: torch.Tensor) -> torch.Tensor:
        """Logits of shape ``(B, 1, S/4, S/4)`` at the image size."""
        side = self._model.image_size
        return functional.interpolate(low_res.float(), size=(side, side), mode="bilinear", align_corners=False)

    def _memory_maps(
        self, top: torch.Tensor, masks: torch.Tensor, score: torch.Tensor, *, from_person: bool
    ) -> torch.Tensor:
        """The memory encoder's maps, array of shape ``(B, Cm, h, w)``, bfloat16, of logits at the image size."""
        maps, _ = self._network._encode_new_memory(
            current_vision_feats=[_tokens(top).expand(-1, masks.shape[0], -1)],
            feat_sizes=[top.shape[-2:]],
            pred_masks_high_res=masks,
            object_score_logits=score,
            is_mask_from_pts=from_person,
        )
        halved: torch.Tensor = maps.to(torch.bfloat16)
        return halved


@dataclass(frozen=True)
class _Shared:
    """Tokens of one frame and their positions, of shape ``(1, hw, C)``, after the first layer's self-attention."""

    tokens: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class _Found:
    """What the mask decoder answers for ``B`` objects, ``M`` candidates each."""

    all_low_res: torch.Tensor
    all_ious: torch.Tensor
    low_res: torch.Tensor
    pointer: torch.Tensor
    score: torch.Tensor
    best_iou: torch.Tensor | None = None

    @property
    def iou(self) -> torch.Tensor:
        """Of the chosen candidate; array of shape ``(B,)``."""
        return self.all_ious[:, 0] if self.best_iou is None else self.best_iou


def _overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def within_memory(model: Sam2Model, compute: Callable[[], _Made], relieve: Callable[[], bool]) -> _Made:
    """What ``compute`` returns; where memory is short, ``relieve`` frees some until it suffices.

    Args:
        model: what computes
        compute: called again after each time that memory was short
        relieve: says whether it freed some

    Raises:
        EngineError: there was nothing left to free
    """
    while True:
        try:
            return compute()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = error
        # Outside the handler: the traceback holds on to the tensors that were in the way.
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        if not relieve():
            raise _too_little_memory(model) from reason
        del reason


def _too_little_memory(model: Sam2Model) -> EngineError:
    return EngineError(
        f"There is not enough memory on {model.device} to track a single object. Pass a smaller image_size (it is "
        f"{model.image_size}), a smaller model (it is {model.info.name}), or device='cpu'."
    )


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    """``(B, C, h, w)`` as ``(hw, B, C)``."""
    return maps.flatten(2).permute(2, 0, 1)


def batch_sizes(model: Sam2Model, asked: int | None) -> int:
    """Objects to compute at once: what was asked for, else what pays on the model's device."""
    if asked is not None:
        return asked
    return 1 if model.device.type == "cpu" else 16


__all__ = ["NO_OBJECT", "Clicks", "Exemplar", "Prediction", "Tracker", "batch_sizes", "within_memory"]
