"""Progress of long work: bars for terminals, and a listener for callers that show it elsewhere or want it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import fiftyone as fo

_MOMENT_SECONDS = 0.7


class Stopped(KeyboardInterrupt):
    """Somebody asked the work to stop. It ends as Ctrl-C ends it: what is finished stays, nothing else is written."""


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Args:
        what: what is counted, such as ``"frames"``
        done: how many are done
        total: of how many; None where nobody knows
    """

    what: str
    done: int
    total: int | None = None

    @property
    def share(self) -> float | None:
        """The part that is done, in [0, 1]; None where the total is not known."""
        return min(1.0, self.done / self.total) if self.total else None


Listener = Callable[[Progress], object]


class _Heard:
    """A listener, and what it was told last."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        self._listener(progress)

    def again(self) -> None:
        if self._last is not None:
            self._listener(self._last)


_listener: ContextVar[_Heard | None] = ContextVar("labelprop_progress", default=None)


@contextmanager
def watching(listener: Listener) -> Iterator[None]:
    """Has every progress bar of this package tell a listener, in this thread and as long as the context lasts.

    Bars are not drawn meanwhile: drawing takes over the standard output of the whole process.

    Args:
        listener: called at every step, in the thread that works; what it raises ends the work there. :class:`Stopped`
            ends it without harm
    """
    token = _listener.set(_Heard(listener))
    try:
        yield
    finally:
        _listener.reset(token)


def pulse() -> Callable[[], None] | None:
    """What tells the listener of this thread once more what it was told last; None where nobody listens.

    For work that takes long from one step to the next, so that it can be stopped in between. It may be called in other
    threads as well, whose errors reach this one.
    """
    heard = _listener.get()
    return None if heard is None else heard.again


class _Bar(fo.ProgressBar):
    def __init__(self, total: int | None, progress: bool | None, what: str) -> None:
        self._what = what
        super().__init__(total=total, progress=progress if _listener.get() is None else False, iters_str=what)

    def set_iteration(self, iteration: int, *args: Any, **kwargs: Any) -> None:
        super().set_iteration(iteration, *args, **kwargs)
        self._tell()

    def start(self) -> None:
        super().start()
        self._tell()

    def _tell(self) -> None:
        listener = _listener.get()
        if listener is not None:
            listener(Progress(self._what, max(0, self.iteration), int(self.total) if self.has_total else None))


def progress_bar(total: int | None = None, *, progress: bool | None = None, what: str = "frames") -> fo.ProgressBar:
    """One of FiftyOne's progress bars, which also tells the listener of :func:`watching`.

    Args:
        total: how many steps there are
        progress: whether to draw it; None asks FiftyOne's configuration
        what: what is counted
    """
    return _Bar(total, progress, what)


@contextmanager
def late_bar(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar that shows up only where the work takes more than a moment; yields ``progress(done)``."""
    started = time.monotonic()
    with ExitStack() as stack:
        bar: fo.ProgressBar | None = None

        def progress(done: int, *_: int) -> None:
            nonlocal bar
            is_late = time.monotonic() - started > _MOMENT_SECONDS
            if bar is None and (is_late or _listener.get() is not None):
                bar = stack.enter_context(progress_bar(total, what=what))
            if bar is not None:
                bar.set_iteration(done)

        yield progress


__all__ = ["Listener", "Progress", "Stopped", "late_bar", "progress_bar", "pulse", "watching"]
