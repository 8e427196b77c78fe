"""Reads checkpoints of SAM 2 and says what is wrong with those that are none."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.sam2._models import MODELS, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor

_EXPECTED = "Expected weights of SAM 2: a .pt file as Meta publishes them, or as its training code saves them"
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")

# Channels and blocks of the image encoder tell the sizes apart. One tensor is in both versions, two are in 2.1 only.
_PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
_SIZES = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
_BOTH = "no_obj_ptr"
_ONLY_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight")


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights in a file, by their names in the model. No code in the file is run.

    Taken are the official layout ``{"model": weights}``, whatever else a training run put beside it; weights alone;
    names that all begin with ``module.`` (training on several devices) or ``_orig_mod.`` (compiled); and
    ``.safetensors`` files where that package is installed. Tensors may be views of the file: it must not be changed
    while they are used.

    Args:
        path: the file

    Raises:
        ConfigurationError: it cannot be read, or is something else
    """
    path = Path(path)
    start = _start(path)
    if path.suffix == ".safetensors":
        return _weights_in(_read_safetensors(path), path)
    return _weights_in(_read_torch(path, zipped=start.startswith(b"PK")), path)


def recognise(state: Mapping[str, Tensor]) -> ModelInfo | None:
    """Which model the weights belong to, by their names and shapes; None where they do not tell."""
    if _BOTH not in state:
        return None
    found = _size(state), "2.1" if any(name in state for name in _ONLY_2_1) else "2.0"
    return next((info for info in MODELS.values() if (info.size, info.version) == found), None)


def check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], info: ModelInfo, path: str | os.PathLike[str]
) -> None:
    """Raises an error where weights do not fit a model, which says what they are where that can be told.

    Args:
        state: the weights, as :func:`read_state` gives them
        expected: the shape of every tensor of the model, by its name
        info: the model
        path: the file, for the message

    Raises:
        ConfigurationError: tensors are missing, unknown, of another shape, not of floating-point numbers, or hold
            values that are no numbers
    """
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    misshaped = [
        f"{name}: {_shape(expected[name])} expected, {_shape(value.shape)} found"
        for name, value in state.items()
        if name in expected and tuple(value.shape) != tuple(expected[name])
    ]
    if missing or unknown or misshaped:
        message = _what_it_is(state, info, path)
        if recognise(state) in (None, info):
            # Two models differ everywhere, which tells nothing.
            message += _differences(missing, unknown, misshaped, expected)
        raise ConfigurationError(message.rstrip())
    _check_numbers(state, path)


def _size(state: Mapping[str, Tensor]) -> str | None:
    patches = state.get(_PATCHES)
    blocks = {int(match[1]) for name in state if (match := _BLOCK.match(name))}
    return _SIZES.get((patches.shape[0], max(blocks) + 1)) if patches is not None and patches.ndim and blocks else None


def _start(path: Path) -> bytes:
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder. {_EXPECTED}: name the file itself.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}. {_EXPECTED}.") from error
    other = _something_else(start)
    if other:
        raise ConfigurationError(f"{path} is {other}. {_EXPECTED}.")
    return start


def _something_else(start: bytes) -> str | None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "empty (0 bytes): its download was cut short. Delete it and get it again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, a note that stands for the real file. Get that with: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page, saved under this name, such as an error or a login page. Download the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "compressed. Unpack it first"
    return None


def _read_torch(path: Path, *, zipped: bool) -> object:
    import torch

    if not zipped and not _is_old_torch_file(path):
        raise ConfigurationError(f"{path} is not a file of PyTorch. {_EXPECTED}.")
    try:
        other = _other_archive(path) if zipped else None
        if other is None:
            with _plain_types():
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ConfigurationError(_why_not_loaded(path, str(error))) from None
    except Exception as error:
        # Damaged bytes can raise anything.
        raise ConfigurationError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or damaged: PyTorch cannot read it "
            f"({_first_line(error)}). {_EXPECTED}. Get it again."
        ) from error
    raise ConfigurationError(f"{path} is {other}. {_EXPECTED}.")


def _other_archive(path: Path) -> str | None:
    """What a zip file is when it is not the kind that holds weights; None where it is."""
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in inside):
        return "a TorchScript program, not weights alone"
    return None if any(name.endswith("/data.pkl") for name in inside) else "an archive, but not one of PyTorch"


