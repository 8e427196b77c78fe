"""What a command comes to: a document for scripts, something to read for people, and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from labelprop_cvat.errors import LabelPropError, RunInUse

OK, FAILED, USAGE, NOTHING, LATER, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """\
exit codes:
  0    done
  1    failed, for a reason that stands on standard error
  2    wrong usage
  3    nothing to do now: people are not finished, or nothing is new
  4    not now: CVAT cannot be reached or is overloaded, or another process works on the run; try again later
  130  interrupted
"""


@dataclass(frozen=True)
class Answer:
    """What a command comes to.

    Args:
        document: what ``--json`` prints, JSON values
        show: prints the same for people, on standard output
        code: the exit code
    """

    document: Any
    show: Callable[[], object]
    code: int = OK


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, RunInUse):
        return LATER
    if isinstance(error, LabelPropError):
        # Loaded where such an error can have come from.
        from labelprop_cvat.backend.cvat.errors import CVATTransportError, ServerFailure, Throttled, TLSFailed

        is_passing = isinstance(error, CVATTransportError | ServerFailure | Throttled)
        return LATER if is_passing and not isinstance(error, TLSFailed) else FAILED
    return FAILED


def error_document(kind: str, message: str, code: int) -> dict[str, Any]:
    """What ``--json`` prints where a command fails."""
    return {"error": {"type": kind, "message": message, "exit_code": code}}


def write_document(document: Any, out: TextIO | None = None) -> None:
    """Prints a JSON document, on standard output unless another place is given."""
    (out or sys.stdout).write(json.dumps(document, indent=2, default=str) + "\n")


def say(sentence: str) -> None:
    """Prints a line on standard output."""
    sys.stdout.write(f"{sentence}\n")


def meant(word: str, known: Sequence[str]) -> str:
    """`` Did you mean ...?`` where one of the known words is near, else an empty text."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
