"""What surrounds a command at work: standard output is kept for its answer, the rest goes to standard error."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from labelprop_cvat.progress import Progress

_PACKAGE = "labelprop_cvat"
# These say at length what engines do, and whom a wait is for: people want that without asking.
_TELLING = (f"{_PACKAGE}.propagation", f"{_PACKAGE}.backend.status")
_MOMENT_S = 0.7
_LINE_EVERY_S = 30.0


class _ToErrors(io.TextIOBase):
    """Writes to whatever standard error is at the moment: while bars are drawn, that is a place above them."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def at_work(options: argparse.Namespace) -> Iterator[None]:
    """Keeps standard output for the answer; ``options.out`` is where it was.

    What is printed or logged meanwhile, by FiftyOne too, goes to standard error, where bars show the progress.

    Args:
        options: the command's
    """
    options.out = sys.stdout
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(_ToErrors()))
        stack.enter_context(_logging(options))
        if options.on_datasets:
            stack.enter_context(showing_progress(options))
        yield


class _Handler(logging.Handler):
    """Writes records to whatever standard error is when they come."""

    def __init__(self, *, is_verbose: bool, is_quiet: bool) -> None:
        super().__init__()
        self._is_verbose = is_verbose
        self._least = logging.ERROR if is_quiet else logging.WARNING
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def filter(self, record: logging.LogRecord) -> bool:
        is_told = record.name.startswith(_TELLING) and record.levelno >= logging.INFO and self._least < logging.ERROR
        return self._is_verbose or is_told or record.levelno >= self._least

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


@contextmanager
def _logging(options: argparse.Namespace) -> Iterator[None]:
    logger = logging.getLogger(_PACKAGE)
    handler = _Handler(is_verbose=options.verbose, is_quiet=options.quiet)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def showing_progress(options: argparse.Namespace) -> Iterator[None]:
    """Draws this package's bars in the place of FiftyOne's, which write to standard output. Imports FiftyOne.

    Args:
        options: the command's
    """
    import fiftyone as fo

    from labelprop_cvat.progress import watching

    theirs = logging.getLogger("fiftyone")
    level, bars = theirs.level, fo.config.show_progress_bars
    fo.config.show_progress_bars = False
    if not options.verbose:
        theirs.setLevel(logging.WARNING)
    shown = _Shown(is_quiet=options.quiet)
    try:
        with watching(shown.tell):
            yield
    finally:
        shown.stop()
        theirs.setLevel(level)
        fo.config.show_progress_bars = bars


class _Shown:
    """The progress of what goes on: a bar on a terminal, elsewhere a line now and then.

    Args:
        is_quiet: whether nothing is shown
    """

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def tell(self, progress: Progress) -> None:
        """Shows one step."""
        if self._is_quiet:
            return
        if progress.total is not None and progress.done >= progress.total:
            self._end(progress.what)
            return
        now = time.monotonic()
        started = self._started.setdefault(progress.what, now)
        if not sys.stderr.isatty():
            if now - started > _LINE_EVERY_S:
                of = "" if progress.total is None else f" of {progress.total}"
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {progress.done}{of} {progress.what}\n")
                self._started[progress.what] = now
        elif now - started > _MOMENT_S:
            self._draw(progress)

    def stop(self) -> None:
        """Takes away what is drawn."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()
        self._started.clear()

    def _draw(self, progress: Progress) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if progress.what not in self._tasks:
            self._tasks[progress.what] = self._bars.add_task(progress.what, total=progress.total)
        self._bars.update(self._tasks[progress.what], completed=progress.done, total=progress.total)

    def _end(self, what: str) -> None:
        self._started.pop(what, None)
        task = self._tasks.pop(what, None)
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)
            if not self._tasks:
                self.stop()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
