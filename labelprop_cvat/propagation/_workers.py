"""A few threads for work that OpenCV and numpy do outside Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Batch(Generic[T]):
    """Calls under way."""

    def __init__(self, futures: Sequence[Future[T]]) -> None:
        self._futures = futures

    def results(self) -> list[T]:
        """What the calls returned, in the order of the calls; waits for them.

        Raises:
            Exception: what the first call in that order that failed had raised
        """
        return [future.result() for future in self._futures]


class Workers:
    """Makes calls side by side and tells their results in order, whatever the number of threads.

    Args:
        threads: at least 1; with 1 there is no other thread, and a call is made when it is handed in
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="labelprop-flow") if threads > 1 else None

    @property
    def side_by_side(self) -> bool:
        """Whether calls go on while the caller does something else."""
        return self._pool is not None

    def start(self, calls: Sequence[Callable[[], T]]) -> Batch[T]:
        """Hands in calls that do not depend on each other."""
        if self._pool is None:
            return Batch([_made(call) for call in calls])
        return Batch([self._pool.submit(call) for call in calls])

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Makes the calls and waits for them."""
        return self.start(calls).results()

    def close(self) -> None:
        """Drops calls not begun, waits for those that are, and ends the threads; harmless when done twice."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def available_threads() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _made(call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(call())
    return future
