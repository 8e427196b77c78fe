"""Requests as the handlers see them, answers as CVAT gives them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

if TYPE_CHECKING:
    from .auth import User
    from .state import ServerState

MEDIA_TYPE = "application/vnd.cvat+json"
# Far more than any client of CVAT sends at once, and little enough to hold in memory.
MAX_BODY = 128 * 1024 * 1024

# What Django shows when it fails outside debug mode; clients have been seen to parse it.
_FAILURE_PAGE = (
    '\n<!doctype html>\n<html lang="en">\n<head>\n  <title>Server Error (500)</title>\n</head>\n<body>\n'
    "  <h1>Server Error (500)</h1><p></p>\n</body>\n</html>\n"
)


class RefusalError(Exception):
    """An answer that says no: raised anywhere below a handler, sent as it is.

    Args:
        status: HTTP status
        body: JSON body, as CVAT words it
        headers: extra answer headers
    """

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class ServerFaultError(Exception):
    """A case in which the real server fails with 500; this one does the same on purpose."""


def invalid(body: Any) -> RefusalError:
    return RefusalError(400, body)


def required(*names: str) -> RefusalError:
    return RefusalError(400, {name: ["This field is required."] for name in names})


def forbidden(detail: str = "You do not have permission to perform this action.") -> RefusalError:
    return RefusalError(403, {"detail": detail})


def missing(model: str) -> RefusalError:
    return RefusalError(404, {"detail": f"No {model} matches the given query."})


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """A request's body, when it may be held in memory.

    Raises:
        RefusalError: 413 for a larger one
    """
    body = bytearray()
    async for chunk in chunks:
        if len(body) + len(chunk) > MAX_BODY:
            raise RefusalError(413, {"detail": f"Request body is too large: at most {MAX_BODY} bytes."})
        body += chunk
    return bytes(body)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, status, dict(headers or {}), media_type=MEDIA_TYPE)


def empty_response(status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(b"", status, dict(headers or {}))


def failure_response() -> Response:
    return Response(_FAILURE_PAGE.encode(), 500, media_type="text/html; charset=utf-8")


@dataclass
class Call:
    """One request, read whole, with the user who made it."""

    state: ServerState
    method: str
    path: str
    base_url: str
    params: Mapping[str, Any]
    query: QueryParams
    headers: Headers
    body: bytes
    user: User | None = None
    client: str = ""
    cookies: Mapping[str, str] = field(default_factory=dict)
    # The id of the organization that was asked for, (None,) for what belongs to none, None for everything.
    organization: tuple[int | None] | None = None

    @property
    def me(self) -> User:
        """The signed-in user; handlers that allow anonymous calls must look at ``user`` instead."""
        if self.user is None:
            raise RefusalError(401, {"detail": "Authentication credentials were not provided."})
        return self.user

    @cached_property
    def json(self) -> Any:
        """The body as JSON; an empty body is an empty object.

        Raises:
            RefusalError: 415 for another content type, 400 for broken JSON
        """
        kind = self.headers.get("content-type", "").split(";")[0].strip().lower()
        if not self.body:
            return {}
        if kind not in ("application/json", MEDIA_TYPE):
            raise RefusalError(415, {"detail": f'Unsupported media type "{kind}" in request.'})
        try:
            return json.loads(self.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise invalid({"detail": f"JSON parse error - {error}"}) from None

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        if not isinstance(self.json, dict):
            raise invalid({"non_field_errors": [f"Invalid data. Expected a dictionary, but got {_kind(self.json)}."]})
        return self.json

    def url(self, path: str, **query: Any) -> str:
        return f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else "")

    @property
    def new_organization_id(self) -> int | None:
        """Where new projects and tasks belong."""
        return None if self.organization is None else self.organization[0]

    def in_organization(self, row: Any) -> bool:
        """Whether a project or task belongs to what was asked for."""
        return self.organization is None or row["organization_id"] == self.organization[0]

    def number(self, name: str) -> int | None:
        """A whole-number query parameter, None when absent."""
        text = self.query.get(name)
        if text is None or text == "":
            return None
        try:
            return int(text)
        except ValueError:
            raise invalid({name: ["Enter a number."]}) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"Out of range float values are not JSON compliant: {name}")


def _kind(value: Any) -> str:
    return type(value).__name__


Handler = Callable[[Call], Response]


def page(call: Call, rows: Sequence[Any], render: Callable[[Any], Any]) -> Response:
    """A page of a list, in CVAT's envelope: ``page`` from 1, ``page_size`` 10 unless asked, ``all`` for everything."""
    text = call.query.get("page_size", "")
    size = len(rows) or 1 if text == "all" else _positive(text, default=10)
    number = _positive(call.query.get("page", ""), default=1)
    first = (number - 1) * size
    if number > 1 and first >= len(rows):
        raise RefusalError(404, {"detail": "Invalid page."})

    def link(target: int) -> str:
        pairs = [(key, value) for key, value in call.query.multi_items() if key != "page"]
        if target > 1:
            pairs.append(("page", str(target)))
        query = urlencode(sorted(pairs, key=lambda pair: pair[0]))
        return f"{call.base_url}{call.path}" + (f"?{query}" if query else "")

    return json_response(
        {
            "count": len(rows),
            "next": link(number + 1) if first + size < len(rows) else None,
            "previous": link(number - 1) if number > 1 else None,
            "results": [render(row) for row in rows[first : first + size]],
        }
    )


def _positive(text: str, default: int) -> int:
    return int(text) if text.isdecimal() and int(text) > 0 else default


__all__ = [
    "Call",
    "Handler",
    "RefusalError",
    "ServerFaultError",
    "empty_response",
    "failure_response",
    "forbidden",
    "invalid",
    "json_response",
    "missing",
    "page",
    "read_body",
    "required",
]
