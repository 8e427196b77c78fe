"""Starting and stopping the local server."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from starlette.types import ASGIApp, Scope

from .app import make_app
from .auth import Throttle, add_user, hash_password
from .faults import Faults
from .ingest import Ingest
from .media import MediaStore
from .state import ServerState
from .storage import Database, Files
from .webhooks import WebhookSender

_LOGGER = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8080
_START_TIMEOUT_S = 10.0
_GRACE_S = 0.5
_KEEP_ALIVE_S = 75.0


class LocalCVAT:
    """A CVAT-compatible server in a thread of this process, reachable from this machine only.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. What it holds outlives it when a directory is
    given: another server on the same directory goes on from there.

    Args:
        directory: where everything is kept; made when missing. None: a temporary one, deleted at the end
        port: 0 for any free one
        users: passwords by user name; the first user is the administrator, the others may see only what they own or
            are assigned to. Users that exist already get the new password. None: those that the directory holds, and
            an ``admin`` with a random password when it has none
        anonymous_rate: calls a minute without a login, login itself among them, before 429; None for no limit
        clock: seconds, for counting those calls

    Attributes:
        faults: makes requests fail, for tests
        username, password: the first user's; ``password`` is None when an old directory holds it and nobody gave it
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        *,
        anonymous_rate: int | None = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.faults = Faults()
        self.username = "admin"
        self.password: str | None = None
        self._given_directory = None if directory is None else Path(directory)
        self._given_users = users
        self._requested_port = port
        self._throttle = Throttle(anonymous_rate, clock=clock)
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, without a slash at the end.

        Raises:
            RuntimeError: the server is not running
        """
        return f"http://{LOOPBACK}:{self._live().port}"

    @property
    def app(self) -> ASGIApp:
        """The ASGI application of the running server."""
        return self._live().app

    def start(self) -> LocalCVAT:
        """Start serving.

        Raises:
            RuntimeError: it is running already
            OSError: the port is taken
            ConfigurationError: another server uses the directory, or its format is of another version
        """
        if self._running is not None:
            raise RuntimeError("this local server is running already")
        self._running = _Running(self)
        return self

    def stop(self) -> None:
        """Stop serving and wait until everything is written; does nothing when not running."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> LocalCVAT:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _live(self) -> _Running:
        if self._running is None:
            raise RuntimeError("this local server is not running; use it in a with statement or call start()")
        return self._running

    def _prepare_users(self, database: Database) -> None:
        with database.transaction() as tx:
            first = tx.one("SELECT username FROM user ORDER BY id LIMIT 1")
            users = self._given_users
            if users is None:
                users = {} if first is not None else {"admin": secrets.token_urlsafe(12)}
            if first is not None:
                self.username = first["username"]
            for position, (name, password) in enumerate(users.items()):
                row = tx.one("SELECT id FROM user WHERE username = ?", name)
                if row is None:
                    add_user(tx, name, password, superuser=position == 0)
                else:
                    tx.update("user", row["id"], password=hash_password(password))
        if users:
            self.username, self.password = next(iter(users.items()))


class _Running:
    """A server's thread, workers and files, from start to stop."""

    def __init__(self, server: LocalCVAT) -> None:
        self._temporary = server._given_directory is None
        self._directory = server._given_directory or Path(tempfile.mkdtemp(prefix="local-cvat-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        database = Database(self._directory / "server.sqlite3")
        try:
            server._prepare_users(database)
            self._socket = _listen(server._requested_port)
        except BaseException:
            database.close()
            self._remove_temporary()
            raise
        self.port = int(self._socket.getsockname()[1])
        files = Files(self._directory)
        media = MediaStore(files)
        ingest = Ingest(database, files, media)
        self._state = ServerState(database, files, media, ingest, WebhookSender(database), server._throttle)
        self._connections = _Connections()
        self.app = make_app(self._state, server.faults, self._connections.cut)
        self._loop = _TrackingLoop(self._connections)
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        ingest.start()
        self._state.webhooks.start()
        self._thread = threading.Thread(target=self._serve, name=f"local-cvat-{self.port}", daemon=True)
        self._thread.start()
        self._await_start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                hypercorn_serve(self.app, self._config(), shutdown_trigger=self._stopping.wait)  # type: ignore[arg-type]
            )
        except BaseException as error:
            self._failure = error
            _LOGGER.exception("the local server stopped")
        finally:
            _cancel_tasks(self._loop)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _config(self) -> Config:
        config = Config()
        # From here on hypercorn owns the socket.
        config.bind = [f"fd://{self._socket.detach()}"]
        config.graceful_timeout = 2 * _GRACE_S
        config.keep_alive_timeout = _KEEP_ALIVE_S
        config.errorlog = None
        config.accesslog = None
        return config

    def _await_start(self) -> None:
        try:
            with socket.create_connection((LOOPBACK, self.port), _START_TIMEOUT_S):
                return
        except OSError as error:
            raise RuntimeError(f"the local server did not come up on port {self.port}") from (self._failure or error)

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_stop)
        self._thread.join()
        self._state.ingest.stop()
        self._state.webhooks.stop()
        self._state.media.close()
        self._state.database.close()
        self._remove_temporary()

    def _begin_stop(self) -> None:
        self._stopping.set()
        # Requests that have not ended by then see their client gone; cancelling them would leave tracebacks behind.
        self._loop.call_later(_GRACE_S, self._connections.cut_all)

    def _remove_temporary(self) -> None:
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; choose another port"
        ) from None
    listener.listen(128)
    return listener


class _Connections:
    """The open connections by the client's address, so that a fault can cut one."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.BaseTransport] = {}

    def opened(self, transport: asyncio.BaseTransport) -> None:
        for address in [a for a, known in self._transports.items() if known.is_closing()]:
            del self._transports[address]
        self._transports[tuple(transport.get_extra_info("peername")[:2])] = transport

    def cut(self, scope: Scope) -> None:
        transport = self._transports.pop(tuple(scope["client"]), None)
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def cut_all(self) -> None:
        for transport in self._transports.values():
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()


class _TrackingLoop(asyncio.SelectorEventLoop):
    """An event loop that tells of every connection it accepts."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    async def create_server(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        def tracked() -> Any:
            protocol = protocol_factory()
            made = protocol.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                self._connections.opened(transport)
                made(transport)

            protocol.connection_made = connection_made
            return protocol

        return await super().create_server(tracked, *args, **kwargs)


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def serve(
    directory: str | Path,
    port: int = DEFAULT_PORT,
    users: Mapping[str, str] | None = None,
    *,
    ready: Callable[[LocalCVAT], None] | None = None,
) -> None:
    """Run a server until the process is interrupted.

    Args:
        directory: where everything is kept
        port: 0 for any free one
        users: as for :class:`LocalCVAT`
        ready: called once it answers, with the server: show its ``url``, ``username`` and ``password``

    Raises:
        OSError: the port is taken
        ConfigurationError: another server uses the directory, or its format is of another version
    """
    with LocalCVAT(directory, port, users) as server:
        _LOGGER.info("local CVAT server at %s, user %s", server.url, server.username)
        if ready is not None:
            ready(server)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            _LOGGER.info("stopping")


__all__ = ["DEFAULT_PORT", "LocalCVAT", "serve"]
