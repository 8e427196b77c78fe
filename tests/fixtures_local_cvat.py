"""What the tests of the local server share: a thin client and small media."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

from labelprop_cvat.backend.local_cvat import LocalCVAT

LABELS = [
    {
        "name": "car",
        "attributes": [
            {
                "name": "index",
                "mutable": False,
                "input_type": "number",
                "values": ["0", "9", "1"],
                "default_value": "0",
            },
            {"name": "speed", "mutable": True, "input_type": "text", "values": [], "default_value": "slow"},
        ],
    }
]


class Api:
    """A user's calls."""

    def __init__(self, server: LocalCVAT, username: str | None = None, password: str | None = None) -> None:
        self.url = server.url
        self.session = requests.Session()
        body = {"username": username or server.username, "password": password or server.password}
        answer = requests.post(f"{self.url}/api/auth/login", json=body, timeout=10)
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Token {answer.json()['key']}"

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.session.request(
            method, f"{self.url}/api/{path}", json=body, timeout=more.pop("timeout", 20), **more
        )

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def make_task(self, name: str = "task", labels: Any = LABELS, **fields: Any) -> int:
        answer = self.call("POST", "tasks", {"name": name, "labels": labels, **fields})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def upload(self, task_id: int, files: Sequence[tuple[str, bytes]], **fields: Any) -> dict[str, Any]:
        """Send files in one form; returns the ended request."""
        parts = [(f"client_files[{i}]", file) for i, file in enumerate(files)]
        data = {"image_quality": 75, **fields}
        answer = self.session.post(f"{self.url}/api/tasks/{task_id}/data", data=data, files=parts, timeout=20)
        assert answer.status_code == 202, answer.text
        return self.wait(answer.json()["rq_id"])

    def wait(self, request_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.get(f"requests/{urllib.parse.quote(request_id, safe='')}")
            if found["status"] in ("finished", "failed"):
                return found
            time.sleep(0.01)
        raise AssertionError(f"{request_id} did not end")

    def image_task(self, count: int = 4, **fields: Any) -> int:
        task_id = self.make_task(**fields)
        ended = self.upload(task_id, [(f"{i}.png", image(i)) for i in range(count)])
        assert ended["status"] == "finished", ended["message"]
        return task_id

    def jobs(self, task_id: int) -> list[dict[str, Any]]:
        return sorted(self.get(f"jobs?task_id={task_id}")["results"], key=lambda job: int(job["start_frame"]))

    def label(self, task_id: int) -> tuple[int, dict[str, int]]:
        """The first label's id and its attributes' ids by name."""
        label = self.get(f"labels?task_id={task_id}")["results"][0]
        return label["id"], {item["name"]: item["id"] for item in label["attributes"]}


def image(value: int, width: int = 32, height: int = 24) -> bytes:
    _, content = cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))
    return content.tobytes()


def video(path: Path, frames: int = 12) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 24))
    for number in range(frames):
        writer.write(np.full((24, 32, 3), 15 * number, np.uint8))
    writer.release()
    return path.read_bytes()


def payload(**items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": 0, "tags": [], "shapes": [], "tracks": [], **items}


def box(label_id: int, frame: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "rectangle", "frame": frame, "label_id": label_id, "points": [1, 2, 9, 8], **fields}


def track(label_id: int, *frames: int, **fields: Any) -> dict[str, Any]:
    shapes = [{"type": "rectangle", "frame": frame, "points": [frame, 0, frame + 5, 5]} for frame in frames]
    return {"label_id": label_id, "frame": frames[0] if frames else 0, "shapes": shapes, **fields}
