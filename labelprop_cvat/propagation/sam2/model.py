"""The SAM 2 network itself: made, loaded, placed on a device, and asked for the features of frames."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image as PILImage

from labelprop_cvat.errors import ConfigurationError, EngineError
from labelprop_cvat.propagation.frames import Image
from labelprop_cvat.propagation.sam2.options import DEFAULT_MODEL, Sam2Options
from labelprop_cvat.propagation.sam2.weights import (
    ModelInfo,
    check_state,
    fetch_checkpoint,
    find_checkpoint,
    model_at_hand,
    model_info,
    read_state,
    recognise,
)

logger = logging.getLogger(__name__)

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

Progress = Callable[[int, int], None]
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class FrameFeatures:
    """What the image encoder says about one frame, on the model's device.

    Args:
        top: array of shape ``(1, C, S/16, S/16)``, ``S`` being the image size: what objects attend to
        fine: maps of the two finer levels for the mask decoder, ``(1, C/8, S/4, S/4)`` and ``(1, C/4, S/8, S/8)``; none
            where the model does not use them
    """

    top: torch.Tensor
    fine: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(part.numel() * part.element_size() for part in (self.top, *self.fine))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All parts, the top first."""
        return (self.top, *self.fine)


class Sam2Model:
    """One set of weights on one device. It holds no state between frames.

    Args:
        network: a ``sam2.modeling.sam2_base.SAM2Base`` in evaluation mode, on its device
        info: which model it is
        dtype: numbers to compute with; other than float32 means autocast
    """

    def __init__(self, network: Any, info: ModelInfo, dtype: torch.dtype = torch.float32) -> None:
        self.network = network
        self.info = info
        self.dtype = dtype
        self.device: torch.device = network.device
        self.image_size: int = network.image_size
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        self._constants: dict[str, Any] = {}
        # On the CPU every operation uses all cores by itself: two threads at once would only get into each other's way.
        self._turn = threading.RLock() if self.device.type == "cpu" else nullcontext()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Everything that the network does happens inside: no gradients, numbers of the model's type."""
        autocast = nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, dtype=self.dtype)
        with self._turn, torch.inference_mode(), autocast:
            yield

    @property
    def official_most_exemplars(self) -> int | None:
        """How many exemplars the official predictor attends to at most; None for all."""
        most = int(self.network.max_cond_frames_in_attn)
        return None if most == -1 else most

    def prepare(self, image: Image) -> torch.Tensor:
        """Scales a frame as SAM 2 does (bicubic, to a square).

        Args:
            image: array of shape ``(H, W, 3)``, uint8, RGB

        Returns:
            array of shape ``(1, 3, S, S)``, uint8, on the CPU
        """
        side = self.image_size
        scaled = np.asarray(PILImage.fromarray(image).resize((side, side)))
        return torch.from_numpy(scaled.copy()).permute(2, 0, 1).unsqueeze(0)

    def encode(self, prepared: torch.Tensor) -> FrameFeatures:
        """The features of a frame that :meth:`prepare` made; the costly part of a frame."""
        with self.computing():
            pixels = prepared.to(self.device, non_blocking=True).float() / 255.0
            encoded = self.network.forward_image((pixels - self._mean) / self._std)
            *fine, top = encoded["backbone_fpn"][-self.network.num_feature_levels :]
        return FrameFeatures(top, tuple(fine))

    def top_positions(self, top: torch.Tensor) -> torch.Tensor:
        """Positions of the top level's places, of the shape of ``top``; the same on every frame."""
        encoding: Any = self.network.image_encoder.neck.position_encoding
        positions: torch.Tensor = self._once("top", lambda: encoding(top).to(top.dtype))
        return positions

    def memory_positions(self, maps: torch.Tensor) -> torch.Tensor:
        """Positions of a memory map's places, array of shape ``(1, Cm, h, w)``; the same on every frame."""
        encoding: Any = self.network.memory_encoder.position_encoding
        positions: torch.Tensor = self._once("memory", lambda: encoding(maps.float()))
        return positions

    def empty_prompts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the prompt encoder makes of no prompt at all: sparse and dense embeddings of one object."""

        def encoded() -> tuple[torch.Tensor, torch.Tensor]:
            nowhere = torch.zeros(1, 1, 2, device=self.device)
            label = -torch.ones(1, 1, dtype=torch.int32, device=self.device)
            sparse, dense = self.network.sam_prompt_encoder(points=(nowhere, label), boxes=None, masks=None)
            return sparse, dense

        return self._once("prompts", encoded)

    def attend(
        self,
        tokens: torch.Tensor,
        places: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        pointer_tokens: int,
    ) -> torch.Tensor:
        """Memory attention after the self-attention of its first layer.

        Args:
            tokens: the frame, array of shape ``(B, hw, C)``
            places: their positions, of the same shape
            memory: array of shape ``(B, n, Cm)``, object pointers last
            positions: of the same shape
            pointer_tokens: how many of the ``n`` belong to object pointers

        Returns:
            array of the shape of ``tokens``
        """
        attention = self.network.memory_attention
        for number, layer in enumerate(attention.layers):
            if number > 0:
                tokens = layer._forward_sa(tokens, places)
            tokens = layer._forward_ca(tokens, memory, places, positions, pointer_tokens)
            tokens = tokens + layer.linear2(layer.activation(layer.linear1(layer.norm3(tokens))))
        normed: torch.Tensor = attention.norm(tokens)
        return normed

    def _once(self, name: str, make: Callable[[], _Made]) -> _Made:
        if name not in self._constants:
            self._constants[name] = make()
        made: _Made = self._constants[name]
        return made


def load_model(options: Sam2Options, progress: Progress | None = None) -> Sam2Model:
    """Finds, or downloads, and loads the weights that the options name.

    Args:
        options: which model, which file, where to
        progress: called with bytes done and bytes in all while weights are downloaded

    Raises:
        ConfigurationError: a package is missing, there is no such device, or the file is not what it should be
        EngineError: the weights can't be downloaded
    """
    check_packages()
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    if options.int8 and device.type != "cpu":
        raise ConfigurationError(f"int8=True is for the CPU, but the device is {device}. Leave it out.")
    info, path, state = _weights(options, progress)
    network = build_model(info, options.image_size)
    check_state(state, {name: tuple(value.shape) for name, value in network.state_dict().items()}, info, path)
    network.load_state_dict(state)
    del state
    try:
        network.to(device)
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"The weights of {info.name} ({path.stat().st_size / 2**20:.0f} MiB) do not fit on {device}. Free memory "
            f"there, or take a smaller model or device='cpu'."
        ) from error
    if options.int8:
        _quantise(network)
    model = Sam2Model(network, info, dtype)
    if options.compile:
        _compile(model)
    logger.info("SAM 2: %s from %s on %s, %s, at %d px.", info.name, path, device, dtype, options.image_size)
    return model


def build_model(info: ModelInfo, image_size: int) -> Any:
    """The network without weights, in evaluation mode, on the CPU.

    It has the settings of the official video predictor. Hydra's global state is not touched, as the program around
    this one may use Hydra for itself.

    Args:
        info: which model
        image_size: side in pixels of the square that frames are scaled to
    """
    check_packages()
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__path__[0]) / info.config)
    settings = {
        "model._target_": "sam2.modeling.sam2_base.SAM2Base",
        "model.image_size": image_size,
        "model.compile_image_encoder": False,
        "model.binarize_mask_from_pts_for_mem_enc": True,
        "model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability": True,
        "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": 0.05,
        "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": 0.98,
    }
    for key, value in settings.items():
        OmegaConf.update(config, key, value, force_add=True)
    return instantiate(config.model, _recursive_=True).eval()


def check_packages() -> None:
    """Raises a :class:`ConfigurationError` that tells what to install where SAM 2 can't run."""
    missing = [name for name in ("sam2", "hydra", "iopath") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"The engine 'sam2' needs packages that are not installed: {', '.join(missing)}. Install them with: "
            f"pip install 'labelprop-cvat[sam2]', or, where torchvision does not work, as docs/sam2.md says."
        )


