"""A proxy in front of a server that breaks what passes through it, at a place that a test chooses."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

_LOOPBACK = "127.0.0.1"
_BLOCK = 65_536
_MAINTENANCE = b"<!doctype html><title>Maintenance</title><p>Back soon.</p>"


@dataclass(frozen=True)
class Exchange:
    """A request on its way.

    Attributes:
        method: in capitals
        path: with query
        head: first line and headers, as they came
        length: bytes of its body
    """

    method: str
    path: str
    head: bytes
    length: int


Wire = socket.socket
Break = Callable[["Proxy", Exchange, Wire], None]
"""Answers the client in place of the server; what follows in the request can be read from the wire."""


@dataclass
class _Rule:
    method: str
    path: re.Pattern[str]
    act: Break
    left: int | None
    skip: int


@dataclass
class Traffic:
    """What passed: number of requests by ``(method, path without query)``, and bytes."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    received: int = 0


class Proxy:
    """Passes HTTP on to a server on this machine, one request a connection.

    Use it as a context manager. What is not broken by a rule passes unchanged.

    Args:
        port: the server's; may be changed while running

    Attributes:
        broken: how many requests a rule was applied to
        traffic: what passed
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.broken = 0
        self.traffic = Traffic()
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[Wire] = set()

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server((_LOOPBACK, 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for wire in list(self._open):
            reset(wire)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{_LOOPBACK}:{self._listener.getsockname()[1]}"

    def on(self, method: str, path: str, act: Break, times: int | None = 1, *, skip: int = 0) -> None:
        """Breaks requests.

        Args:
            method: ``"GET"``, ... or ``"*"``
            path: regular expression, searched for in the path with its query
            act: what happens instead
            times: how many requests, None for all
            skip: how many that match pass first
        """
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), act, times, skip))

    def clear(self) -> None:
        """Forgets all rules and counts."""
        with self._lock:
            self._rules.clear()
            self.broken = 0
            self.traffic = Traffic()

    def ask(self, exchange: Exchange, wire: Wire) -> bytes:
        """Lets the server answer; returns the raw answer."""
        with socket.create_connection((_LOOPBACK, self.target), 30) as server:
            server.sendall(_closing(exchange.head))
            left = exchange.length
            while left:
                block = wire.recv(min(_BLOCK, left))
                if not block:
                    raise ConnectionError("the client went away")
                left -= len(block)
                server.sendall(block)
            answer = bytearray()
            while block := server.recv(_BLOCK):
                answer += block
        return bytes(answer)

    def pause(self, seconds: float) -> bool:
        """Waits; False when the proxy is stopping."""
        return not self._stopping.wait(seconds)

    def _accept(self) -> None:
        while True:
            try:
                wire, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(wire)
            threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: Wire) -> None:
        try:
            with wire, contextlib.suppress(OSError):
                exchange = _read_head(wire)
                if exchange is not None:
                    self._pass(exchange, wire)
        finally:
            self._open.discard(wire)

    def _pass(self, exchange: Exchange, wire: Wire) -> None:
        with self._lock:
            self.traffic.requests.append((exchange.method, exchange.path.partition("?")[0]))
            self.traffic.sent += len(exchange.head) + exchange.length
            rule = self._rule_for(exchange)
        if rule is not None:
            rule.act(self, exchange, wire)
            return
        try:
            answer = self.ask(exchange, wire)
        except ConnectionError:
            reset(wire)
            return
        self.traffic.received += len(answer)
        wire.sendall(answer)

    def _rule_for(self, exchange: Exchange) -> _Rule | None:
        for rule in self._rules:
            if rule.method not in ("*", exchange.method) or not rule.path.search(exchange.path) or rule.left == 0:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.left is not None:
                rule.left -= 1
            self.broken += 1
            return rule
        return None


def _read_head(wire: Wire) -> Exchange | None:
    head = bytearray()
    while b"\r\n\r\n" not in head:
        # Byte by byte would be slow, and more than the head must stay on the wire: so look before taking.
        seen = wire.recv(_BLOCK, socket.MSG_PEEK)
        if not seen:
            return None
        end = (bytes(head) + seen).find(b"\r\n\r\n")
        head += wire.recv(len(seen) if end < 0 else end + 4 - len(head))
    method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return Exchange(method, path, bytes(head), int(length[1]) if length else 0)


def _closing(head: bytes) -> bytes:
    """The same head, for a connection that carries one request."""
    kept = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n"


def reset(wire: Wire) -> None:
    """Ends a connection as a crashed machine does: with RST, nothing more is delivered."""
    with contextlib.suppress(OSError):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.close()


# What can happen to a request


def cut_request(share: float) -> Break:
    """Takes that share of the request's body and resets the connection."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        left = int(exchange.length * share)
        while left > 0 and (block := wire.recv(min(_BLOCK, left))):
            left -= len(block)
        reset(wire)

    return act


