"""Users, passwords, tokens, sessions and the throttle on anonymous calls.

Passwords are kept as scrypt hashes, tokens and session keys as SHA-256 digests: reading the database file gives nobody
a way in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .replies import RefusalError, forbidden
from .storage import Transaction, now

if TYPE_CHECKING:
    import sqlite3

    from .replies import Call

# scrypt's cost: about 5 ms a login, because test suites log in often; the server never leaves the loopback interface.
_COST = 2**11
SESSION_COOKIE = "sessionid"
CSRF_COOKIE = "csrftoken"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class User:
    """Who makes a request."""

    id: int
    username: str
    is_superuser: bool
    row: sqlite3.Row


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=8, p=1)
    return f"scrypt${_COST}${salt.hex()}${digest.hex()}"


def password_matches(password: str, stored: str) -> bool:
    _, cost, salt, digest = stored.split("$")
    found = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=int(cost), r=8, p=1)
    return hmac.compare_digest(found, bytes.fromhex(digest))


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def issue_token(tx: Transaction, user_id: int, kind: str, **extra: Any) -> tuple[int, str]:
    """Make and keep a secret of a kind ("token", "session", "access"); returns its id and the secret."""
    secret = secrets.token_hex(20)
    moment = now()
    identity = tx.insert(
        "token",
        kind=kind,
        digest=token_digest(secret),
        user_id=user_id,
        created_date=moment,
        updated_date=moment,
        **extra,
    )
    return identity, secret


def authenticate(call: Call) -> User | None:
    """The user behind a request's headers or cookies, None for an anonymous one.

    Raises:
        RefusalError: 401 for a token that is unknown, expired or of a disabled user; 403 for a session write without
            its CSRF token
    """
    scheme, _, credential = call.headers.get("authorization", "").partition(" ")
    with call.state.database.transaction() as tx:
        if scheme.lower() == "token":
            return _token_user(tx, credential, ("token",), "Invalid token.")
        if scheme.lower() == "bearer":
            return _token_user(tx, credential, ("access",), "Invalid token.", call.method)
        if scheme.lower() == "basic":
            return _basic_user(tx, credential)
        session = call.cookies.get(SESSION_COOKIE)
        if session is None:
            return None
        row = tx.one("SELECT * FROM token WHERE digest = ? AND kind = 'session'", token_digest(session))
        if row is None:
            return None
        if call.method not in _SAFE_METHODS:
            _check_csrf(call, row["csrf"])
        return load_user(tx, row["user_id"])


def _basic_user(tx: Transaction, credential: str) -> User | None:
    try:
        username, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise RefusalError(401, {"detail": "Invalid basic header. Credentials not correctly base64 encoded."}) from None
    row = tx.one("SELECT * FROM user WHERE username = ? AND is_active", username)
    if row is None or not password_matches(password, row["password"]):
        raise RefusalError(401, {"detail": "Invalid username/password."})
    return load_user(tx, row["id"])


def _token_user(
    tx: Transaction, secret: str, kinds: tuple[str, ...], problem: str, method: str | None = None
) -> User | None:
    row = tx.one("SELECT * FROM token WHERE digest = ?", token_digest(secret.strip()))
    if row is None or row["kind"] not in kinds:
        raise RefusalError(401, {"detail": problem})
    if row["expiry_date"] is not None and row["expiry_date"] < now():
        raise RefusalError(401, {"detail": problem})
    if row["read_only"] and method not in (None, *_SAFE_METHODS):
        raise forbidden()
    if row["kind"] == "access":
        tx.update("token", row["id"], last_used_date=now())
    user = load_user(tx, row["user_id"])
    if user is None:
        raise RefusalError(401, {"detail": "User inactive or deleted."})
    return user


def _check_csrf(call: Call, expected: str | None) -> None:
    sent = call.headers.get("x-csrftoken") or ""
    if expected is None or not hmac.compare_digest(sent, expected):
        raise forbidden("CSRF Failed: CSRF token missing." if not sent else "CSRF Failed: CSRF token incorrect.")


def load_user(tx: Transaction, user_id: int) -> User | None:
    row = tx.one("SELECT * FROM user WHERE id = ? AND is_active", user_id)
    return None if row is None else User(row["id"], row["username"], bool(row["is_superuser"]), row)


def add_user(tx: Transaction, username: str, password: str, superuser: bool) -> int:
    return tx.insert(
        "user",
        username=username,
        password=hash_password(password),
        is_staff=superuser,
        is_superuser=superuser,
        date_joined=now(),
    )


class Throttle:
    """At most ``rate`` anonymous calls in any ``period`` seconds from one address; refused calls are not counted.

    Args:
        rate: calls, None for no limit
        period: seconds
        clock: seconds, monotonic
    """

    def __init__(self, rate: int | None, period: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Count a call.

        Raises:
            RefusalError: 429 with ``Retry-After`` when there were too many
        """
        if self._rate is None:
            return
        with self._lock:
            moment = self._clock()
            calls = self._calls.setdefault(address, deque())
            while calls and calls[0] <= moment - self._period:
                calls.popleft()
            if len(calls) < self._rate:
                calls.append(moment)
                return
            wait = max(1, math.ceil(calls[0] + self._period - moment))
        plural = "" if wait == 1 else "s"
        raise RefusalError(
            429,
            {"detail": f"Request was throttled. Expected available in {wait} second{plural}."},
            {"Retry-After": str(wait)},
        )


__all__ = [
    "CSRF_COOKIE",
    "SESSION_COOKIE",
    "Throttle",
    "User",
    "add_user",
    "authenticate",
    "hash_password",
    "issue_token",
    "load_user",
    "password_matches",
    "token_digest",
]
