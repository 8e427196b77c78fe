"""``kill -9`` at every write of a run's ledger.

A process that has everything imported forks a child for each run of ``annotate`` or ``load_annotations``; the child
kills itself at the write that it was told, as a machine that loses its power would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from types import TracebackType
from typing import Any, Literal

Step = Literal["annotate", "load", "review"]


class Forks:
    """Runs steps of a job in processes of their own; ``with Forks() as forks``."""

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults_kill"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def run(self, step: Step, dataset: str, url: str, die_at: int | None = None) -> int:
        """Runs a step.

        Args:
            step: what to do
            dataset: a persistent dataset's name
            url: the server's
            die_at: 2n to die right before the n-th write of the ledger (from 0), 2n + 1 right after it; None to live

        Returns:
            how the process ended: 0, -9 when it was killed, 1 when it failed
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("Forks is used in a with statement.")
        order = {"step": step, "dataset": dataset, "url": url, "die_at": die_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The process that forks has ended; its own words are above.")
        return int(answer)


def _serve() -> None:
    """Forks a child for each order that comes in, until there are no more."""
    out = os.dup(1)
    # What FiftyOne prints is not the answer.
    os.dup2(2, 1)
    import fiftyone as fo

    # Imported once, before any fork.
    import benchmarks.faults_stage  # noqa: F401
    import labelprop_cvat.backend.labelprop  # noqa: F401

    fo.config.show_progress_bars = False
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_obey(order))
        _, status = os.waitpid(child, 0)
        os.write(out, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _obey(order: dict[str, Any]) -> int:
    import fiftyone as fo

    from benchmarks.faults_stage import KEY, LOGIN, OPTIONS

    try:
        _die_at(order["die_at"])
        dataset = fo.load_dataset(order["dataset"])
        if order["step"] == "annotate":
            dataset.annotate(KEY, **{**OPTIONS, **LOGIN, "url": order["url"]})
        elif order["step"] == "load":
            dataset.load_annotations(KEY, **LOGIN)
        else:
            os.environ.update({f"FIFTYONE_CVAT_{name.upper()}": value for name, value in LOGIN.items()})
            dataset.load_annotation_results(KEY).request_review()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _die_at(moment: int | None) -> None:
    """Kills this process at a write of the ledger."""
    from labelprop_cvat.backend.labelprop import LabelPropBackend

    if moment is None:
        return
    write = LabelPropBackend.store_results
    now = iter(range(1_000_000))

    def save(cls: type, *args: Any, **kwargs: Any) -> None:
        if next(now) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*args, **kwargs)
        if next(now) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(LabelPropBackend, "store_results", classmethod(save))  # noqa: B010 - a method of a class, for mypy


if __name__ == "__main__":
    _serve()

__all__ = ["Forks"]