def silence(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Takes the request and never answers."""
    while proxy.pause(0.05) and wire.fileno() >= 0:
        wire.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            if not wire.recv(_BLOCK):
                return


def drip(seconds: float) -> Break:
    """Has the server do the work and hands its answer over one byte at a time."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        for byte in proxy.ask(exchange, wire):
            wire.sendall(bytes([byte]))
            if not proxy.pause(seconds):
                return

    return act


def cut_answer(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Has the server do the work and hands over the first half of the answer's body."""
    head, _, body = proxy.ask(exchange, wire).partition(b"\r\n\r\n")
    wire.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])


def half_json(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Has the server do the work and answers half of its JSON, whose length agrees."""
    body = proxy.ask(exchange, wire).partition(b"\r\n\r\n")[2]
    answer(wire, 200, body[: len(body) // 2 or 1], "application/json")


def web_page(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Has the server do the work and answers a page with status 200."""
    proxy.ask(exchange, wire)
    answer(wire, 200, _MAINTENANCE, "text/html")


def status_after(status: int) -> Break:
    """Has the server do the work and answers that it failed."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        proxy.ask(exchange, wire)
        answer(wire, status, b'{"detail": "broken on purpose"}', "application/json")

    return act


def status_before(status: int, headers: str = "", detail: str = "broken on purpose") -> Break:
    """Answers that status; the server learns nothing."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        _swallow(exchange, wire)
        answer(wire, status, json.dumps({"detail": detail}).encode(), "application/json", headers)

    return act


def at_most(limit: int) -> Break:
    """Answers 413 to bodies of more bytes, as a proxy before CVAT does; others pass."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        if exchange.length > limit:
            _swallow(exchange, wire)
            answer(wire, 413, b"<html><title>413 Request Entity Too Large</title></html>", "text/html")
        else:
            wire.sendall(proxy.ask(exchange, wire))

    return act


def first(do: Callable[[], object]) -> Break:
    """Does something else, then lets the request pass."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        do()
        wire.sendall(proxy.ask(exchange, wire))

    return act


def rewrite(change: Callable[[bytes], bytes]) -> Break:
    """Changes the body of the server's answer."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        body = change(proxy.ask(exchange, wire).partition(b"\r\n\r\n")[2])
        answer(wire, 200, body, "application/json")

    return act


@functools.cache
def _packed(mebibytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(mebibytes)) + packer.flush()


def unpacks_to(mebibytes: int) -> Break:
    """Answers little, packed, that unpacks to much."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        _swallow(exchange, wire)
        answer(wire, 200, _packed(mebibytes), "application/json", "Content-Encoding: gzip\r\n")

    return act


def announces(size: int) -> Break:
    """Says that an answer of that many bytes comes, and sends a few."""

    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        _swallow(exchange, wire)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        wire.sendall(head.encode() + b"{")

    return act


def answer(wire: Wire, status: int, body: bytes, kind: str, headers: str = "") -> None:
    """Answers in place of the server."""
    head = (
        f"HTTP/1.1 {status} As Asked\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}"
        f"Connection: close\r\n\r\n"
    )
    wire.sendall(head.encode() + body)
    # Closing while the client still sends would reset the connection before it has read the answer.
    time.sleep(0.01)


def _swallow(exchange: Exchange, wire: Wire) -> None:
    left = exchange.length
    while left > 0 and (block := wire.recv(min(_BLOCK, left))):
        left -= len(block)


__all__ = [
    "Exchange",
    "Proxy",
    "Traffic",
    "announces",
    "at_most",
    "cut_answer",
    "cut_request",
    "drip",
    "first",
    "half_json",
    "reset",
    "rewrite",
    "silence",
    "status_after",
    "status_before",
    "unpacks_to",
    "web_page",
]
