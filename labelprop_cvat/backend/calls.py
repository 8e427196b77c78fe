"""What the caller of FiftyOne's ``annotate()`` or ``load_annotations()`` asked, where FiftyOne tells no backend."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

from labelprop_cvat.backend.schema import FRAMES_PREFIX
from labelprop_cvat.errors import ConfigurationError

_MODULE = "fiftyone.utils.annotations"


def asked_to_load(name: str, default: Any = None) -> Any:
    """The value of an argument of the ``load_annotations()`` that is going on; ``default`` where none is.

    FiftyOne settles by itself what becomes of unexpected labels, and by default asks on the terminal: a backend that
    has some to give must know whether anybody will be asked.
    """
    return _asked("load_annotations", name, default)


def asked_to_annotate(name: str, default: Any = None) -> Any:
    """The value of an argument of the ``annotate()`` that is going on; ``default`` where none is.

    FiftyOne drops ``allow_index_edits`` for images, as it knows no sequences of them.
    """
    return _asked("annotate", name, default)


def _asked(function: str, name: str, default: Any) -> Any:
    frame = sys._getframe(1)
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == (_MODULE, function):
            return frame.f_locals.get(name, default)
        frame = frame.f_back  # type: ignore[assignment]
    return default


def check_destinations(fields: Collection[str]) -> None:
    """Checks the ``dest_field`` of the ``load_annotations()`` that is going on, before anything is loaded.

    FiftyOne overlooks names that the run does not have, and would write labels of frames to samples.

    Args:
        fields: the label fields of the run

    Raises:
        ConfigurationError: it names a field that the run does not annotate, or mixes up samples and frames
    """
    asked = asked_to_load("dest_field")
    if isinstance(asked, str):
        asked = dict.fromkeys(fields, asked) if len(fields) == 1 else {}
    for field, destination in (asked or {}).items():
        if field not in fields:
            raise ConfigurationError(
                f"dest_field names {field!r}, which this run does not annotate; it annotates "
                f"{', '.join(map(repr, fields))}."
            )
        if field.startswith(FRAMES_PREFIX) is not str(destination).startswith(FRAMES_PREFIX):
            is_of_frames = field.startswith(FRAMES_PREFIX)
            right = f"{FRAMES_PREFIX}{destination}" if is_of_frames else str(destination).removeprefix(FRAMES_PREFIX)
            raise ConfigurationError(
                f"{field!r} is a field of {'video frames' if is_of_frames else 'samples'}, so its labels can't be "
                f"loaded into {destination!r}. Pass dest_field={right!r}."
            )


def is_anybody_there() -> bool:
    """Whether a question would reach a person."""
    return bool(sys.stdin and sys.stdin.isatty())


__all__ = ["asked_to_annotate", "asked_to_load", "check_destinations", "is_anybody_there"]
