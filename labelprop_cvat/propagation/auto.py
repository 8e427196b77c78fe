"""The engine ``auto``: ``sam2`` where it can run well, else ``flow``.

SAM 2 runs well where its packages are installed, its weights lie on this machine, and there is a GPU. It is never
downloaded, and never put on a CPU, unless somebody asks for it by name or by one of its options.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.flow import FlowOptions
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.sam2.options import DEFAULT_MODEL, Sam2Options
from labelprop_cvat.propagation.sam2.weights import find_checkpoint, model_at_hand

logger = logging.getLogger(__name__)

AUTO = "auto"

_FLOW, _SAM2 = "flow", "sam2"
_PACKAGES = ("torch", "sam2", "hydra", "iopath")


@dataclass(frozen=True)
class EngineChoice:
    """The engine that ``auto`` takes.

    Args:
        name: of the engine
        reason: why, as a clause without a full stop, such as ``"there is no GPU here"``
    """

    name: str
    reason: str


def choose_engine(options: Mapping[str, Any] | None = None) -> EngineChoice:
    """Says which engine ``auto`` takes on this machine. Loads no weights and downloads nothing.

    Args:
        options: options that the engine will get. One that a single engine has is as good as naming that engine; those
            that both have do not matter

    Raises:
        ConfigurationError: no engine has an option, or two of them belong to different engines
    """
    own = {_FLOW: _names(FlowOptions), _SAM2: _names(Sam2Options)}
    given = sorted(options or {})
    unknown = [name for name in given if not any(name in names for names in own.values())]
    if unknown:
        raise ConfigurationError(
            f"engine={AUTO!r} takes {' or '.join(own)}, and neither has the option {unknown[0]!r}. "
            + " ".join(f"{engine} has {', '.join(sorted(names))}." for engine, names in own.items())
        )
    decided = {
        engine: [name for name in given if not any(name in own[other] for other in own.keys() - {engine})]
        for engine in own
    }
    decided = {engine: names for engine, names in decided.items() if names}
    if len(decided) > 1:
        raise ConfigurationError(
            f"engine={AUTO!r} was given options of different engines: "
            + " and ".join(f"{_quoted(names)} of {engine}" for engine, names in decided.items())
            + ". Name one engine, or leave the options of the other out."
        )
    for engine, names in decided.items():
        return EngineChoice(engine, f"only it has the option {_quoted(names)}")
    return _best()


def make_auto(**options: Any) -> Propagator:
    """Makes the engine that :func:`choose_engine` says; its ``spec`` tells which it is.

    Raises:
        ConfigurationError: the options do not fit
    """
    choice = choose_engine(options)
    engine = get_propagator(choice.name, **options)
    logger.info("engine=%r takes %s: %s.", AUTO, choice.name, choice.reason)
    return engine


def _best() -> EngineChoice:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        return EngineChoice(
            _FLOW, f"SAM 2 is not installed ({', '.join(missing)} missing); 'labelprop doctor' says how to install it"
        )
    info = model_at_hand(DEFAULT_MODEL)
    weights = find_checkpoint(info)
    if weights is None:
        return EngineChoice(
            _FLOW,
            "no weights of SAM 2 are on this machine; 'labelprop weights' gets them, which pays where there is a GPU",
        )
    # Importing PyTorch takes a second or more: only where nothing else is missing.
    device, reason = _gpu()
    if device is None:
        return EngineChoice(_FLOW, f"{reason}; engine='sam2' runs on the CPU, at seconds a frame")
    return EngineChoice(_SAM2, f"its weights are here ({weights}), and so is a GPU ({device})")


def _gpu() -> tuple[str | None, str]:
    """The name of a device that SAM 2 is fast on, or None and why there is none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return None, f"PyTorch cannot be imported ({error})"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), ""
    if torch.backends.mps.is_available():
        return "MPS", ""
    return None, "there is no GPU here"


def _names(options: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(options))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


__all__ = ["AUTO", "EngineChoice", "choose_engine", "make_auto"]
