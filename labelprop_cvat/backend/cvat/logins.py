"""Logins of this process, shared by its clients: a second one for the same server and account does not log in again.

CVAT counts logins, 100 anonymous calls a minute, and FiftyOne makes a client for every call that goes to the server.
Kept in memory only, and never shown.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading

from labelprop_cvat.backend.cvat.credentials import Credentials


class Login:
    """One account on one server.

    Attributes:
        lock: held while logging in, so that several threads log in once
        key: what the server gave for user name and password; None before the first login
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key: str | None = None

    def __repr__(self) -> str:
        return f"Login({'known' if self.key else 'unknown'})"

    def __reduce__(self) -> str:
        raise TypeError("a login stays in the process that made it")


class Logins:
    """All logins of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_account: dict[bytes, Login] = {}
        self._salt = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"Logins({len(self._by_account)})"

    def of(self, base: str, credentials: Credentials) -> Login:
        """The login of an account; the password belongs to it, so that a wrong one never borrows a good login.

        Args:
            base: address of the server
            credentials: user name and password
        """
        account = "\0".join((base, credentials.username or "", credentials.password or ""))
        digest = hmac.new(self._salt, account.encode(), hashlib.sha256).digest()
        with self._lock:
            return self._by_account.setdefault(digest, Login())

    def forget(self) -> None:
        """Forgets every login; clients that are open keep theirs."""
        with self._lock:
            self._by_account.clear()


LOGINS = Logins()

__all__ = ["LOGINS", "Login", "Logins"]
