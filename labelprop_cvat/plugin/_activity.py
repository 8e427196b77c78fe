"""What a step is doing to a dataset at this moment, for whoever looks from another tab or process.

One step at a time changes a dataset. What it does stands in FiftyOne's execution store of the dataset; the right to do
it is a lease, which ends with the process that holds it, so that a dead one keeps nobody out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone.operators.store import ExecutionStore

from labelprop_cvat.backend.lease import Lease, is_held
from labelprop_cvat.errors import DataError, LabelPropError, RunInUse
from labelprop_cvat.progress import Progress, Stopped, watching

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"

STOPPED_SENTENCE = "Stopped. What was finished before stays, the rest is as it was."
_LOST = (
    "The process that did this ended before it was done. What it finished stays, the rest is as it was; run it again."
)

_STORE = "labelprop_activity"
_ACTIVITY, _STOP = "activity", "stop"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Activity:
    """A step that works on a dataset, or the last one that did.

    Args:
        id: its own
        operator: name of the operator
        label: what people call the operator
        started: when, UTC
        state: ``"running"``, ``"done"``, ``"failed"`` or ``"stopped"``
        what: what is counted, such as ``"frames"``; empty before anything is
        done: how many are done
        total: of how many; None where nobody knows
        message: how it ended; empty while it runs
        delegated: whether it was scheduled to run in another process
        is_stopping: whether somebody asked it to stop
    """

    id: str
    operator: str
    label: str
    started: datetime
    state: str = RUNNING
    what: str = ""
    done: int = 0
    total: int | None = None
    message: str = ""
    delegated: bool = False
    is_stopping: bool = False

    @property
    def is_running(self) -> bool:
        return self.state == RUNNING

    @property
    def progress(self) -> float | None:
        """The part that is done, in [0, 1]; None where the total is not known."""
        return Progress(self.what, self.done, self.total).share

    @property
    def description(self) -> str:
        """What is done so far, such as ``"40 of 120 frames"``; empty before anything is counted."""
        return described(Progress(self.what, self.done, self.total)) if self.what else ""


def described(progress: Progress) -> str:
    """How far a piece of work is, such as ``"40 of 120 frames"``."""
    return f"{progress.done}{'' if progress.total is None else f' of {progress.total}'} {progress.what}"


class Work:
    """The step that works on a dataset, as it sees itself. Made by :func:`at_work`."""

    def __init__(self, dataset: fo.Dataset, activity: Activity, listener: Callable[[Progress], object] | None) -> None:
        self.activity = activity
        self._store = _store(dataset)
        self._listener = listener
        self._looked = time.monotonic()

    def see(self, progress: Progress) -> None:
        """Notes how far the work is, twice a second at most.

        Raises:
            Stopped: somebody asked the work to stop
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._note(what=progress.what, done=progress.done, total=progress.total)
        if self._listener is not None:
            self._listener(progress)
        if self._store.get(_STOP) == self.activity.id:
            raise Stopped(STOPPED_SENTENCE)

    def finish(self, message: str, state: str = DONE) -> None:
        """Notes how the work ended."""
        self._note(state=state, message=message)

    def begin(self) -> None:
        """Notes that the work has begun."""
        self._store.delete(_STOP)
        self._note()

    def _note(self, **changes: Any) -> None:
        self.activity = replace(self.activity, **changes)
        self._store.set(_ACTIVITY, {**asdict(self.activity), "started": self.activity.started.isoformat()})


@contextmanager
def at_work(
    dataset: fo.Dataset,
    operator: str,
    label: str,
    *,
    delegated: bool = False,
    listener: Callable[[Progress], object] | None = None,
) -> Iterator[Work]:
    """Works on a dataset, in this thread: alone, seen by everybody, and until somebody asks it to stop.

    Whoever enters says at the end how it went, by :meth:`Work.finish`; of what is raised, that is noted here.

    Args:
        dataset: the dataset
        operator: name of the operator
        label: what people call it
        delegated: whether it was scheduled to run in another process
        listener: is told how far the work is, twice a second at most; what it raises ends the work

    Raises:
        DataError: another step works on the dataset
    """
    lease = Lease(_lease_id(dataset), dataset.name)
    try:
        lease.take()
    except RunInUse as error:
        raise DataError(_refusal(dataset, label)) from error
    try:
        now = datetime.now(timezone.utc)
        work = Work(dataset, Activity(uuid.uuid4().hex, operator, label, now, delegated=delegated), listener)
        work.begin()
        try:
            with watching(work.see):
                yield work
        except Stopped:
            work.finish(STOPPED_SENTENCE, STOPPED)
            raise
        except BaseException as error:
            work.finish(sentence_of(error), FAILED)
            raise
    finally:
        lease.give_back()


def current(dataset: fo.Dataset) -> Activity | None:
    """The step that works on a dataset, or the last one that did; None where none ever did."""
    store = _store(dataset)
    stored = store.get(_ACTIVITY)
    if stored is None:
        return None
    activity = Activity(**{**stored, "started": datetime.fromisoformat(stored["started"])})
    if not activity.is_running:
        return activity
    if not is_held(_lease_id(dataset)):
        # It may have ended between the two looks.
        again = store.get(_ACTIVITY) or stored
        if again["id"] == activity.id and again["state"] == RUNNING:
            return replace(activity, state=FAILED, message=_LOST)
        return Activity(**{**again, "started": datetime.fromisoformat(again["started"])})
    return replace(activity, is_stopping=store.get(_STOP) == activity.id)


def request_stop(dataset: fo.Dataset) -> Activity | None:
    """Asks the step that works on a dataset to stop; returns it, or None where none works."""
    activity = current(dataset)
    if activity is None or not activity.is_running:
        return None
    _store(dataset).set(_STOP, activity.id)
    return replace(activity, is_stopping=True)


def sentence_of(error: BaseException) -> str:
    """What people are told of an error: its own sentence where it is one of ours, else its kind as well."""
    if isinstance(error, LabelPropError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return STOPPED_SENTENCE
    return f"This failed with {type(error).__name__}: {error}. What was finished before stays; see the App's log."


def _refusal(dataset: fo.Dataset, label: str) -> str:
    busy = current(dataset)
    if busy is None or not busy.is_running:
        return f"{label!r} was not started: another step begins to work on {dataset.name!r} just now. Try again."
    so_far = f" ({busy.description} so far)" if busy.description else ""
    return (
        f"{label!r} was not started: {busy.label!r} works on {dataset.name!r} since {busy.started:%H:%M:%S} UTC"
        f"{so_far}, and one step at a time may change a dataset. Wait until it is done, or stop it."
    )


def _lease_id(dataset: fo.Dataset) -> str:
    return f"steps of {dataset._doc.id}"


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create(_STORE, dataset._doc.id)


__all__ = [
    "DONE",
    "FAILED",
    "RUNNING",
    "STOPPED",
    "STOPPED_SENTENCE",
    "Activity",
    "Work",
    "at_work",
    "current",
    "described",
    "request_stop",
    "sentence_of",
]
