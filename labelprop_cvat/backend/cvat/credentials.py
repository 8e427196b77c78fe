"""Who logs in, and the header that says so. Secrets live in memory only and show in no repr."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import requests
from requests.auth import AuthBase

_LOGIN_KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Credentials:
    """Who logs in. Give user name and password, or a token, or all three (the password then renews a stale token).

    Args:
        username: name of the account
        password: its password
        token: the key of an earlier login (40 hexadecimal digits, sent as ``Token``) or a personal access token (sent
            as ``Bearer``); a leading ``Token `` or ``Bearer `` overrides that guess
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def can_log_in(self) -> bool:
        """Whether there is a user name with a password."""
        return bool(self.username) and self.password is not None


class Authorization(AuthBase):
    """Sets the Authorization header, or leaves it alone for None; being set at all keeps requests from reading
    ~/.netrc."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request

    def __repr__(self) -> str:
        return "Authorization(***)"

    def says(self, value: str) -> bool:
        """Whether this is the header with that value."""
        return self._value == value

    @classmethod
    def of_token(cls, token: str | None) -> tuple[Authorization | None, list[Authorization]]:
        """The header for a token that a user gave, and others to try when the server does not accept that one.

        The kind mostly shows in the token's form, but a personal access token may look like the key of a login.
        """
        if not token:
            return None, []
        if token.startswith(("Token ", "Bearer ")):
            return cls(token), []
        if _LOGIN_KEY.fullmatch(token):
            return cls(f"Token {token}"), [cls(f"Bearer {token}")]
        return cls(f"Bearer {token}"), []


ANONYMOUS = Authorization(None)

__all__ = ["ANONYMOUS", "Authorization", "Credentials"]
