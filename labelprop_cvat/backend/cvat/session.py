"""Transport to a CVAT server: login, timeouts, retries, redirects.

Knows HTTP; knows nothing of tasks or annotations. Faults are injected in tests through the
``adapter`` argument, any :class:`requests.adapters.BaseAdapter`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from time import monotonic, sleep
from typing import Any, Literal, TypeAlias, TypeVar

import requests
from requests.adapters import BaseAdapter

from labelprop_cvat import __version__
from labelprop_cvat.backend.cvat.addresses import host_of, moved_base, redirected, split_address
from labelprop_cvat.backend.cvat.answers import (
    is_unsure,
    late,
    parsed_json,
    refusal,
    retry_after,
    transport_error,
)
from labelprop_cvat.backend.cvat.credentials import ANONYMOUS, Authorization, Credentials
from labelprop_cvat.backend.cvat.errors import (
    AnswerTooLarge,
    ConnectionCut,
    CVATError,
    CVATTransportError,
    Invalid,
    LoginRefused,
    NotCVAT,
    NotFound,
    PermissionRefused,
    ServerFailure,
    Throttled,
    TLSFailed,
)
from labelprop_cvat.backend.cvat.logins import LOGINS, Logins
from labelprop_cvat.backend.cvat.models import ServerAbout
from labelprop_cvat.backend.cvat.transport import (
    Answer,
    Body,
    Deadline,
    DeadlineAdapter,
    JSONBody,
    allowance,
    data_of,
    read_answer,
)
from labelprop_cvat.backend.cvat.versions import check_version
from labelprop_cvat.errors import ConfigurationError

logger = logging.getLogger(__name__)

Repeat: TypeAlias = Literal["always", "if_unsent"]
"""When a request may be sent again. ``always``: it reads, or doing it twice is the same as doing it once.
``if_unsent``: only when the first one certainly had no effect; anything else is for the caller to find out."""

T = TypeVar("T")

_TRIES_AT_500 = 3
"""A plain 500 mostly comes again; but CVAT also says so while its database restarts."""
_DEADLINES = 5.0
"""How many times the timeout for the next piece of an answer a whole exchange may take."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to keep trying. The wait doubles from ``first_delay`` up to ``max_delay``, shortened at random by up to
    a half; a server's ``Retry-After`` is honoured in full.

    Args:
        attempts: most often that one request is sent, >= 1; by default enough to outlast a server that restarts
        first_delay: seconds
        max_delay: seconds
        total: seconds after which nothing is tried again; also bounds the wait for ``Retry-After``
    """

    attempts: int = 10
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
    """One login to one server, shared with the other sessions of this process that have the same account.

    Args:
        url: address of the server, with or without a trailing slash, ``/api`` or a path prefix; a ``user:password@`` in
            it is taken out and used when ``credentials`` are empty
        credentials: who logs in; kept in memory only
        headers: sent with every request to this server
        organization: short name of the organization to work in; None for the personal workspace
        verify: True, False, or the path of a CA bundle
        timeout: seconds to connect and seconds to wait for (the next piece of) an answer
        deadline: seconds in which an answer must be there in all, and more for a large body to be sent; None for five
            times the second ``timeout``
        retry: how long to keep trying
        user_agent: None for this package's name and version
        adapter: carries all requests instead of the network, for tests and special transports; what it leads to may be
            anything, so its logins are its own

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
        deadline: float | None = None,
        retry: RetryPolicy | None = None,
        user_agent: str | None = None,
        adapter: BaseAdapter | None = None,
    ) -> None:
        self.base, in_url = split_address(url)
        given = credentials.token is not None or credentials.username is not None or credentials.password is not None
        self._credentials = credentials if given else in_url
        self._timeout = timeout
        self._deadline = deadline if deadline is not None else _DEADLINES * timeout[1]
        self._verify = verify
        self.retry = retry or RetryPolicy()
        self._http = requests.Session()
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        carrier = adapter or DeadlineAdapter()
        self._http.mount("http://", carrier)
        self._http.mount("https://", carrier)
        self._logins = LOGINS if adapter is None else Logins()
        self._http.headers["User-Agent"] = user_agent or f"labelprop-cvat/{__version__}"
        self._http.headers.update(headers or {})
        self._organization = {"X-Organization": organization} if organization else {}
        self._own_authorization = any(name.lower() == "authorization" for name in headers or {})
        self._secrets = [s for s in (self._credentials.password, self._credentials.token) if s]
        self._secrets += [v for v in (headers or {}).values() if len(v) >= 6]
        self._token: str | None = self._credentials.token
        self._authorization, self._other_authorizations = Authorization.of_token(self._token)
        self._about: ServerAbout | None = None
        self._checked = False

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
        """Drops connections and this session's hold on the login, which others may be using."""
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
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Sends a request and parses the answer; None when it is empty. See :meth:`request`."""

        def read(answer: Answer) -> Any:
            return parsed_json(answer, method, path, base=self.base)

        body = None if json is None else JSONBody(json)
        return self._logged_in(method, path, repeat, {"params": params, "headers": headers}, body, read)

    def request(
        self,
        method: str,
        path: str,
        *,
        repeat: Repeat = "always",
        params: Mapping[str, str | int] | None = None,
        body: Body | None = None,
        files: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends a request with login and returns an answer below 300.

        Args:
            path: below the server's address, beginning with ``/api``, already quoted
            repeat: when it may be sent again
            body: read piece by piece as it is sent
            files: small files as ``requests`` takes them

        Raises:
            CVATTransportError: no usable answer within the retry policy
            CVATRefusal: an answer that says no
        """
        content = {"params": params, "files": files, "headers": headers}
        return self._logged_in(method, path, repeat, content, body, lambda answer: answer)

    def _logged_in(
        self,
        method: str,
        path: str,
        repeat: Repeat,
        content: Mapping[str, Any],
        body: Body | None,
        read: Callable[[Answer], T],
    ) -> T:
        about = self.about()
        if not self._checked:
            check_version(about, self.host)
            self._checked = True
        self._ensure_login()
        # Not sent along with anonymous requests: CVAT answers 404 to them when it does not know the organization.
        content = {**content, "headers": {**self._organization, **(content["headers"] or {})}}
        renewed = False
        while True:
            used = self._authorization
            try:
                return self._with_retries(method, path, repeat, self.retry, used, content, body, read)
            except LoginRefused as error:
                refused = error
            if self._other_authorizations:
                self._authorization = self._other_authorizations.pop()
            elif not self._credentials.can_log_in:
                raise self._explained(refused)
            elif renewed:
                raise refused
            else:
                self._renew_login(used)
                renewed = True

    def _explained(self, error: LoginRefused) -> LoginRefused:
        hint = "Has the token expired, or was it revoked? Make a new one and call again; nothing is lost."
        return LoginRefused(f"{error} {hint}", method=error.method, path=error.path, status=error.status)

    def _first_contact(self) -> ServerAbout:
        path = "/api/server/about"
        # A wrong address shall show soon, so this does not go to the length that a run in progress does.
        policy = replace(self.retry, attempts=min(2, self.retry.attempts), total=min(60.0, self.retry.total))
        anonymous = ANONYMOUS
        try:
            answer = self._with_retries("GET", path, "always", policy, anonymous, {}, None, lambda answer: answer)
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
        try:
            return ServerAbout.from_json(parsed_json(answer, "GET", path, base=self.base))
        except ConnectionCut as error:
            raise NotCVAT(
                f"Something answers at {self.base}, but not as a CVAT server does. {error}", method="GET", path=path
            ) from None

    def _ensure_login(self) -> None:
        if self._authorization is not None or self._own_authorization:
            return
        if not self._credentials.can_log_in:
            raise LoginRefused(
                f"CVAT at {self.host} needs a login, but no user name with password and no token is configured. Give "
                f"one of the two."
            )
        self._renew_login(None)

    def _renew_login(self, stale: Authorization | None) -> None:
        """Takes the login that this process has for the account, or logs in where that is the stale one."""
        login = self._logins.of(self.base, self._credentials)
        with login.lock:
            if login.key is None or (stale is not None and stale.says(_header(login.key))):
                login.key = None
                login.key = self._log_in()
            self._token = login.key
        if self._token not in self._secrets:
            self._secrets.append(self._token)
        self._authorization = Authorization(_header(self._token))

    def _log_in(self) -> str:
        account = JSONBody({"username": self._credentials.username, "password": self._credentials.password})
        path = "/api/auth/login"
        try:
            answer = self._with_retries(
                "POST",
                path,
                "always",
                self.retry,
                ANONYMOUS,
                {},
                account,
                lambda answer: parsed_json(answer, "POST", path, base=self.base),
            )
        except (Invalid, LoginRefused, PermissionRefused) as error:
            raise LoginRefused(
                f'CVAT at {self.host} refused the login as "{self._credentials.username}" ({error.status}): wrong '
                f"user name or password, or the account is not active. Try the same in a browser.",
                method="POST",
                path=path,
                status=error.status,
            ) from None
        key = answer.get("key") if isinstance(answer, Mapping) else None
        if not isinstance(key, str) or not key.isascii() or not key.isprintable():
            raise NotCVAT(
                f"CVAT at {self.host} accepted the login but sent no key. Give a personal access token instead.",
                method="POST",
                path=path,
            )
        return key

    def _with_retries(
        self,
        method: str,
        path: str,
        repeat: Repeat,
        policy: RetryPolicy,
        authorization: Authorization | None,
        content: Mapping[str, Any],
        body: Body | None,
        read: Callable[[Answer], T],
    ) -> T:
        started = monotonic()
        failures = 0
        while True:
            remaining = policy.total - (monotonic() - started)
            wait: float | None = None
            try:
                answer = self._send(method, path, authorization, content, body, remaining if failures else None)
                if answer.status < 300:
                    return read(answer)
                error: CVATError = refusal(answer, method, path, host=self.host, secrets=self._secrets)
                wait = retry_after(answer)
                if isinstance(error, Throttled):
                    error.retry_after = wait
            except (CVATTransportError, NotCVAT) as failure:
                error = failure
            failures += 1
            wait = max(wait or 0.0, policy.delay(failures))
            spent = monotonic() - started
            if failures >= policy.attempts or spent + wait > policy.total or not _may_repeat(error, repeat, failures):
                raise error
            logger.warning("%s %s failed (%s), trying again in %.1f s", method, path, type(error).__name__, wait)
            sleep(wait)

    def _send(
        self,
        method: str,
        path: str,
        authorization: Authorization | None,
        content: Mapping[str, Any],
        body: Body | None,
        remaining: float | None,
    ) -> Answer:
        """Sends once, following redirects that stay on the host and do not leave TLS."""
        connect, read = self._timeout
        deadline = self._deadline
        if remaining is not None:
            read = min(read, max(1.0, remaining))
            deadline = min(deadline, max(1.0, remaining))
        url = self.base + path
        for _ in range(4):
            answer = self._exchange(method, path, url, authorization, content, body, (connect, read), deadline)
            logger.debug("%s %s -> %d", method, path, answer.status)
            if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                return answer
            try:
                target = redirected(url, answer.headers["Location"])
            except NotCVAT as error:
                error.method, error.path, error.status = method, path, answer.status
                raise
            if answer.status == 303 and method not in ("GET", "HEAD"):
                # It asks to look elsewhere for what a write did, which no CVAT does.
                return answer
            self.base = moved_base(self.base, url, target)
            url = target
        raise NotCVAT(f"{self.base} redirects in circles; check the URL.", method=method, path=path, status=310)

    def _exchange(
        self,
        method: str,
        path: str,
        url: str,
        authorization: Authorization | None,
        content: Mapping[str, Any],
        body: Body | None,
        timeout: tuple[float, float],
        deadline: float,
    ) -> Answer:
        """One request and the whole of its answer, within the deadline."""
        if body is not None:
            headers = {"Content-Type": body.content_type, **(content.get("headers") or {})}
            content = {**content, "headers": headers, "data": data_of(body)}
        failure: CVATError
        with Deadline(allowance(deadline, body)) as limit:
            try:
                response = self._http.request(
                    method,
                    url,
                    auth=authorization or ANONYMOUS,
                    timeout=timeout,
                    verify=self._verify,
                    allow_redirects=False,
                    stream=True,
                    **content,
                )
                answer = read_answer(response, f"{method} {path} on {self.host}")
                # A connection that is shut amid the headers looks like an answer that ends there.
                if not limit.passed:
                    return answer
                failure = late(limit.seconds, self.host)
            except AnswerTooLarge as error:
                failure = error
            except (requests.RequestException, HTTPException, OSError, UnicodeError) as error:
                if limit.passed:
                    failure = late(limit.seconds, self.host)
                else:
                    failure = transport_error(error, host=self.host, timeout=timeout, verify=self._verify)
        failure.method, failure.path = method, path
        # Raised out here so that the original, which holds the request with its headers, is not its context.
        raise failure


def _header(key: str) -> str:
    return f"Token {key}"


def _may_repeat(error: CVATError, repeat: Repeat, failures: int) -> bool:
    if isinstance(error, TLSFailed):
        return False
    if isinstance(error, Throttled):
        return True
    if isinstance(error, CVATTransportError):
        return error.not_sent or repeat == "always"
    if isinstance(error, ServerFailure) and error.status == 500:
        return repeat == "always" and failures < _TRIES_AT_500
    return repeat == "always" and is_unsure(error)


__all__ = ["Repeat", "RetryPolicy", "Session"]
