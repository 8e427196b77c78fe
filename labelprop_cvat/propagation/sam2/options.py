"""What a user can set of the engine ``sam2``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from labelprop_cvat.errors import ConfigurationError

DEFAULT_MODEL = "sam2.1_hiera_tiny"
DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SEMANTICS = ("exemplars", "official")
OVERLAPS = ("resolve", "keep")
SIZE_STEP = 32


@dataclass(frozen=True)
class Sam2Options:
    """Options of the engine ``sam2``.

    Args:
        model: which of the official models, such as ``"sam2.1_hiera_tiny"`` or ``"large"``. ``"auto"`` takes what the
            checkpoint is; where none is named, :data:`DEFAULT_MODEL`, or the smallest one that is on this machine
        checkpoint: path of the weights; None looks for the model's own file, and downloads it where it is not there
        image_size: side in pixels of the square that frames are scaled to, a multiple of 32. 1024 is what the models
            were trained at; less is faster and coarser. Multiples of 224 (448, 672, 896) waste nothing on padding
        device: ``"auto"`` takes CUDA, else MPS, else the CPU; or a device of PyTorch such as ``"cuda:1"``
        dtype: numbers that the model computes with. ``"auto"`` is bfloat16 on CUDA devices that have it, else float32
        semantics: ``"exemplars"``: each object is followed from each of its exemplars, with a memory of its own for
            each pass. ``"official"``: what SAM 2's own video predictor does: one pass forward from the earliest prompt
            of any object and one backward from there, with one memory for both; for comparisons
        max_exemplars: how many exemplars of an object a frame attends to, the closest ones; None for all. At least 2
        window: frames whose image features are held in memory, at least 2; 16.8 MB each at 1024
        disk_gib: image features of long gaps between exemplars go to a temporary file of at most this size, so that no
            frame is encoded twice; beyond it they are computed anew. It lies where ``TMPDIR`` says: name a disk there
            where ``/tmp`` is held in memory. None is 8 on the CPU, where encoding costs
            seconds, and 0 elsewhere, where it costs less than reading them back
        batch_size: objects that are tracked at once at most. None is 16 on GPUs, and 1 on the CPU, where more is no
            faster
        compile: compile the model's large parts with ``torch.compile``; the first frames then take minutes
        int8: 8-bit weights in the image encoder, on the CPU only: faster, a little less exact
        fill_holes: holes of at most so many pixels are filled, counted in the model's masks, which have a quarter of
            the image size; 0 for none. The official predictor fills up to 8, where its compiled part is installed
        overlaps: ``"resolve"``: each pixel goes to the object that is surest of it; ``"keep"``: masks may overlap
        masks_from_boxes: answer the masks of objects that were prompted by boxes, instead of boxes
        min_confidence: what is less sure is left out, in [0, 1)

    Raises:
        ConfigurationError: a value is out of range
    """

    model: str = "auto"
    checkpoint: str | os.PathLike[str] | None = None
    image_size: int = 1024
    device: str = "auto"
    dtype: str = "auto"
    semantics: str = "exemplars"
    max_exemplars: int | None = 4
    window: int = 24
    disk_gib: float | None = None
    batch_size: int | None = None
    compile: bool = False
    int8: bool = False
    fill_holes: int = 8
    overlaps: str = "resolve"
    masks_from_boxes: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        if not (self.checkpoint is None or isinstance(self.checkpoint, str | os.PathLike)):
            raise ConfigurationError(f"checkpoint must be the path of a file, got {self.checkpoint!r}.")
        for name in ("compile", "int8", "masks_from_boxes"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("semantics", self.semantics, SEMANTICS)
        _check_choice("overlaps", self.overlaps, OVERLAPS)
        if not _is_device(self.device):
            raise ConfigurationError(
                f"device must be one of {', '.join(DEVICES)} or like 'cuda:1', got {self.device!r}."
            )
        if not _is_whole(self.image_size) or self.image_size < 2 * SIZE_STEP or self.image_size % SIZE_STEP:
            raise ConfigurationError(
                f"image_size must be a multiple of {SIZE_STEP} from {2 * SIZE_STEP}, got {self.image_size!r}. "
                f"Multiples of 224 fit the model best: 448, 672, 896."
            )
        if self.max_exemplars is not None and (not _is_whole(self.max_exemplars) or self.max_exemplars < 2):
            raise ConfigurationError(
                f"max_exemplars must be at least 2 (the ones before and behind a frame) or None for all, "
                f"got {self.max_exemplars!r}."
            )
        if not _is_whole(self.window) or self.window < 2:
            raise ConfigurationError(f"window must be a number of frames from 2, got {self.window!r}.")
        if self.batch_size is not None and (not _is_whole(self.batch_size) or self.batch_size < 1):
            raise ConfigurationError(f"batch_size must be a number of objects from 1, got {self.batch_size!r}.")
        if self.disk_gib is not None and not (_is_number(self.disk_gib) and self.disk_gib >= 0):
            raise ConfigurationError(f"disk_gib must be a number from 0, got {self.disk_gib!r}.")
        if not _is_whole(self.fill_holes) or self.fill_holes < 0:
            raise ConfigurationError(f"fill_holes must be a number of pixels from 0, got {self.fill_holes!r}.")
        if not _is_number(self.min_confidence) or not 0.0 <= self.min_confidence < 1.0:
            raise ConfigurationError(f"min_confidence must lie in [0, 1), got {self.min_confidence!r}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_device(value: object) -> bool:
    name, colon, number = value.partition(":") if isinstance(value, str) else ("", "", "")
    return name in DEVICES and (not colon or (name != "auto" and number.isdecimal()))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


__all__ = ["DEFAULT_MODEL", "Sam2Options"]
