"""Seams for testing the CVAT client: answers from a plain function, and a real server whose answers get lost."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict

Answer = tuple[int, object] | tuple[int, object, Mapping[str, str]]

ABOUT = {"name": "Computer Vision Annotation Tool", "description": "", "version": "2.54.1"}
USER = {"id": 7, "username": "ann"}


def response(
    request: requests.PreparedRequest, status: int, body: object, headers: Mapping[str, str]
) -> requests.Response:
    """Makes the answer to a request: bytes as they are, text as HTML, anything else as JSON."""
    answer = requests.Response()
    answer.status_code = status
    answer.request = request
    answer.url = request.url or ""
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/vnd.cvat+json"
    if isinstance(body, str):
        kind, body = "text/html", body.encode()
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    answer.headers = CaseInsensitiveDict({"Content-Type": kind, **headers})
    answer.raw = io.BytesIO(content)
    return answer


class FunctionAdapter(BaseAdapter):
    """Answers by ``function(request)``; an exception it raises is what the network did. Keeps what was sent."""

    def __init__(self, function: Callable[[requests.PreparedRequest], Answer]) -> None:
        super().__init__()
        self._function = function
        self.sent: list[requests.PreparedRequest] = []
        self.options: list[dict[str, Any]] = []

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        self.options.append(options)
        status, body, *headers = self._function(request)
        return response(request, status, body, headers[0] if headers else {})

    def close(self) -> None:
        pass

    def calls(self, method: str, path: str) -> int:
        """How often that was requested."""
        return sum(r.method == method and r.path_url.split("?")[0] == path for r in self.sent)


class LossyAdapter(HTTPAdapter):
    """Carries requests to a real server, but loses some.

    Args:
        lose: asked before each request: "answer" (the server does it, the client never learns), "request" (it never
            arrives, though the client cannot know) or None
    """

    def __init__(self, lose: Callable[[requests.PreparedRequest], str | None]) -> None:
        super().__init__()
        self._lose = lose
        self.lost = 0
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.sent.append(request)
        fate = self._lose(request)
        if fate == "request":
            self.lost += 1
            raise requests.ConnectionError("cut before it arrived", request=request)
        answer = super().send(request, *args, **options)
        if fate == "answer":
            self.lost += 1
            raise requests.ReadTimeout("cut after it arrived", request=request)
        return answer


def lose_first(method: str, piece: str, fate: str, times: int = 1) -> Callable[[requests.PreparedRequest], str | None]:
    """Loses the first few requests of that method whose path (with query) holds ``piece``."""
    left = [times]

    def lose(request: requests.PreparedRequest) -> str | None:
        if left[0] and request.method == method and piece in request.path_url:
            left[0] -= 1
            return fate
        return None

    return lose
