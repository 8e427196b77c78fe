"""From Starlette requests to handlers: authentication, throttling, error answers.

Handlers are plain functions that run in a thread; they get the whole request and block as they like. Uploads are
coroutines, because their bodies are read as they come.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .auth import authenticate
from .replies import Call, Handler, RefusalError, ServerFaultError, failure_response, json_response, read_body
from .state import ServerState

_LOGGER = logging.getLogger(__name__)
Upload = Callable[[Request, Call], Awaitable[Response]]


def route(path: str, *, anonymous: bool = False, **handlers: Handler) -> Route:
    """A resource.

    Args:
        path: Starlette's notation
        anonymous: whether callers may be unknown
        handlers: by method, upper case
    """

    async def endpoint(request: Request) -> Response:
        body = await read_body(request.stream())
        handler = handlers["GET" if request.method == "HEAD" and "HEAD" not in handlers else request.method]
        return await run_in_threadpool(_answer, make_call(request, body), handler, anonymous)

    return Route(path, _guarded(endpoint), methods=list(handlers))


def upload_route(path: str, *, uploads: Mapping[str, Upload], **handlers: Handler) -> Route:
    """A resource some of whose methods read their bodies as they come."""

    async def endpoint(request: Request) -> Response:
        upload = uploads.get(request.method)
        if upload is None:
            body = await read_body(request.stream())
            handler = handlers["GET" if request.method == "HEAD" and "HEAD" not in handlers else request.method]
            return await run_in_threadpool(_answer, make_call(request, body), handler, False)
        call = make_call(request, b"")
        await run_in_threadpool(_identify, call, False)
        return await upload(request, call)

    return Route(path, _guarded(endpoint), methods=[*uploads, *handlers])


def make_call(request: Request, body: bytes) -> Call:
    state: ServerState = request.app.state.server
    return Call(
        state=state,
        method=request.method,
        path=request.url.path,
        base_url=f"http://{request.headers.get('host', 'localhost')}",
        params=request.path_params,
        query=request.query_params,
        headers=request.headers,
        body=body,
        client=request.client.host if request.client else "",
        cookies=request.cookies,
    )


def _answer(call: Call, handler: Handler, anonymous: bool) -> Response:
    _identify(call, anonymous)
    return handler(call)


def _identify(call: Call, anonymous: bool) -> None:
    call.user = authenticate(call)
    if call.user is None:
        call.state.throttle.check(call.client)
        if not anonymous:
            raise RefusalError(401, {"detail": "Authentication credentials were not provided."})
    _find_organization(call)


def _find_organization(call: Call) -> None:
    """The organization that a header or query parameter names; an empty name stands for none at all."""
    slug = call.query.get("org", call.headers.get("x-organization"))
    number = call.number("org_id")
    if slug is None and number is None:
        return
    call.organization = (None,)
    if slug or number is not None:
        with call.state.database.transaction() as tx:
            row = tx.one("SELECT id FROM organization WHERE slug = ? OR id = ?", slug, number)
        if row is None:
            raise RefusalError(404, {"detail": f"{slug or number} organization does not exist."})
        call.organization = (row["id"],)


async def _read_to_the_end(request: Request) -> None:
    """Drop what is left of a body: a client that is still sending would take an early answer for a failure."""
    # Starlette says so when nothing is left.
    with contextlib.suppress(RuntimeError, ClientDisconnect):
        async for _ in request.stream():
            pass


def _guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RefusalError as refusal:
            await _read_to_the_end(request)
            return json_response(refusal.body, refusal.status, refusal.headers)
        except ServerFaultError as fault:
            _LOGGER.info("%s %s: 500 as the real server: %s", request.method, request.url.path, fault)
            return failure_response()
        except ClientDisconnect:
            _LOGGER.info("%s %s: the client hung up", request.method, request.url.path)
            return Response(status_code=400)
        except Exception:
            _LOGGER.exception("%s %s failed", request.method, request.url.path)
            return failure_response()

    return guarded


__all__ = ["make_call", "route", "upload_route"]
