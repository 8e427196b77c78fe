"""The options that say what fills frames."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from labelprop_cvat.cli._parser import Parser

AUTO_HELP = "by default auto: sam2 where its weights and a GPU are, else flow"


def add_engine(command: Parser, *, default: str | None, what: str) -> None:
    """Adds the options of engines.

    Args:
        command: where to
        default: the engine where none is named
        what: what is said of ``--engine``
    """
    group = command.add_argument_group("what fills the other frames")
    group.add_argument("--engine", default=default, metavar="NAME", help=what)
    group.add_argument(
        "--engine-option",
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the engine, such as image_size=448; may be given several times",
    )
    group.add_argument("--checkpoint", type=_absolute, metavar="FILE", help="weights of SAM 2; by default its own")
    group.add_argument("--model", metavar="NAME", help="which SAM 2, such as tiny or large")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="of frames in SAM 2; less is faster, coarser")
    group.add_argument("--device", metavar="NAME", help="of SAM 2: cuda, mps or cpu")


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that an engine is given."""
    named = {name: getattr(options, name) for name in ("checkpoint", "model", "image_size", "device")}
    return {**dict(options.engine_option), **{name: value for name, value in named.items() if value is not None}}


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected something like image_size=448, got {text!r}")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _absolute(text: str) -> str:
    # It is stored with the run, and a later command may be called in another folder.
    return str(Path(text).expanduser().absolute())
