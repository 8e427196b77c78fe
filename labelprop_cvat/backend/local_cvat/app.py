"""The ASGI application: faults outermost, then the guard, then paths, then the resources."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .faults import Fault, Faults
from .guard import OwnHostsOnly, drain
from .replies import json_response
from .routes import ROUTES
from .state import ServerState

Cut = Callable[[Scope], None]


def make_app(state: ServerState, faults: Faults, cut: Cut) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        state: database, files, workers
        faults: failures on purpose
        cut: cuts the connection that a scope belongs to
    """
    inner = Starlette(routes=ROUTES, exception_handlers={404: _not_found, 405: _not_allowed})
    inner.router.redirect_slashes = False
    inner.state.server = state
    return _FaultSeam(OwnHostsOnly(_WithoutTrailingSlash(inner)), faults, cut)


async def _not_found(request: Request, error: Exception) -> Response:
    return json_response({"detail": "Not found."}, 404)


async def _not_allowed(request: Request, error: Exception) -> Response:
    return json_response({"detail": f'Method "{request.method}" not allowed.'}, 405)


class _WithoutTrailingSlash:
    """CVAT answers most paths with and without a slash at the end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await self._app(scope, receive, send)


class _FaultSeam:
    def __init__(self, app: ASGIApp, faults: Faults, cut: Cut) -> None:
        self._app = app
        self._faults = faults
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._faults.next(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
        elif isinstance(fault.action, int):
            await drain(receive)
            await _status(fault, fault.action)(scope, receive, send)
        else:
            await self._break(fault, scope, receive)

    async def _break(self, fault: Fault, scope: Scope, receive: Receive) -> None:
        if fault.action == "close_after":
            await self._app(scope, receive, _discard)
        elif fault.action == "hang":
            await _wait_for_hangup(receive, fault.seconds)
        self._cut(scope)


def _status(fault: Fault, status: int) -> Response:
    return json_response({"detail": f"A fault that a test asked for: {status}"}, status, fault.headers)


async def _discard(message: Message) -> None:
    """The answer that nobody gets."""


async def _wait_for_hangup(receive: Receive, seconds: float) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(gone(), seconds)


__all__ = ["make_app"]
