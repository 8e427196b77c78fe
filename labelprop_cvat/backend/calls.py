"""What the caller of FiftyOne's ``annotate()`` or ``load_annotations()`` asked, where FiftyOne tells no backend."""

from __future__ import annotations

import sys
from typing import Any

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


def is_anybody_there() -> bool:
    """Whether a question would reach a person."""
    return bool(sys.stdin and sys.stdin.isatty())


__all__ = ["asked_to_annotate", "asked_to_load", "is_anybody_there"]
