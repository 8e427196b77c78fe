"""Transport to a CVAT server: addresses, login, timeouts, retries, redirects, and errors as sentences.

Knows HTTP and CVAT's ways of saying no; knows nothing of tasks or annotations. Faults are injected in tests through the
``adapter`` argument, any :class:`requests.adapters.BaseAdapter`.
"""

from __future__ import annotations

import html
import logging
import random
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from time import monotonic, sleep
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import BaseAdapter
from requests.auth import AuthBase
from urllib3.exceptions import NameResolutionError, NewConnectionError, ReadTimeoutError

from labelprop_cvat import __version__
from labelprop_cvat.backend.cvat.errors import (
    ConnectionCut,
    CVATError,
    CVATRefusal,
    CVATTransportError,
    Invalid,
    LoginRefused,
    NotCVAT,
    NotFound,
    PermissionRefused,
    ServerFailure,
    Throttled,
    Timeout,
    TLSFailed,
    Unreachable,
)
from labelprop_cvat.backend.cvat.models import ServerAbout
from labelprop_cvat.errors import ConfigurationError

logger = logging.getLogger(__name__)

Repeat: TypeAlias = Literal["always", "if_unsent"]
"""When a request may be sent again. ``always``: it reads, or doing it twice is the same as doing it once.
``if_unsent``: only when the first one certainly had no effect; anything else is for the caller to find out."""

UNSURE_STATUSES = frozenset({502, 503, 504})
"""Answers of a proxy in front of CVAT: the request may or may not have been carried out."""

_LOGIN_KEY = re.compile(r"[0-9a-f]{40}")
_LONGEST_SERVER_TEXT = 300


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


@dataclass(frozen=True)
class RetryPolicy:
    """How long to keep trying. The wait doubles from ``first_delay`` up to ``max_delay``, shortened at random by up to
    a half; a server's ``Retry-After`` is honoured in full.

    Args:
        attempts: most often that one request is sent, >= 1
        first_delay: seconds
        max_delay: seconds
        total: seconds after which nothing is tried again; also bounds the wait for ``Retry-After``
    """

    attempts: int = 6
    first_delay: float = 0.5
    max_delay: float = 10.0
    total: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_delay, self.max_delay, self.total) < 0:
            raise ConfigurationError(f"A RetryPolicy needs attempts >= 1 and delays >= 0, got {self}.")

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, at least 1."""
        longest = min(self.max_delay, self.first_delay * float(2 ** min(failures - 1, 16)))
        return longest * random.uniform(0.5, 1.0)


_FIRST_CONTACT = RetryPolicy(attempts=2, first_delay=0.5, max_delay=1.0, total=60.0)


class _Authorization(AuthBase):
    """Sets one header, or none; being set at all keeps requests from reading ~/.netrc."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request

    def __repr__(self) -> str:
        return "_Authorization(***)"


def is_unsure(error: CVATError) -> bool:
    """Whether the request behind this error may have been carried out all the same."""
    if isinstance(error, CVATTransportError):
        return not error.not_sent
    return isinstance(error, ServerFailure) and error.status in UNSURE_STATUSES


