"""The command line. Thin: every command calls one function of the package and shows what it returns.

Exit codes: 0 done, 1 something failed (said in one sentence on standard error), 2 wrong usage, 3 nothing to do now
(people are not finished, or nothing is new), 4 not now (CVAT cannot be reached or is overloaded, or another process
works on the run), 130 interrupted.

With ``--json`` standard output holds one JSON document and nothing else, also where a command fails:
``{"error": {"type": ..., "message": ..., "exit_code": ...}}``. Progress, warnings and errors go to standard error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from labelprop_cvat import __version__
from labelprop_cvat.cli import datasets, machine, runs
from labelprop_cvat.cli._answers import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    Answer,
    error_document,
    exit_code,
    write_document,
)
from labelprop_cvat.cli._parser import Parser, UsageError
from labelprop_cvat.cli._work import at_work
from labelprop_cvat.errors import ConfigurationError, LabelPropError

_GROUPS = (
    (
        "the loop, in its order",
        (
            datasets.add_segment,
            datasets.add_select,
            runs.add_annotate,
            runs.add_status,
            runs.add_load,
            runs.add_suggest,
            runs.add_review,
            datasets.add_evaluate,
            runs.add_cleanup,
        ),
    ),
    ("other ways in", (datasets.add_propagate, runs.add_adopt, machine.add_demo)),
    (
        "this machine",
        (machine.add_doctor, machine.add_register, machine.add_plugin, machine.add_weights, machine.add_cvat),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: the words after ``labelprop``; by default those of this process

    Raises:
        SystemExit: the words make no command, or ask for help or the version
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    is_process = arguments is None
    if is_process:
        _make_printable()
    try:
        return _main(words, is_process=is_process)
    finally:
        _flush(is_process=is_process)


def _main(words: list[str], *, is_process: bool) -> int:
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    try:
        return _run(parser.parse_args(words), is_process=is_process)
    except UsageError as error:
        error.parser.print_usage(sys.stderr)
        sys.stderr.write(f"{error.parser.prog}: error: {error}\n")
        if "--json" in words:
            with suppress(OSError):
                write_document(error_document("UsageError", str(error), USAGE))
        raise SystemExit(USAGE) from None


def _run(options: Namespace, *, is_process: bool) -> int:
    try:
        with at_work(options):
            answer = options.run(options)
        _print(answer, options)
        return int(answer.code)
    except KeyboardInterrupt as error:
        if is_process:
            # Whoever is in a hurry ends it at once, and sees no traceback of what is being tidied up.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return _failed(error, f"interrupted. {options.interrupted}", options, kind="Interrupted")
    except LabelPropError as error:
        return _failed(error, str(error), options)
    except UsageError:
        raise
    except Exception as error:
        if options.verbose or not is_process:
            raise
        return _failed(
            error,
            f"{type(error).__name__}: {error}. This was not expected, and may be a defect of labelprop-cvat; with "
            f"--verbose the same command shows where it comes from.",
            options,
        )


def _failed(error: BaseException, sentence: str, options: Namespace, *, kind: str | None = None) -> int:
    code = exit_code(error)
    sys.stderr.write(f"labelprop: {sentence}\n")
    if options.json:
        with suppress(OSError):
            write_document(error_document(kind or type(error).__name__, sentence, code))
    return code


def _print(answer: Answer, options: Namespace) -> None:
    """Prints an answer; that the reader of a pipe, such as head, has seen enough is no failure."""
    try:
        if not options.json:
            answer.show()
        elif answer.document is not None:
            write_document(answer.document)
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise ConfigurationError(
            f"The command is done, and what it says cannot be written to standard output: {error.strerror}. Write it "
            f"somewhere else."
        ) from error


def _make_printable() -> None:
    """Has every text be printed somehow, whatever the terminal's letters, and nowhere where output is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush(*, is_process: bool) -> None:
    """Sees that all is printed, as far as it can be; what could not be was said before."""
    try:
        sys.stdout.flush()
    except OSError:
        if is_process:
            # Python flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> Parser:
    parser = Parser(prog="labelprop", usage="labelprop COMMAND [options]")
    parser.add_argument("--version", action="version", version=f"labelprop-cvat {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, help=SUPPRESS, prog="labelprop")
    parser.commands = commands
    width = max(40, shutil.get_terminal_size().columns - 2)
    listed = []
    for title, adders in _GROUPS:
        listed.append(f"\n{title}:")
        for add in adders:
            before = set(commands.choices)
            add(commands)
            (name,) = set(commands.choices) - before
            head = f"  {name:10} "
            summary = commands.choices[name].summary
            listed.append(textwrap.fill(summary, width, initial_indent=head, subsequent_indent=" " * len(head)))
    parser.description = "\n".join(
        ["Turn a few frames annotated in CVAT into a fully labelled video in FiftyOne.", *listed]
    )
    parser.epilog = (
        "labelprop COMMAND --help tells more, with examples. --json has every command print one JSON document.\n\n"
        f"{EXIT_CODES}"
    )
    return parser


__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "main"]
