"""What the caller of FiftyOne's ``load_annotations()`` asked, which FiftyOne does not tell a backend."""

from __future__ import annotations

import sys
from typing import Any

_LOADER = ("fiftyone.utils.annotations", "load_annotations")


def asked_to_load(name: str, default: Any = None) -> Any:
    """The value of an argument of the ``load_annotations()`` that is going on; ``default`` where none is.

    FiftyOne settles by itself what becomes of unexpected labels, and by default asks on the terminal: a backend that
    has some to give must know whether anybody will be asked.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _LOADER:
            return frame.f_locals.get(name, default)
        frame = frame.f_back  # type: ignore[assignment]
    return default


def is_anybody_there() -> bool:
    """Whether a question would reach a person."""
    return bool(sys.stdin and sys.stdin.isatty())


__all__ = ["asked_to_load", "is_anybody_there"]