class Session:
    """One login to one server.

    Args:
        url: address of the server, with or without a trailing slash, ``/api`` or a path prefix; a ``user:password@`` in
            it is taken out and used when ``credentials`` are empty
        credentials: who logs in; kept in memory only
        headers: sent with every request to this server
        organization: short name of the organization to work in; None for the personal workspace
        verify: True, False, or the path of a CA bundle
        timeout: seconds to connect and seconds to wait for (the next piece of) an answer
        retry: how long to keep trying
        user_agent: None for this package's name and version
        adapter: carries all requests instead of the network, for tests and special transports

    Raises:
        ConfigurationError: the address cannot be one of a server
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        headers: Mapping[str, str] | None = None,
        organization: str | None = None,
        verify: bool | str = True,
        timeout: tuple[float, float] = (10.0, 120.0),
        retry: RetryPolicy | None = None,
        user_agent: str | None = None,
        adapter: BaseAdapter | None = None,
    ) -> None:
        self.base, in_url = _split_address(url)
        given = credentials.token is not None or credentials.username is not None or credentials.password is not None
        self._credentials = credentials if given else in_url
        self._timeout = timeout
        self._verify = verify
        self.retry = retry or RetryPolicy()
        self._http = requests.Session()
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if adapter is not None:
            self._http.mount("http://", adapter)
            self._http.mount("https://", adapter)
        self._http.headers["User-Agent"] = user_agent or f"labelprop-cvat/{__version__}"
        self._http.headers.update(headers or {})
        if organization:
            self._http.headers["X-Organization"] = organization
        self._own_authorization = any(name.lower() == "authorization" for name in headers or {})
        self._secrets = [s for s in (self._credentials.password, self._credentials.token) if s]
        self._secrets += [v for v in (headers or {}).values() if len(v) >= 6]
        self._token: str | None = self._credentials.token
        self._authorization = _authorization(self._token) if self._token else None
        self._about: ServerAbout | None = None
        self._login_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Session({self.base!r}, username={self._credentials.username!r})"

    @property
    def host(self) -> str:
        """Address for sentences, without path."""
        parts = urlsplit(self.base)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def username(self) -> str | None:
        """Name that this session logs in with, when known."""
        return self._credentials.username

    def close(self) -> None:
        """Drops connections and the token."""
        self._http.close()
        self._authorization = None
        self._token = None

    def about(self) -> ServerAbout:
        """Asks, once and without login, what answers at the address.

        Raises:
            NotCVAT: something else than CVAT does
            CVATTransportError: nothing does
        """
        if self._about is None:
            self._about = self._first_contact()
        return self._about

    def json(
        self,
        method: str,
        path: str,
        *,
        repeat: Repeat = "always",
        params: Mapping[str, str | int] | None = None,
        json: object = None,
        data: bytes | None = None,
        files: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Sends a request and parses the answer; None when it is empty. See :meth:`request`."""
        response = self.request(
            method, path, repeat=repeat, params=params, json=json, data=data, files=files, headers=headers
        )
        return self._parsed(response, method, path)

    def request(
        self,
        method: str,
        path: str,
        *,
        repeat: Repeat = "always",
        params: Mapping[str, str | int] | None = None,
        json: object = None,
        data: bytes | None = None,
        files: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Sends a request with login and returns an answer below 300.

        Args:
            path: below the server's address, beginning with ``/api``, already quoted
            repeat: when it may be sent again

        Raises:
            CVATTransportError: no usable answer within the retry policy
            CVATRefusal: an answer that says no
        """
        self.about()
        self._ensure_login()
        content = {"params": params, "json": json, "data": data, "files": files, "headers": headers}
        used = self._authorization
        try:
            return self._with_retries(method, path, repeat, self.retry, used, content)
        except LoginRefused:
            if not self._credentials.can_log_in:
                raise
        self._renew_login(used)
        return self._with_retries(method, path, repeat, self.retry, self._authorization, content)

    def _first_contact(self) -> ServerAbout:
        path = "/api/server/about"
        anonymous = _Authorization(None)
        try:
            response = self._with_retries("GET", path, "always", _FIRST_CONTACT, anonymous, {})
        except (LoginRefused, PermissionRefused):
            return ServerAbout("", "")
        except (NotFound, Invalid) as error:
            raise NotCVAT(
                f"Something answers at {self.base}, but it is no CVAT server: {path} gave status {error.status}. "
                f"Check the URL; it is the one that opens CVAT in a browser.",
                method="GET",
                path=path,
                status=error.status,
            ) from None
        return ServerAbout.from_json(self._parsed(response, "GET", path))

    def _ensure_login(self) -> None:
        if self._authorization is not None or self._own_authorization:
            return
        if not self._credentials.can_log_in:
            raise LoginRefused(
                f"CVAT at {self.host} needs a login, but no user name with password and no token is configured."
            )
        self._renew_login(None)

    def _renew_login(self, stale: _Authorization | None) -> None:
        with self._login_lock:
            if self._authorization is not None and self._authorization is not stale:
                return
            content = {"json": {"username": self._credentials.username, "password": self._credentials.password}}
            path = "/api/auth/login"
            try:
                response = self._with_retries("POST", path, "always", self.retry, _Authorization(None), content)
            except (Invalid, LoginRefused, PermissionRefused) as error:
                raise LoginRefused(
                    f'CVAT at {self.host} refused the login as "{self._credentials.username}" ({error.status}): wrong '
                    f"user name or password, or the account is not active.",
                    method="POST",
                    path=path,
                    status=error.status,
                ) from None
            answer = self._parsed(response, "POST", path)
            key = answer.get("key") if isinstance(answer, Mapping) else None
            if not isinstance(key, str) or not key:
                raise NotCVAT(f"CVAT at {self.host} accepted the login but sent no key.", method="POST", path=path)
            self._token = key
            self._secrets.append(key)
            self._authorization = _Authorization(f"Token {key}")

    def _with_retries(
        self,
        method: str,
        path: str,
        repeat: Repeat,
        policy: RetryPolicy,
        authorization: _Authorization | None,
        content: Mapping[str, Any],
    ) -> requests.Response:
        started = monotonic()
        failures = 0
        while True:
            remaining = policy.total - (monotonic() - started)
            wait: float | None = None
            try:
                response = self._send(method, path, authorization, content, remaining if failures else None)
                error: CVATError | None = None
                if response.status_code >= 300:
                    error = self._refusal(response, method, path)
                    wait = _retry_after(response)
            except CVATTransportError as transport_error:
                error = transport_error
            if error is None:
                return response
            failures += 1
            wait = max(wait or 0.0, policy.delay(failures))
            spent = monotonic() - started
            if failures >= policy.attempts or spent + wait > policy.total or not _may_repeat(error, repeat):
                raise error
            logger.warning("%s %s failed (%s), trying again in %.1f s", method, path, type(error).__name__, wait)
            sleep(wait)

    def _send(
        self,
        method: str,
        path: str,
        authorization: _Authorization | None,
        content: Mapping[str, Any],
        remaining: float | None,
    ) -> requests.Response:
        """Sends once, following redirects that stay on the host and do not leave TLS."""
        connect, read = self._timeout
        if remaining is not None:
            read = max(1.0, min(read, remaining))
        url = self.base + path
        for _ in range(4):
            failure: CVATError | None = None
            try:
                response = self._http.request(
                    method,
                    url,
                    auth=authorization or _Authorization(None),
                    timeout=(connect, read),
                    verify=self._verify,
                    allow_redirects=False,
                    **content,
                )
            except requests.RequestException as error:
                failure = self._transport_error(error, method, path)
            except (OSError, UnicodeError) as error:
                failure = self._unusable(error)
            if failure is not None:
                failure.method, failure.path = method, path
                # Raised out here so that the original, which holds the request with its headers, is not its context.
                raise failure
            logger.debug("%s %s -> %d", method, path, response.status_code)
            if response.status_code not in (301, 302, 307, 308) or "Location" not in response.headers:
                return response
            url = self._redirected(url, response, method, path)
        raise NotCVAT(f"{self.base} redirects in circles; check the URL.", method=method, path=path)

    def _redirected(self, url: str, response: requests.Response, method: str, path: str) -> str:
        old = urlsplit(url)
        new = urlsplit(urljoin(url, response.headers["Location"]))
        target = f"{new.scheme}://{new.hostname or ''}" + (f":{new.port}" if new.port else "")
        same_place = (new.scheme, new.hostname, _port(new)) == (old.scheme, old.hostname, _port(old))
        to_tls = old.scheme == "http" and new.scheme == "https" and new.hostname == old.hostname
        if not (same_place or to_tls):
            raise NotCVAT(
                f"{self.host} redirects to {target}; credentials are not sent there. If that is your CVAT server, "
                f"use its address as URL.",
                method=method,
                path=path,
                status=response.status_code,
            )
        if to_tls and new.path == old.path:
            base = urlsplit(self.base)
            self.base = urlunsplit((new.scheme, new.netloc.rpartition("@")[2], base.path, "", ""))
        return urlunsplit((new.scheme, new.netloc.rpartition("@")[2], new.path, new.query, ""))

    def _transport_error(self, error: requests.RequestException, method: str, path: str) -> CVATError:
        chain = list(_chain(error))
        if isinstance(error, requests.exceptions.SSLError) or any(
            isinstance(e, ssl.SSLCertVerificationError) for e in chain
        ):
            reason = next((e.verify_message for e in chain if isinstance(e, ssl.SSLCertVerificationError)), "")
            return TLSFailed(
                f"The TLS certificate of {self.host} cannot be verified{': ' + reason if reason else ''}. "
                f"Point `verify` to your CA bundle, or check the URL.",
                not_sent=True,
            )
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return Unreachable(
                f"No CVAT server accepts connections at {self.host} within {self._timeout[0]:g} s. Is it running, and "
                f"is the URL right?",
                not_sent=True,
            )
        if isinstance(error, requests.exceptions.ReadTimeout) or any(isinstance(e, ReadTimeoutError) for e in chain):
            return Timeout(f"CVAT at {self.host} did not answer {method} {path} within {self._timeout[1]:g} s.")
        if any(isinstance(e, NameResolutionError | socket.gaierror) for e in chain):
            return Unreachable(f"The host of {self.host} is unknown. Check the CVAT URL.", not_sent=True)
        if isinstance(error, requests.exceptions.ProxyError) or any(isinstance(e, NewConnectionError) for e in chain):
            return Unreachable(
                f"No CVAT server can be reached at {self.host} ({_reason(chain)}). "
                f"Is it running, and is the URL right?",
                not_sent=True,
            )
        if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError | requests.Timeout):
            return ConnectionCut(f"The connection to CVAT at {self.host} broke during {method} {path}.")
        if isinstance(error, requests.exceptions.ContentDecodingError):
            return ConnectionCut(f"The answer of CVAT at {self.host} to {method} {path} arrived damaged.")
        return self._unusable(error)

    def _unusable(self, error: Exception) -> CVATError:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            if isinstance(self._verify, str):
                return TLSFailed(
                    f"The CA bundle {self._verify!r} given as `verify` cannot be used ({type(error).__name__}). "
                    f"Give the path of a PEM file.",
                    not_sent=True,
                )
            return ConnectionCut(f"The connection to CVAT at {self.host} broke ({type(error).__name__}).")
        return Unreachable(f"{self.base!r} cannot be used as a CVAT URL ({type(error).__name__}).", not_sent=True)

    def _refusal(self, response: requests.Response, method: str, path: str) -> CVATRefusal:
        status = response.status_code
        text = self._server_text(response)
        what = f"{method} {path} on {self.host}"
        said = f": {text}" if text else "."
        kind: type[CVATRefusal]
        if status == 401:
            kind, message = LoginRefused, f"CVAT does not accept the login for {what} (401){said}"
        elif status == 403:
            kind, message = PermissionRefused, f"CVAT does not permit {what} (403){said}"
        elif status in (404, 410):
            kind, message = (
                NotFound,
                f"CVAT knows nothing at {what} ({status}); it was deleted, or is hidden from this user{said}",
            )
        elif status == 429:
            kind, message = Throttled, f"CVAT asks to send fewer requests: {what} (429){said}"
        elif status >= 500:
            kind, message = ServerFailure, f"CVAT failed at {what} ({status}){said}"
        else:
            kind, message = Invalid, f"CVAT refused {what} ({status}){said}"
        return kind(message, method=method, path=path, status=status)

    def _server_text(self, response: requests.Response) -> str:
        """What the server said, in one short line without secrets; of a web page, the title."""
        body = response.text[:20_000]
        try:
            text = "; ".join(_flat(response.json()))
        except ValueError:
            title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
            text = html.unescape(title.group(1)) if title else re.sub(r"<[^>]*>", " ", body)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST_SERVER_TEXT else text[: _LONGEST_SERVER_TEXT - 3] + "..."

    def _parsed(self, response: requests.Response, method: str, path: str) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            kind = "a web page" if "html" in response.headers.get("Content-Type", "") else "something else than JSON"
        raise NotCVAT(
            f"{self.base} answers {method} {path} with {kind}, not as a CVAT server does. "
            f"Check the URL; it is the one that opens CVAT in a browser, without further path.",
            method=method,
            path=path,
            status=response.status_code,
        )


def _may_repeat(error: CVATError, repeat: Repeat) -> bool:
    if isinstance(error, TLSFailed):
        return False
    if isinstance(error, Throttled):
        return True
    if isinstance(error, CVATTransportError):
        return error.not_sent or repeat == "always"
    return repeat == "always" and is_unsure(error)


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _authorization(token: str) -> _Authorization:
    if token.startswith(("Token ", "Bearer ")):
        return _Authorization(token)
    return _Authorization(f"{'Token' if _LOGIN_KEY.fullmatch(token) else 'Bearer'} {token}")


def _split_address(url: str) -> tuple[str, Credentials]:
    """Splits an address into its base, without trailing slash and ``/api``, and the login inside it."""
    try:
        parts = urlsplit(url.strip())
        hostname, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(
            "The CVAT URL cannot be read; expected something like https://cvat.example.org."
        ) from None
    if parts.scheme not in ("http", "https") or not hostname:
        shown = url.strip().rpartition("@")[2]
        raise ConfigurationError(
            f"A CVAT URL begins with http:// or https:// and names a host, got {shown!r}. Example: "
            f"https://cvat.example.org"
        )
    path = parts.path.rstrip("/")
    path = path[: -len("/api")] if path.endswith("/api") else path
    host = f"[{hostname}]" if ":" in hostname else hostname
    netloc = f"{host}:{port}" if port is not None else host
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    return urlunsplit((parts.scheme, netloc, path.rstrip("/"), "", "")), Credentials(username, password)


def _port(parts: Any) -> int:
    return int(parts.port or (443 if parts.scheme == "https" else 80))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception with all that it wraps."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        waiting += [e for e in inner if isinstance(e, BaseException)]


def _reason(chain: list[BaseException]) -> str:
    for error in chain:
        if isinstance(error, ConnectionRefusedError):
            return "connection refused"
        if isinstance(error, requests.exceptions.ProxyError):
            return "the proxy did not let it through"
    return next((e.strerror for e in chain if isinstance(e, OSError) and e.strerror), "no connection")


def _flat(value: object, key: str = "") -> Iterator[str]:
    """The leaves of a JSON error answer as ``key: text``."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(
                inner, "" if name in ("detail", "non_field_errors") else f"{key}.{name}" if key else str(name)
            )
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, key)
    elif value is not None:
        yield f"{key}: {value}" if key else str(value)


__all__ = ["Credentials", "Repeat", "RetryPolicy", "Session", "is_unsure"]
