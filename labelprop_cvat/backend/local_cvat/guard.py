"""What the server lets in at all: requests to a name of this machine, and none that another host's page sends.

The server listens on the loopback interface, but any page in a browser on this machine can send requests there. A page
of another host gives itself away by its ``Origin``; one that had its own name resolved to this machine by the ``Host``.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .replies import json_response

_OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class OwnHostsOnly:
    """Refuses what is sent to or from other hosts, before anybody looks at it: 400 for a foreign ``Host``, 403 for a
    foreign ``Origin``.

    Programs send no ``Origin``, or this server's own; both may pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = _refused(Headers(scope=scope)) if scope["type"] == "http" else None
        if refused is not None:
            await drain(receive)
        await (refused or self._app)(scope, receive, send)


async def drain(receive: Receive) -> None:
    """Read a request's body and drop it: a client that is still sending would take an early answer for a failure."""
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and bool(message.get("more_body"))


def _refused(headers: Headers) -> Response | None:
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _is_own(f"http://{host}"):
        detail = f"Invalid HTTP_HOST header: {host!r}. This server answers to names of its own machine only."
        return json_response({"detail": detail}, 400)
    if origin is not None and not _is_own(origin):
        return json_response({"detail": f"Origin checking failed - {origin} does not match any trusted origins."}, 403)
    return None


def _is_own(address: str) -> bool:
    try:
        return urlsplit(address).hostname in _OWN_NAMES
    except ValueError:
        return False


__all__ = ["OwnHostsOnly", "drain"]
