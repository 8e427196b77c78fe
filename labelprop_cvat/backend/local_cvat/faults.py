"""Faults on purpose: what a network and a tired server do to a client, at a place a test chooses."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

ACTIONS = ("close", "close_after", "hang", "503", "429")


@dataclass
class Fault:
    """One rule; see :meth:`Faults.add`."""

    method: str
    path: re.Pattern[str]
    action: str | int
    left: int | None
    skip: int
    headers: dict[str, str]
    seconds: float

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and self.path.search(path) is not None


class Faults:
    """The faults that a server shall show, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.triggered: list[tuple[str, str, str | int]] = []

    def add(
        self,
        method: str,
        path_regex: str,
        action: str | int,
        times: int | None = 1,
        *,
        skip: int = 0,
        retry_after: int | None = None,
        seconds: float = 3600.0,
    ) -> None:
        """Let requests fail.

        Args:
            method: ``"GET"``, ... or ``"*"``
            path_regex: searched for in the path, without the query
            action: ``"close"`` cuts the connection before anything is done; ``"close_after"`` does the work and cuts
                the connection instead of answering; ``"hang"`` answers nothing for ``seconds`` and does nothing; a
                status (``"503"``, ``429``, ...) answers it and does nothing
            times: how many requests, None for all
            skip: requests that match and pass before the first one fails
            retry_after: seconds for the ``Retry-After`` header of a status
            seconds: how long ``"hang"`` lasts before the connection is cut

        Raises:
            ValueError: unknown action
        """
        if isinstance(action, str) and action.isdecimal():
            action = int(action)
        known = action in ACTIONS if isinstance(action, str) else 100 <= action <= 599
        if not known:
            raise ValueError(f"action must be a status or one of {', '.join(ACTIONS)}; got {action!r}")
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        with self._lock:
            self._faults.append(Fault(method.upper(), re.compile(path_regex), action, times, skip, headers, seconds))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
            self.triggered.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The fault for a request, counted; None when it shall pass."""
        with self._lock:
            for fault in self._faults:
                if not fault.matches(method, path) or fault.left == 0:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.left is not None:
                    fault.left -= 1
                self.triggered.append((method, path, fault.action))
                return fault
        return None


__all__ = ["Fault", "Faults"]
