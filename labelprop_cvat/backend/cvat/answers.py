"""What came back, as an error in one sentence: failures of the network, and answers that say no."""

from __future__ import annotations

import html
import math
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
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
    PayloadTooLarge,
    PermissionRefused,
    ServerFailure,
    Throttled,
    Timeout,
    TLSFailed,
    Unreachable,
)
from labelprop_cvat.backend.cvat.transport import Answer

_DID_NOTHING = frozenset({501, 505})
"""Failures of the server that leave no doubt: it does not know the request at all."""
_LOGIN_IS_STALE = re.compile(
    r"credentials were not provided|not authenticated|(token|session|signature)[^.]{0,40}(invalid|expired|revoked)"
    r"|(invalid|expired|revoked)[^.]{0,40}(token|session)",
    re.IGNORECASE,
)
"""What servers say with a 403 that other servers answer with a 401."""

_LONGEST_SERVER_TEXT = 300
_MOST_SENTENCES = 20


def is_unsure(error: CVATError) -> bool:
    """Whether the request behind this error may have been carried out all the same.

    A proxy that answers 502 to 504 may have passed it on; a server may fail (500) behind the point where it wrote; and
    an answer that nobody can read may have been a yes.
    """
    if isinstance(error, CVATTransportError):
        return not error.not_sent
    if isinstance(error, NotCVAT):
        return error.status is None or error.status < 300
    return isinstance(error, ServerFailure) and error.status not in _DID_NOTHING


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
        return ConnectionCut(f"The connection to CVAT at {host} broke ({type(error).__name__}). Try again.")
    return _unusable(error, host)


def _unsent(
    error: requests.RequestException, chain: list[BaseException], host: str, timeout: tuple[float, float]
) -> CVATTransportError | None:
    """The error of a request that cannot have reached the server; None when it can have."""
    certificate = next((e for e in chain if isinstance(e, ssl.SSLCertVerificationError)), None)
    # A server that dies in the middle of a TLS connection says nothing about its certificate.
    cut = any(isinstance(e, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError) for e in chain)
    if certificate is not None or (isinstance(error, requests.exceptions.SSLError) and not cut):
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
        return Timeout(f"CVAT at {host} did not answer within {timeout[1]:g} s. Try again when it is less busy.")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return ConnectionCut(
            f"An answer of CVAT at {host} arrived damaged. Try again; if it repeats, look at what is in between."
        )
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError | requests.Timeout):
        return ConnectionCut(
            f"The connection to CVAT at {host} broke before the answer was complete. Try again; nothing is done twice."
        )
    return _unusable(error, host)


def _unusable(error: Exception, host: str) -> CVATTransportError:
    return Unreachable(f"{host!r} cannot be used as a CVAT URL ({type(error).__name__}).", not_sent=True)


def late(seconds: float, host: str) -> Timeout:
    """The error of an exchange that was ended at its deadline."""
    return Timeout(
        f"CVAT at {host} had not answered to the end after {seconds:.0f} s in all, so the connection was closed. Is "
        f"the line too slow, or does something in between hold it?"
    )


def refusal(answer: Answer, method: str, path: str, *, host: str, secrets: Collection[str]) -> CVATRefusal:
    """The error for an answer of 300 and above, with the server's own words, shortened and without secrets."""
    status = answer.status
    text = _server_text(answer, secrets)
    said = f": {text}" if text else "."
    what = f"{method} {path} on {host}"
    kind: type[CVATRefusal]
    if status == 401 or (status == 403 and _LOGIN_IS_STALE.search(text)):
        kind, message = LoginRefused, f"CVAT does not accept the login for {what} ({status}){said}"
    elif status == 403:
        kind, message = PermissionRefused, f"CVAT does not permit {what} (403){said}"
    elif status in (404, 410):
        kind = NotFound
        message = f"CVAT knows nothing at {what} ({status}); it was deleted, or is hidden from this user{said}"
    elif status == 413:
        kind = PayloadTooLarge
        message = f"CVAT, or a proxy before it, takes no request as large as {what} (413){said}"
    elif status == 429:
        kind, message = Throttled, f"CVAT asks to send fewer requests: {what} (429){said}"
    elif status >= 500:
        kind, message = ServerFailure, f"CVAT failed at {what} ({status}){said}"
    else:
        kind, message = Invalid, f"CVAT refused {what} ({status}){said}"
    return kind(message, method=method, path=path, status=status)


def parsed_json(answer: Answer, method: str, path: str, *, base: str) -> Any:
    """The answer's JSON, None when it is empty.

    Raises:
        ConnectionCut: it is half of one
        NotCVAT: it is something else, e.g. a web page
    """
    if not answer.content and (method != "GET" or answer.status == 204):
        return None
    try:
        return answer.json()
    except ValueError:
        sent = answer.headers.get("Content-Type", "")
    if "json" in sent or not answer.content:
        raise ConnectionCut(
            f"The answer of {base} to {method} {path} is damaged: {len(answer.content)} bytes that are no whole JSON.",
            method=method,
            path=path,
            status=answer.status,
        )
    kind = "a web page" if "html" in sent else "something else than JSON"
    raise NotCVAT(
        f"{base} answers {method} {path} with {kind}, not as a CVAT server does. Check the URL; it is the one that "
        f"opens CVAT in a browser, without further path.",
        method=method,
        path=path,
        status=answer.status,
    )


def retry_after(answer: Answer) -> float | None:
    """Seconds that the server asks to wait, None when it does not say."""
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _server_text(answer: Answer, secrets: Collection[str]) -> str:
    """What the server said, in one short line without secrets; of a web page, the title."""
    try:
        text = "; ".join(islice(_flat(answer.json()), _MOST_SENTENCES))
    except (ValueError, RecursionError):
        body = answer.text[:20_000]
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


__all__ = ["is_unsure", "late", "parsed_json", "refusal", "retry_after", "transport_error"]
