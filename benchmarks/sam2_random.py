"""Seeded random weights of SAM 2, and the official predictor with the same ones.

Speed, memory and numerical equality do not depend on training. Random heads say that no object is there, and masks that
are all of one sign say little; so two heads are rescaled until objects appear and mask logits spread around zero.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from labelprop_cvat.propagation.sam2.model import build_model
from labelprop_cvat.propagation.sam2.weights import model_info

DEFAULT_MODEL = "sam2.1_hiera_tiny"

_MASK_STD = 3.0
_OBJECT_BIAS = 2.0
_SURELY = 100.0


def random_state(model: str = DEFAULT_MODEL, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a model as its constructor makes them after ``torch.manual_seed(seed)``, heads rescaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build_model(model_info(model), image_size=256)
    state = {name: value.detach().clone() for name, value in built.state_dict().items()}
    _make_objects_appear(built, state)
    return state


def random_checkpoint(path: str | os.PathLike[str], model: str = DEFAULT_MODEL, seed: int = 0) -> Path:
    """Writes random weights as an official checkpoint, ``{"model": state}``; returns the path."""
    target = Path(path)
    torch.save({"model": random_state(model, seed)}, target)
    return target


def random_official_predictor(image_size: int = 256, model: str = DEFAULT_MODEL, seed: int = 0) -> Any:
    """The official ``SAM2VideoPredictor`` with the same weights, on the CPU.

    Its crash on memories that are all bfloat16 (an object that is first prompted after the start frame) is mended, as
    nothing could be compared otherwise.
    """
    from sam2.build_sam import build_sam2_video_predictor

    overrides = [f"++model.image_size={image_size}"]
    predictor = build_sam2_video_predictor(
        model_info(model).config, ckpt_path=None, device="cpu", hydra_overrides_extra=overrides
    )
    predictor.load_state_dict(random_state(model, seed))
    attend = predictor.memory_attention.forward

    def in_its_own_type(*, memory: torch.Tensor, memory_pos: torch.Tensor, **others: Any) -> torch.Tensor:
        kind = others["curr"][0].dtype
        answer: torch.Tensor = attend(memory=memory.to(kind), memory_pos=memory_pos.to(kind), **others)
        return answer

    predictor.memory_attention.forward = in_its_own_type
    return predictor


def _make_objects_appear(built: Any, state: dict[str, torch.Tensor]) -> None:
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    picture = torch.nn.functional.interpolate(noise, size=256, mode="bicubic") * 2.0 - 1.0
    bias = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    with torch.inference_mode():
        # Where no object is seen, all logits are the same, and there is nothing to measure.
        built.sam_mask_decoder.pred_obj_score_head.layers[2].bias += _SURELY
        *fine, top = built.forward_image(picture)["backbone_fpn"]
        logits, *_, score = built._forward_sam_heads(top, high_res_features=fine, multimask_output=True)
    scale = _MASK_STD / float(logits.std(dim=(2, 3)).mean())
    last_layers = [name for name in state if "output_hypernetworks_mlps" in name and ".layers.2." in name]
    for name in last_layers:
        state[name] *= scale
    state[bias] += max(_OBJECT_BIAS, _OBJECT_BIAS - (float(score) - _SURELY))