def pick_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigurationError: there is no such device here
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(name)
    there = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there[device.type]:
        known = ", ".join([*(f"cuda:{n}" for n in range(torch.cuda.device_count())), *(["mps"] * mps), "cpu"])
        raise ConfigurationError(f"This machine, or this build of PyTorch, has no device {name!r}; it has {known}.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The numbers to compute with on a device; ``"auto"`` is bfloat16 on CUDA devices that have it, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return torch.bfloat16 if fast else torch.float32


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch or Python says that memory is short, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))


def named_model(options: Sam2Options) -> ModelInfo:
    """The model that the options name; ``"auto"`` is one that is on this machine, if any is.

    What a checkpoint of the user's own holds is only known when it is read.
    """
    if options.model != "auto":
        return model_info(options.model)
    return model_info(DEFAULT_MODEL) if options.checkpoint is not None else model_at_hand(DEFAULT_MODEL)


def _weights(options: Sam2Options, progress: Progress | None) -> tuple[ModelInfo, Path, Mapping[str, torch.Tensor]]:
    info = named_model(options)
    path = find_checkpoint(info, options.checkpoint) or fetch_checkpoint(info, progress=progress)
    state = read_state(path)
    if options.model == "auto" and options.checkpoint is not None:
        info = recognise(state) or info
    return info, path, state


def _quantise(network: Any) -> None:
    try:
        quantise: Any = importlib.import_module("torch.ao.quantization").quantize_dynamic
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"int8=True needs torch.ao.quantization, which PyTorch {torch.__version__} does not have ({error}). "
            f"Leave int8 out."
        ) from error
    with warnings.catch_warnings():
        # Whoever asks for 8 bits can do nothing about how PyTorch will make them in future.
        warnings.filterwarnings("ignore", message=r"torch\.(ao\.)?quantiz")
        network.image_encoder = quantise(network.image_encoder, {torch.nn.Linear}, dtype=torch.qint8)


def _compile(model: Sam2Model) -> None:
    logger.info("SAM 2 is being compiled: the first frames take minutes, those after them are faster.")
    network = model.network
    network.image_encoder.forward = torch.compile(network.image_encoder.forward, dynamic=False)
    # Batches are padded to a few sizes; what varies from frame to frame is the number of memories.
    model.attend = torch.compile(model.attend, dynamic=True)  # type: ignore[method-assign]


__all__ = [
    "FrameFeatures",
    "Sam2Model",
    "build_model",
    "check_packages",
    "is_out_of_memory",
    "load_model",
    "named_model",
    "pick_device",
    "pick_dtype",
]