def _is_old_torch_file(path: Path) -> bool:
    """Whether a file is of the format before PyTorch 1.6: a pickle, which has to say so."""
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _why_not_loaded(path: Path, reason: str) -> str:
    named = re.search(r"\bGLOBAL ([\w.]+)", reason)
    if named is None:
        return f"{path} is damaged, or was not written by PyTorch. {_EXPECTED}. Get it again."
    return (
        f"{path} holds more than weights ({named[1]}), and reading that could run code from the file: refused. "
        f"{_EXPECTED}. If you trust where it comes from, write the weights alone to a new file: "
        f"""python -c "import torch; s = torch.load('{path.name}', map_location='cpu', weights_only=False); """
        f"""torch.save({{'model': s['model']}}, 'weights.pt')\""""
    )


@contextmanager
def _plain_types() -> Iterator[None]:
    """Inside, types that training runs leave beside the weights can be read: numbers and settings that run nothing."""
    import argparse

    import numpy as np
    import torch

    core = import_module(
        "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core.multiarray"
    )
    allowed: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
    allowed += [type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"]
    for home in ("numpy._core.multiarray", "numpy.core.multiarray"):
        allowed += [(core.scalar, f"{home}.scalar"), (core._reconstruct, f"{home}._reconstruct")]
    with torch.serialization.safe_globals(allowed):
        yield


def _read_safetensors(path: Path) -> object:
    try:
        reader = import_module("safetensors.torch")
    except ImportError as error:
        raise ConfigurationError(
            f"{path} is a safetensors file, and the package that reads those is not installed: pip install safetensors"
        ) from error
    try:
        return reader.load_file(path)
    except Exception as error:
        raise ConfigurationError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or damaged: safetensors cannot read it "
            f"({_first_line(error)}). Get it again."
        ) from error


def _weights_in(content: object, path: Path) -> dict[str, Tensor]:
    import torch

    where = "top level"
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content, where = content[wrapper], f"entry {wrapper!r}"
            break
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{path} holds a {type(content).__name__}, no weights by name. {_EXPECTED}.")
    strange = [
        f"{name!r} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, torch.Tensor)
    ]
    if strange or not content:
        found = (
            f"{len(strange)} of {len(content)} entries are no tensors: {_some(strange)}" if content else "it is empty"
        )
        raise ConfigurationError(f"{path} holds no weights by name at its {where}: {found}. {_EXPECTED}.")
    state = {str(name): value for name, value in content.items()}
    while prefix := next((start for start in _PREFIXES if all(name.startswith(start) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _what_it_is(state: Mapping[str, Tensor], info: ModelInfo, path: str | os.PathLike[str]) -> str:
    found = recognise(state)
    if found is not None and found != info:
        return (
            f"{path} holds the weights of {found.name}, but model={info.name!r} was asked for. Pass "
            f"model={found.name!r}, or model='auto', which takes what the checkpoint is. "
        )
    if found is not None:
        return f"{path} holds weights of {found.name}, but not exactly those: a changed model, or only a part of it. "
    if _size(state) is not None:
        return f"{path} holds only a part of a SAM 2 model of size {_size(state)}. Expected all of {info.name}. "
    if any(name.startswith("vision_encoder.") for name in state):
        layout = "in the layout of Hugging Face Transformers"
        return f"{path} holds weights {layout}. Take the .pt file that lies beside it: {info.url}. "
    if any(name.startswith("image_encoder.blocks.") for name in state):
        return f"{path} holds weights of the first Segment Anything, which knows no video. Take {info.url}. "
    return f"{path} does not hold weights of SAM 2. Expected those of {info.name}, as in {info.url}. "


def _differences(
    missing: Sequence[str], unknown: Sequence[str], misshaped: Sequence[str], expected: Mapping[str, tuple[int, ...]]
) -> str:
    parts = []
    if missing:
        parts.append(f"missing: {len(missing)} of {len(expected)} tensors ({_some(missing)})")
    if unknown:
        parts.append(f"unknown: {len(unknown)} ({_some(unknown)})")
    if misshaped:
        parts.append(f"of another shape: {len(misshaped)} ({_some(misshaped)})")
    return f"In detail, {'; '.join(parts)}."


def _check_numbers(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    for name, value in state.items():
        if not value.is_floating_point():
            raise ConfigurationError(
                f"{path}: {name} holds {str(value.dtype).removeprefix('torch.')}, expected floating-point numbers. "
                f"Quantised weights cannot be loaded; take the ones they were made from."
            )
        # The extremes are not finite where any value is not, and finding them takes a tenth of asking each.
        if value.numel() and not all(bool(extreme.isfinite()) for extreme in value.aminmax()):
            raise ConfigurationError(
                f"{path}: {name} holds values that are no finite numbers. The file is damaged, or its training "
                f"diverged; take an earlier checkpoint or get it again."
            )


def _some(names: Sequence[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(str(side) for side in shape)})"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


__all__ = ["check_state", "read_state", "recognise"]
