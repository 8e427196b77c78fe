"""Where the weights of SAM 2 lie, how they get there, and whether a file is what it should be.

Imports neither torch nor sam2 by itself, so that whoever only asks what is there need not wait for them.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.sam2._download import Patience, Progress, cache_folder, check_file, fetch_checkpoint
from labelprop_cvat.propagation.sam2._models import MODELS, ModelInfo, model_info
from labelprop_cvat.propagation.sam2._states import check_state, read_state, recognise

logger = logging.getLogger(__name__)


def find_checkpoint(info: ModelInfo, checkpoint: str | os.PathLike[str] | None = None) -> Path | None:
    """The file that holds the weights of a model, or None where it has to be downloaded first.

    Args:
        info: the model
        checkpoint: a file of the user's choice, ``~`` allowed; it is taken as it is. None looks into
            :func:`checkpoint_places`, where only a file of the published length counts: an interrupted download of
            another program has the right name too

    Raises:
        ConfigurationError: ``checkpoint`` is not a file
    """
    if checkpoint is not None:
        return _named_file(info, checkpoint)
    for place in checkpoint_places(info):
        try:
            length = place.stat().st_size if place.is_file() else None
        except OSError:
            continue
        if length == info.size_bytes:
            return place
        if length is not None:
            logger.warning(
                "%s has %d bytes, but %s has %d: not used. If it is a model of your own, pass checkpoint=%r.",
                place,
                length,
                info.file_name,
                info.size_bytes,
                str(place),
            )
    return None


def model_at_hand(default: str) -> ModelInfo:
    """The model to take where nobody named one: the default, or the smallest one whose weights are on this machine.

    Args:
        default: taken where its weights are here, and where none are; else 2.1 goes before 2.0
    """
    first = model_info(default)
    others = sorted(MODELS.values(), key=lambda info: (info.version != "2.1", info.size_bytes))
    return next((info for info in (first, *others) if find_checkpoint(info) is not None), first)


def checkpoint_places(info: ModelInfo) -> list[Path]:
    """Where the checkpoint of a model may lie, the first choice first; nothing is said of whether it is there.

    FiftyOne's model zoo, PyTorch Hub's checkpoints, the Hugging Face cache and the cache of this package.
    """
    stem = Path(info.file_name).stem
    zoo = _zoo_folder()
    return [
        *(zoo / f"{stem}{use}.pt" for use in ("_video", "_image", "")),
        _torch_hub_folder() / info.file_name,
        *sorted(_hugging_face_folder().glob(f"models--facebook--{info.hub_name}/snapshots/*/{info.file_name}")),
        cache_folder() / info.file_name,
    ]


def _named_file(info: ModelInfo, checkpoint: str | os.PathLike[str]) -> Path:
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    expected = f"Expected a file with SAM 2 weights, such as {info.file_name} from {info.url}"
    if path.is_dir():
        inside = sorted(entry.name for entry in path.glob("*.pt"))
        held = f"it holds {', '.join(inside[:8])}" if inside else "no .pt file is in it"
        raise ConfigurationError(f"checkpoint={str(path)!r} is a folder; {held}. {expected}: name the file itself.")
    raise ConfigurationError(
        f"checkpoint={str(path)!r} does not exist (looked for {path.absolute()}). {expected}; "
        f"leave checkpoint out to have it found or downloaded."
    )


def _zoo_folder() -> Path:
    """FiftyOne's ``model_zoo_dir``, from the environment and its settings file, as FiftyOne reads them."""
    path = os.environ.get("FIFTYONE_CONFIG_PATH")
    settings = _settings(Path(path) if path else Path.home() / ".fiftyone" / "config.json")

    def setting(key: str) -> Path | None:
        value = os.environ.get(f"FIFTYONE_{key.upper()}") or settings.get(key)
        return Path(value).expanduser().absolute() if isinstance(value, str) and value else None

    return setting("model_zoo_dir") or (setting("default_dataset_dir") or Path.home() / "fiftyone") / "__models__"


def _settings(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _torch_hub_folder() -> Path:
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else _cache_home() / "torch") / "hub" / "checkpoints"


def _hugging_face_folder() -> Path:
    hub, home = os.environ.get("HF_HUB_CACHE"), os.environ.get("HF_HOME")
    if hub:
        return Path(hub).expanduser()
    return (Path(home).expanduser() if home else _cache_home() / "huggingface") / "hub"


__all__ = [
    "MODELS",
    "ModelInfo",
    "Patience",
    "Progress",
    "cache_folder",
    "check_file",
    "check_state",
    "checkpoint_places",
    "fetch_checkpoint",
    "find_checkpoint",
    "model_at_hand",
    "model_info",
    "read_state",
    "recognise",
]
