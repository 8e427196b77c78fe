"""What came back, as an error in one sentence: failures of the network, and answers that say no."""

from __future__ import annotations

import html
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

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

UNSURE_STATUSES = frozenset({502, 503, 504})
"""Answers of a proxy in front of CVAT: the request may or may not have been carried out."""

_LONGEST_SERVER_TEXT = 300


def is_unsure(error: CVATError) -> bool:
    """Whether the request behind this error may have been carried out all the same."""
    if isinstance(error, CVATTransportError):
        return not error.not_sent
    return isinstance(error, ServerFailure) and error.status in UNSURE_STATUSES


def transport_error(error: Exception, *, host: str, timeout: tuple[float, float], verify: bool | str) -> CVATError:
    """Says what a failure of the network means.

    Args:
        error: what requests (or the operating system below it) raised
        host: the server, for the sentence
        timeout: seconds to connect, seconds to read
        verify: how certificates are verified
    """
    if isinstance(error, requests.RequestException):
        chain = list(_chain(error))
        return _unsent(error, chain, host, timeout) or _maybe_sent(error, chain, host, timeout)
    if isinstance(error, OSError) and isinstance(verify, str):
        return TLSFailed(
            f"The CA bundle {verify!r} given as `verify` cannot be used ({type(error).__name__}). Give the path of a "
            f"PEM file.",
            not_sent=True,
        )
    if isinstance(error, OSError):
        return ConnectionCut(f"The connection to CVAT at {host} broke ({type(error).__name__}).")
    return _unusable(error, host)


def _unsent(
    error: requests.RequestException, chain: list[BaseException], host: str, timeout: tuple[float, float]
) -> CVATTransportError | None:
    """The error of a request that cannot have reached the server; None when it can have."""
    certificate = next((e for e in chain if isinstance(e, ssl.SSLCertVerificationError)), None)
    if certificate is not None or isinstance(error, requests.exceptions.SSLError):
        reason = f": {certificate.verify_message}" if certificate is not None else ""
        return TLSFailed(
            f"The TLS certificate of {host} cannot be verified{reason}. Point `verify` to your CA bundle, or check "
            f"the URL.",
            not_sent=True,
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable(
            f"No CVAT server accepts connections at {host} within {timeout[0]:g} s. Is it running, and is the URL "
            f"right?",
            not_sent=True,
        )
    if any(isinstance(e, socket.gaierror) for e in chain):
        return Unreachable(f"The host of {host} is unknown. Check the CVAT URL.", not_sent=True)
    if isinstance(error, requests.exceptions.ProxyError) or any(isinstance(e, NewConnectionError) for e in chain):
        return Unreachable(
            f"No CVAT server can be reached at {host} ({_reason(chain)}). Is it running, and is the URL right?",
            not_sent=True,
        )
    return None


def _maybe_sent(
    error: requests.RequestException, chain: list[BaseException], host: str, timeout: tuple[float, float]
) -> CVATError:
    if isinstance(error, requests.exceptions.ReadTimeout) or any(isinstance(e, ReadTimeoutError) for e in chain):
        return Timeout(f"CVAT at {host} did not answer within {timeout[1]:g} s.")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return ConnectionCut(f"An answer of CVAT at {host} arrived damaged.")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError | requests.Timeout):
        return ConnectionCut(f"The connection to CVAT at {host} broke before the answer was complete.")
    return _unusable(error, host)


def _unusable(error: Exception, host: str) -> CVATTransportError:
    return Unreachable(f"{host!r} cannot be used as a CVAT URL ({type(error).__name__}).", not_sent=True)


def refusal(response: requests.Response, method: str, path: str, *, host: str, secrets: Collection[str]) -> CVATRefusal:
    """The error for an answer of 300 and above, with the server's own words, shortened and without secrets."""
    status = response.status_code
    text = _server_text(response, secrets)
    said = f": {text}" if text else "."
    what = f"{method} {path} on {host}"
    kind: type[CVATRefusal]
    if status == 401:
        kind, message = LoginRefused, f"CVAT does not accept the login for {what} (401){said}"
    elif status == 403:
        kind, message = PermissionRefused, f"CVAT does not permit {what} (403){said}"
    elif status in (404, 410):
        kind = NotFound
        message = f"CVAT knows nothing at {what} ({status}); it was deleted, or is hidden from this user{said}"
    elif status == 429:
        kind, message = Throttled, f"CVAT asks to send fewer requests: {what} (429){said}"
    elif status >= 500:
        kind, message = ServerFailure, f"CVAT failed at {what} ({status}){said}"
    else:
        kind, message = Invalid, f"CVAT refused {what} ({status}){said}"
    return kind(message, method=method, path=path, status=status)


def parsed_json(response: requests.Response, method: str, path: str, *, base: str) -> Any:
    """The answer's JSON, None when it is empty.

    Raises:
        NotCVAT: it is something else, e.g. a web page
    """
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        kind = "a web page" if "html" in response.headers.get("Content-Type", "") else "something else than JSON"
    raise NotCVAT(
        f"{base} answers {method} {path} with {kind}, not as a CVAT server does. Check the URL; it is the one that "
        f"opens CVAT in a browser, without further path.",
        method=method,
        path=path,
        status=response.status_code,
    )


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait, None when it does not say."""
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


def _server_text(response: requests.Response, secrets: Collection[str]) -> str:
    """What the server said, in one short line without secrets; of a web page, the title."""
    try:
        text = "; ".join(_flat(response.json()))
    except ValueError:
        body = response.text[:20_000]
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        text = html.unescape(title.group(1)) if title else re.sub(r"<[^>]*>", " ", body)
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SERVER_TEXT else text[: _LONGEST_SERVER_TEXT - 3] + "..."


def _flat(value: object, key: str = "") -> Iterator[str]:
    """The leaves of a JSON error answer as ``key: text``."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            bare = name in ("detail", "non_field_errors")
            yield from _flat(inner, "" if bare else f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, key)
    elif value is not None:
        yield f"{key}: {value}" if key else str(value)


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


__all__ = ["is_unsure", "parsed_json", "refusal", "retry_after", "transport_error"]
