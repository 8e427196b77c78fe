"""One process at a time works on a run.

Two loads of one run at the same moment would merge the same labels and overwrite each other's ledger. Whoever works on
a run holds a lease, a small document in FiftyOne's database. It ends with the work, with the process that holds it, or
when nothing was heard of that process for a while, so that nobody is locked out for good.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import fiftyone.core.odm as foo
import psutil
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError

from labelprop_cvat.errors import RunInUse

logger = logging.getLogger(__name__)

_COLLECTION = "labelprop_leases"

#: Seconds that a lease lasts without word of its holder.
LASTS = 90.0

#: Seconds that FiftyOne may take to merge a field, in which this package is not called.
LASTS_IN_MERGE = 600.0

_BEAT = LASTS / 4


class Lease:
    """The right to work on one run.

    Args:
        run_id: id of the run's document
        name: what the run is called, for sentences
    """

    def __init__(self, run_id: Any, name: str | None) -> None:
        self._run_id = run_id
        self._name = name
        self._owner: str | None = None
        self._depth = 0
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lease for a while; may be nested.

        Raises:
            RunInUse: another process works on the run
        """
        self.take()
        try:
            yield
        finally:
            self.give_back()

    def take(self) -> None:
        """Takes the lease, or takes it once more.

        Raises:
            RunInUse: another process works on the run
        """
        if self._owner is None or not _leases().count_documents({"_id": self._run_id, "owner": self._owner}):
            self._acquire()
        self._depth += 1
        self._start_beating()

    def give_back(self) -> None:
        """Gives the lease back as often as it was taken; one that was lost or never taken is fine."""
        self._depth = max(0, self._depth - 1)
        if self._depth or self._owner is None:
            return
        self._stop_beating()
        _leases().delete_one({"_id": self._run_id, "owner": self._owner})
        self._owner = None

    def pause(self) -> None:
        """Keeps the lease for :data:`LASTS_IN_MERGE` seconds while FiftyOne is at work; it is not renewed meanwhile."""
        if self._owner is not None:
            self._stop_beating()
            self._renew(LASTS_IN_MERGE)

    def _acquire(self) -> None:
        owner = uuid.uuid4().hex
        document = {"_id": self._run_id, "owner": owner, "until": _after(LASTS), "since": _now(), **_whoami()}
        leases = _leases()
        for _ in range(3):
            try:
                leases.insert_one(document)
            except DuplicateKeyError:
                pass
            else:
                self._owner = owner
                return
            held = leases.find_one({"_id": self._run_id})
            if held is None:
                continue
            if not _is_over(held):
                raise RunInUse(
                    f"Run {self._name!r} is being worked on by process {held['pid']} on {held['host']} since "
                    f"{held['since']:%H:%M:%S} UTC. Wait until it is done and call again."
                )
            leases.delete_one({"_id": self._run_id, "owner": held["owner"]})
        raise RunInUse(f"Run {self._name!r} is being worked on by several processes at once. Call again in a moment.")

    def _start_beating(self) -> None:
        if self._beat is None:
            self._stop.clear()
            self._beat = threading.Thread(target=self._keep, name=f"lease of {self._name}", daemon=True)
            self._beat.start()

    def _stop_beating(self) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
            self._beat = None

    def _keep(self) -> None:
        self._renew(LASTS)
        while not self._stop.wait(_BEAT):
            self._renew(LASTS)

    def _renew(self, seconds: float) -> None:
        try:
            _leases().update_one({"_id": self._run_id, "owner": self._owner}, {"$set": {"until": _after(seconds)}})
        except PyMongoError as error:
            logger.debug("The lease of run %r could not be renewed: %s", self._name, type(error).__name__)


def is_held(run_id: Any) -> bool:
    """Whether somebody works on a run at this moment.

    Args:
        run_id: what :class:`Lease` was made with
    """
    held = _leases().find_one({"_id": run_id})
    return held is not None and not _is_over(held)


def _leases() -> Collection[dict[str, Any]]:
    leases: Collection[dict[str, Any]] = foo.get_db_conn()[_COLLECTION]
    return leases


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


def _after(seconds: float) -> datetime:
    return _now() + timedelta(seconds=seconds)


def _whoami() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "thread": threading.get_ident(),
    }


def _is_over(held: dict[str, Any]) -> bool:
    """Whether the holder of a lease is gone, or is this very thread, which left its work half done."""
    me = _whoami()
    if held["until"] < _now():
        return True
    if held["host"] != me["host"]:
        return False
    if (held["pid"], held["started"]) == (me["pid"], me["started"]):
        alive = {thread.ident for thread in threading.enumerate()}
        return held["thread"] == me["thread"] or held["thread"] not in alive
    try:
        return bool(psutil.Process(held["pid"]).create_time() != held["started"])
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


__all__ = ["LASTS", "LASTS_IN_MERGE", "Lease", "is_held"]
