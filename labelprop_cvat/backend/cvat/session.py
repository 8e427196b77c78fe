"""Transport to a CVAT server: login, timeouts, retries, redirects.

Knows HTTP; knows nothing of tasks or annotations. Faults are injected in tests through the
``adapter`` argument, any :class:`requests.adapters.BaseAdapter`.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from time import monotonic, sleep
from typing import Any, Literal, TypeAlias

import requests
from requests.adapters import BaseAdapter

from labelprop_cvat import __version__
from labelprop_cvat.backend.cvat.addresses import host_of, moved_base, redirected, split_address
from labelprop_cvat.backend.cvat.answers import is_unsure, parsed_json, refusal, retry_after, transport_error
from labelprop_cvat.backend.cvat.credentials import ANONYMOUS, Authorization, Credentials
from labelprop_cvat.backend.cvat.errors import (
    CVATError,
    CVATTransportError,
    Invalid,
    LoginRefused,
    NotCVAT,
    NotFound,
    PermissionRefused,
    Throttled,
    TLSFailed,
)
from labelprop_cvat.backend.cvat.models import ServerAbout
from labelprop_cvat.errors import ConfigurationError

logger = logging.getLogger(__name__)

Repeat: TypeAlias = Literal["always", "if_unsent"]
"""When a request may be sent again. ``always``: it reads, or doing it twice is the same as doing it once.
``if_unsent``: only when the first one certainly had no effect; anything else is for the caller to find out."""


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
        self.base, in_url = split_address(url)
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
        self._organization = {"X-Organization": organization} if organization else {}
        self._own_authorization = any(name.lower() == "authorization" for name in headers or {})
        self._secrets = [s for s in (self._credentials.password, self._credentials.token) if s]
        self._secrets += [v for v in (headers or {}).values() if len(v) >= 6]
        self._token: str | None = self._credentials.token
        self._authorization = Authorization.of_token(self._token) if self._token else None
        self._about: ServerAbout | None = None
        self._login_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Session({self.base!r}, username={self._credentials.username!r})"

    @property
    def host(self) -> str:
        """Address for sentences, without path."""
        return host_of(self.base)

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
        return parsed_json(response, method, path, base=self.base)

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
        content: dict[str, object] = {"params": params, "json": json, "data": data, "files": files}
        # Not sent along with anonymous requests: CVAT answers 404 to them when it does not know the organization.
        content["headers"] = {**self._organization, **(headers or {})}
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
        # A wrong address shall show soon, so this does not go to the length that a run in progress does.
        policy = replace(self.retry, attempts=min(2, self.retry.attempts), total=min(60.0, self.retry.total))
        anonymous = ANONYMOUS
        try:
            response = self._with_retries("GET", path, "always", policy, anonymous, {})
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
        return ServerAbout.from_json(parsed_json(response, "GET", path, base=self.base))

    def _ensure_login(self) -> None:
        if self._authorization is not None or self._own_authorization:
            return
        if not self._credentials.can_log_in:
            raise LoginRefused(
                f"CVAT at {self.host} needs a login, but no user name with password and no token is configured."
            )
        self._renew_login(None)

    def _renew_login(self, stale: Authorization | None) -> None:
        with self._login_lock:
            if self._authorization is not None and self._authorization is not stale:
                return
            content = {"json": {"username": self._credentials.username, "password": self._credentials.password}}
            path = "/api/auth/login"
            try:
                response = self._with_retries("POST", path, "always", self.retry, ANONYMOUS, content)
            except (Invalid, LoginRefused, PermissionRefused) as error:
                raise LoginRefused(
                    f'CVAT at {self.host} refused the login as "{self._credentials.username}" ({error.status}): wrong '
                    f"user name or password, or the account is not active.",
                    method="POST",
                    path=path,
                    status=error.status,
                ) from None
            answer = parsed_json(response, "POST", path, base=self.base)
            key = answer.get("key") if isinstance(answer, Mapping) else None
            if not isinstance(key, str) or not key:
                raise NotCVAT(f"CVAT at {self.host} accepted the login but sent no key.", method="POST", path=path)
            self._token = key
            self._secrets.append(key)
            self._authorization = Authorization(f"Token {key}")

    def _with_retries(
        self,
        method: str,
        path: str,
        repeat: Repeat,
        policy: RetryPolicy,
        authorization: Authorization | None,
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
                    error = refusal(response, method, path, host=self.host, secrets=self._secrets)
                    wait = retry_after(response)
            except CVATTransportError as failure:
                error = failure
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
        authorization: Authorization | None,
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
                    auth=authorization or ANONYMOUS,
                    timeout=(connect, read),
                    verify=self._verify,
                    allow_redirects=False,
                    **content,
                )
            except (requests.RequestException, OSError, UnicodeError) as error:
                failure = transport_error(error, host=self.host, timeout=(connect, read), verify=self._verify)
            if failure is not None:
                failure.method, failure.path = method, path
                # Raised out here so that the original, which holds the request with its headers, is not its context.
                raise failure
            logger.debug("%s %s -> %d", method, path, response.status_code)
            if response.status_code not in (301, 302, 307, 308) or "Location" not in response.headers:
                return response
            try:
                target = redirected(url, response.headers["Location"])
            except NotCVAT as error:
                error.method, error.path, error.status = method, path, response.status_code
                raise
            self.base = moved_base(self.base, url, target)
            url = target
        raise NotCVAT(f"{self.base} redirects in circles; check the URL.", method=method, path=path)


def _may_repeat(error: CVATError, repeat: Repeat) -> bool:
    if isinstance(error, TLSFailed):
        return False
    if isinstance(error, Throttled):
        return True
    if isinstance(error, CVATTransportError):
        return error.not_sent or repeat == "always"
    return repeat == "always" and is_unsure(error)


__all__ = ["Repeat", "RetryPolicy", "Session"]
