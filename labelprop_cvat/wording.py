"""Words for numbers, as sentences to people have them."""

from __future__ import annotations


def counted(count: int, what: str, plural: str | None = None) -> str:
    """``"1 frame"``, ``"2 frames"``; ``plural`` where that is not ``what`` with an s."""
    return f"{count} {what if count == 1 else plural or what + 's'}"


__all__ = ["counted"]
