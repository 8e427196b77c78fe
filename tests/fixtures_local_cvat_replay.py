"""Replays recordings of a real CVAT server against a local one and compares the answers.

Recordings of one server hang together: tasks made in one file are used in another. So all are replayed as one history,
in the order of time, on a server that starts empty as the recorded one did. Ids differ; each recorded id is tied to a
local one when both first appear in the same place of an answer, and must stay tied to it.
"""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

RECORDED_HOST = "http://127.0.0.1:8090"
PASSWORDS = {"admin": "admin-secret", "annotator1": "annotator-secret", "reviewer1": "reviewer-secret"}

# Who made a request is not in the recordings; these were not the administrator's, as their answers show.
_ANNOTATOR = {
    "sdk_review": {12, *range(18, 36)},
    "sdk_issues": {2, 11, 13},
    "sdk_misc": {3},
    "sdk_mask_segments2": {37},
}
_REVIEWER = {"sdk_issues": {1}}

# An id in an answer belongs to the collection it stands in, or to what its key says.
_COLLECTIONS = {
    "tasks": "task",
    "jobs": "job",
    "labels": "label",
    "projects": "project",
    "issues": "issue",
    "comments": "comment",
    "webhooks": "webhook",
    "users": "user",
    "access_tokens": "token",
    "settings": "settings",
}
_NESTED = {"attributes": "spec", "sublabels": "label", "owner": "user", "assignee": "user", "sender": "user"}
_REFERENCES = {
    "task_id": "task",
    "job_id": "job",
    "project_id": "project",
    "label_id": "label",
    "spec_id": "spec",
    "issue_id": "issue",
    "job": "job",
    "issue": "issue",
    "webhook_id": "webhook",
    "data": "data",
}
# Keys whose values cannot be the same; only their kind is compared.
_FREE = {
    "key",
    "color",
    "created_date",
    "updated_date",
    "assignee_updated_date",
    "chunks_updated_date",
    "last_login",
    "date_joined",
    "last_used_date",
    "email",
    "logo_url",
}
_PROGRESS = {"status", "message", "started_date", "finished_date", "expiry_date"}
_COMPARED_HEADERS = (
    "tus-resumable",
    "tus-version",
    "tus-max-size",
    "access-control-expose-headers",
    "upload-offset",
    "upload-length",
    "upload-filename",
)


class MismatchError(AssertionError):
    """An answer differs from the recorded one; the message says where."""


@dataclass
class Record:
    """One recorded request and its answer."""

    file: str
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.file}#{self.raw['n']} {self.raw['method']} {self.raw['path']}?{self.raw['query']}"

    @property
    def task_id(self) -> int | None:
        found = re.search(r"/api/tasks/(\d+)", self.raw["path"]) or re.search(
            r"target_id[=%3D]+(\d+)", self.raw["path"]
        )
        return int(found.group(1)) if found else None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.raw["request_headers"] if key.lower() == name.lower()), None)


@dataclass
class Outcome:
    """What a replay did."""

    replayed: int = 0
    made_up: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    relaxed: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)


def load_records(folder: Path) -> list[Record]:
    records = [Record(path.stem, json.loads(line)) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
    return sorted(records, key=lambda record: float(record.raw["t"]))


class Replay:
    """Replays records in order; see :meth:`run`."""

    def __init__(self, url: str, records: list[Record], set_clock: Callable[[float], None]) -> None:
        self._url = url
        self._records = records
        self._set_clock = set_clock
        self._ids: dict[str, dict[int, int]] = defaultdict(dict)
        self._uploads: dict[str, str] = {}
        self._relaxed: Counter[str] = Counter()
        self._made = {
            record.raw["response_body"]["id"]
            for record in records
            if record.raw["method"] == "POST" and record.raw["path"] == "/api/tasks"
        }
        self._with_jobs = {
            int(job["task_id"])
            for record in records
            if record.raw["path"] == "/api/jobs" and isinstance(record.raw["response_body"], dict)
            for job in record.raw["response_body"].get("results", [])
        }
        self._media = _Media(records)
        self._sessions = {name: _Session(url, name, password) for name, password in PASSWORDS.items()}

    def run(self) -> Outcome:
        outcome = Outcome(relaxed=self._relaxed)
        for record in self._records:
            reason = self._reason_to_leave_out(record)
            if reason is not None:
                outcome.left_out[reason] += 1
                continue
            self._set_clock(float(record.raw["t"]))
            try:
                self._make_up(record, outcome)
                self._replay(record)
            except MismatchError as error:
                outcome.mismatches.append(f"{record.name}: {error}")
            outcome.replayed += 1
        return outcome

    def _reason_to_leave_out(self, record: Record) -> str | None:
        path = record.raw["path"]
        if path.startswith("/api/schema"):
            return "the OpenAPI document, which was not kept in the recording"
        if path == "/api/events":
            return "the audit log, which no client of this project reads"
        if "/dataset/export" in path or "action=export" in path or path == "/api/server/annotation/formats":
            return "dataset export, which no client of this project uses"
        return None

    # What happened between the recordings

    def _make_up(self, record: Record, outcome: Outcome) -> None:
        """Do what was done to the recorded server unseen: edits before a load, calls before the throttle shut."""
        raw = record.raw
        if record.file == "sdk_misc" and raw["n"] == 12:
            self._make_up_calls(float(raw["t"]))
            outcome.made_up += 1
        if record.file == "image_with_gt_job_load" and raw["n"] == 1:
            self._make_up_ground_truth(raw["response_body"]["id"])
            outcome.made_up += 2
        if record.file.endswith(("_after_edit", "_load")) and raw["path"].endswith("/annotations"):
            outcome.made_up += self._make_up_edits(record)

    def _make_up_calls(self, moment: float) -> None:
        self._set_clock(moment - 5.3)
        for _ in range(3):
            requests.get(f"{self._url}/api/server/about", timeout=60)
        self._set_clock(moment)

    def _make_up_ground_truth(self, recorded_task: int) -> None:
        task_id = self._id("task", recorded_task)
        body = {
            "type": "ground_truth",
            "task_id": task_id,
            "frame_selection_method": "manual",
            "frames": [0, 1],
        }
        self._admin("POST", "/api/jobs", body)
        self._admin("PATCH", f"/api/tasks/{task_id}/data/meta", {"deleted_frames": [3]})

    def _make_up_edits(self, record: Record) -> int:
        """Bring a job's annotations to the recorded state, by as few changes as a person would make."""
        path = self._path(record)
        now = self._admin("GET", path).json()
        if "tags" not in now:
            raise MismatchError(f"no annotations at {path}: {now}")
        wanted = self._translate(record.raw["response_body"], "annotations")
        changes = 0
        for kind in ("tags", "shapes", "tracks"):
            old = {item["id"]: item for item in now[kind]}
            new = {item["id"]: item for item in wanted[kind]}
            steps = {
                "delete": [item for identity, item in old.items() if identity not in new],
                "update": [item for identity, item in new.items() if identity in old and item != old[identity]],
                "create": [_without_ids(item) for identity, item in new.items() if identity not in old],
            }
            for action, items in steps.items():
                if items:
                    body = {"version": 0, "tags": [], "shapes": [], "tracks": [], kind: items}
                    self._admin("PATCH", f"{path}?action={action}", body)
                    changes += 1
        return changes

    def _admin(self, method: str, path: str, body: Any = None) -> requests.Response:
        admin = self._sessions["admin"]
        headers = {"Authorization": admin.authorization("Token")}
        return admin.plain.request(method, self._url + path, json=body, headers=headers, timeout=60)

    # One request

    def _replay(self, record: Record) -> None:
        answer = self._send(record)
        self._wait_for_ingest(record, answer)
        raw = record.raw
        if answer.status_code != raw["status"]:
            raise MismatchError(f"status {answer.status_code} instead of {raw['status']}: {answer.text[:300]}")
        self._compare_headers(record, answer)
        self._compare_body(record, answer)

    def _send(self, record: Record) -> requests.Response:
        raw = record.raw
        session, headers = self._identity(record)
        for key, value in raw["request_headers"]:
            if key.lower().startswith(("upload-", "tus-")) or key.lower() in ("origin", "accept", "x-organization"):
                headers[key] = value
        arguments: dict[str, Any] = {}
        body = raw["request_body"]
        if isinstance(body, dict) and "__multipart__" in body:
            arguments["data"], arguments["files"] = self._media.form(record, body["__multipart__"])
        elif isinstance(body, dict) and "__binary__" in body:
            headers["Content-Type"] = body["__binary__"]
            arguments["data"] = self._media.tus_part(record, body["__size__"])
        elif body is not None:
            arguments["json"] = self._request_body(record, body)
        url = self._url + self._path(record)
        return session.request(raw["method"], url, headers=headers, timeout=60, **arguments)

    def _identity(self, record: Record) -> tuple[requests.Session, dict[str, str]]:
        name, number = "admin", record.raw["n"]
        if number in _ANNOTATOR.get(record.file, ()):
            name = "annotator1"
        if number in _REVIEWER.get(record.file, ()):
            name = "reviewer1"
        known = self._sessions[name]
        scheme = record.header("Authorization")
        if scheme is not None:
            return known.plain, {"Authorization": known.authorization(scheme)}
        if record.header("Cookie") is not None:
            return known.cookies, {"X-CSRFToken": known.csrf, "Referer": f"{self._url}/api/auth/login"}
        return requests.Session(), {}

    def _path(self, record: Record) -> str:
        path = record.raw["path"]
        path = self._addresses(path)
        path = re.sub(
            r"(target_id(?:=|%3D))(\d+)",
            lambda found: found.group(1) + str(self._id("task", int(found.group(2)))),
            path,
        )
        for recorded, local in self._uploads.items():
            path = path.replace(recorded, local)
        query = self._query(record.raw["query"])
        return path + (f"?{query}" if query else "")

    def _addresses(self, text: str) -> str:
        """Local ids in the addresses of a text."""

        def local(found: re.Match[str]) -> str:
            return f"/{found.group(1)}/{self._id(_COLLECTIONS[found.group(1)], int(found.group(2)))}"

        return re.sub(rf"/({'|'.join(_COLLECTIONS)})/(\d+)", local, text)

    def _query(self, query: str) -> str:
        pairs = []
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            if name in _REFERENCES:
                value = str(self._id(_REFERENCES[name], int(value)))
            if name == "filter":
                value = re.sub(
                    r'(\{"var": "task_id"\}, )(\d+)',
                    lambda found: found.group(1) + str(self._id("task", int(found.group(2)))),
                    value,
                )
            pairs.append((name, value))
        return urllib.parse.urlencode(pairs)

    def _id(self, kind: str, recorded: int) -> int:
        return self._ids[kind].get(recorded, recorded)

    def _request_body(self, record: Record, body: Any) -> Any:
        if record.raw["path"] == "/api/auth/login":
            wrong = record.raw["status"] == 400
            return {**body, "password": "wrong" if wrong else PASSWORDS[body["username"]]}
        if record.raw["path"] == "/api/webhooks":
            # Port 9 of this machine refuses: no delivery may leave the test.
            return {**body, "project_id": self._id("project", body["project_id"]), "target_url": "http://127.0.0.1:9/"}
        kind = "annotations" if record.raw["path"].endswith("/annotations") else ""
        return self._translate(body, kind)

    def _translate(self, value: Any, kind: str) -> Any:
        if isinstance(value, list):
            return [self._translate(item, kind) for item in value]
        if not isinstance(value, dict):
            return value
        translated = {}
        for key, item in value.items():
            if key in _REFERENCES and isinstance(item, int):
                translated[key] = self._id(_REFERENCES[key], item)
            elif key == "id" and isinstance(item, int):
                translated[key] = self._id(kind, item)
            else:
                translated[key] = self._translate(item, _child_kind(kind, key))
        return translated

    def _wait_for_ingest(self, record: Record, answer: requests.Response) -> None:
        """Let the upload's processing end, so that what follows does not depend on time."""
        if record.raw["method"] != "POST" or answer.status_code != 202 or "rq_id" not in answer.text:
            return
        path = f"/api/requests/{urllib.parse.quote(answer.json()['rq_id'], safe='')}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._admin("GET", path).json()["status"] in ("finished", "failed"):
                return
            time.sleep(0.01)
        raise MismatchError("the upload was not processed within a minute")

    # Comparing

    def _compare_headers(self, record: Record, answer: requests.Response) -> None:
        recorded = {key.lower(): value for key, value in record.raw["response_headers"]}
        for name in _COMPARED_HEADERS:
            if name in recorded and answer.headers.get(name) != recorded[name]:
                raise MismatchError(f"header {name}: {answer.headers.get(name)!r} instead of {recorded[name]!r}")
        if "retry-after" in recorded and abs(int(answer.headers["retry-after"]) - int(recorded["retry-after"])) > 1:
            raise MismatchError(f"Retry-After {answer.headers['retry-after']} instead of {recorded['retry-after']}")
        kind = recorded.get("content-type", "").split(";")[0]
        if kind and recorded.get("content-length") != "0":
            found = answer.headers.get("content-type", "").split(";")[0]
            if found != kind:
                raise MismatchError(f"content type {found} instead of {kind}")
        if "upload-length" in {key.lower() for key, _ in record.raw["request_headers"]} and "location" in recorded:
            self._uploads[recorded["location"].rsplit("/", 1)[-1]] = answer.headers["location"].rsplit("/", 1)[-1]

    def _compare_body(self, record: Record, answer: requests.Response) -> None:
        body = record.raw["response_body"]
        if body is None:
            if answer.content:
                raise MismatchError(f"an answer where none was recorded: {answer.text[:200]}")
        elif isinstance(body, dict) and "__text__" in body:
            if answer.text != body["__text__"]:
                raise MismatchError(f"text {answer.text[:200]!r}")
        elif isinstance(body, dict) and "__binary__" in body:
            if not answer.content:
                raise MismatchError("no content")
        else:
            self._compare_json(record, body, answer.json())

    def _compare_json(self, record: Record, body: Any, found: Any) -> None:
        resource = record.raw["path"].removeprefix("/api/").strip("/").split("/")
        kind = _answer_kind(resource)
        if "operation" in body:
            self._relaxed["progress of a request: of status and message only the end is compared"] += 1
        if self._timing_dependent(record, body):
            self._relaxed["a list of jobs asked for while the upload was processed: only its keys are compared"] += 1
            self._compare(body, {**found, "count": 0, "results": []}, kind, "")
            return
        if resource == ["tasks"] and record.raw["method"] == "GET" and "name=" not in record.raw["query"]:
            self._relaxed["a list of all tasks, some made outside the recordings: only its keys are compared"] += 1
            body, found = _envelope(body), _envelope(found)
        self._compare(body, found, kind, "")

    def _timing_dependent(self, record: Record, body: Any) -> bool:
        """An empty list of jobs of a task that has some a moment later."""
        found = re.match(r"task_id=(\d+)", record.raw["query"])
        if record.raw["path"] != "/api/jobs" or found is None or body.get("count") != 0:
            return False
        return int(found.group(1)) in self._with_jobs

    def _compare(self, recorded: Any, found: Any, kind: str, where: str) -> None:
        if isinstance(recorded, dict):
            self._compare_objects(recorded, found, kind, where)
        elif isinstance(recorded, list):
            self._compare_lists(recorded, found, kind, where)
        elif isinstance(recorded, str) and isinstance(found, str):
            if self._text(recorded) != _without_seconds(found.replace(self._url, RECORDED_HOST)):
                raise MismatchError(f"{where}: {found!r} instead of {recorded!r}")
        elif not _same_kind(recorded, found):
            raise MismatchError(f"{where}: {found!r} instead of {recorded!r}")
        elif isinstance(recorded, int | float) and not isinstance(recorded, bool):
            if abs(recorded - found) > 1e-9:
                raise MismatchError(f"{where}: {found!r} instead of {recorded!r}")
        elif recorded != found:
            raise MismatchError(f"{where}: {found!r} instead of {recorded!r}")

    def _compare_objects(self, recorded: dict[str, Any], found: Any, kind: str, where: str) -> None:
        if not isinstance(found, dict):
            raise MismatchError(f"{where}: {found!r} instead of an object")
        if set(recorded) != set(found):
            raise MismatchError(
                f"{where}: keys missing {sorted(set(recorded) - set(found))}, new {sorted(set(found) - set(recorded))}"
            )
        is_request = "operation" in recorded
        # Ids first: addresses beside them contain them.
        for key, value in sorted(recorded.items(), key=lambda item: item[0] != "id"):
            place = f"{where}.{key}"
            if is_request and key in _PROGRESS:
                if key == "status" and value in ("finished", "failed") and found[key] != value:
                    raise MismatchError(f"{place}: {found[key]!r} instead of {value!r}")
            elif key == "assignee_updated_date" and "segment_size" in recorded:
                # The real server forgets a task's date again when annotations are saved.
                continue
            elif key in _FREE or (key == "value" and kind == "token") or value == "<removed>":
                if not _same_kind(value, found[key]):
                    raise MismatchError(f"{place}: {found[key]!r} is of another kind than {value!r}")
            elif key in ("name", "description", "subtitle") and "logo_url" in recorded:
                _check_text(found[key], place)
            elif key == "target_url" or (kind == "ping" and key in ("status_code", "response")):
                continue
            elif key == "id" and isinstance(value, int):
                self._tie(kind, value, found[key], place)
            elif key in _REFERENCES and isinstance(value, int) and not isinstance(value, bool):
                self._tie(_REFERENCES[key], value, found[key], place)
            else:
                self._compare(value, found[key], _child_kind(kind, key), place)

    def _compare_lists(self, recorded: list[Any], found: Any, kind: str, where: str) -> None:
        if not isinstance(found, list) or len(found) != len(recorded):
            size = len(found) if isinstance(found, list) else found
            raise MismatchError(f"{where}: {size!r} items instead of {len(recorded)}")
        if recorded and all(isinstance(item, dict) and set(item) == {"spec_id", "value"} for item in recorded):
            # The order of attributes is nowhere defined.
            recorded = sorted(recorded, key=lambda item: self._id("spec", item["spec_id"]))
            found = sorted(found, key=lambda item: int(item["spec_id"]))
        named = all(isinstance(item, dict) and "id" in item for item in recorded)
        if kind in ("shape", "tag") and named and {item["id"] for item in recorded} <= set(self._ids[kind]):
            # Objects of one frame come in whatever order the database likes.
            order = {self._id(kind, item["id"]): position for position, item in enumerate(recorded)}
            found = sorted(found, key=lambda item: order.get(item["id"], len(order)))
        for position, (one, other) in enumerate(zip(recorded, found, strict=True)):
            self._compare(one, other, kind, f"{where}[{position}]")

    def _tie(self, kind: str, recorded: int, found: Any, where: str) -> None:
        if not isinstance(found, int):
            raise MismatchError(f"{where}: {found!r} instead of an id")
        if self._ids[kind].setdefault(recorded, found) != found:
            raise MismatchError(f"{where}: {kind} {found} instead of {self._ids[kind][recorded]}")

    def _text(self, text: str) -> str:
        text = self._addresses(text)
        text = re.sub(
            r"\b(task|job|project|issue)_id=(\d+)",
            lambda found: f"{found.group(1)}_id={self._id(found.group(1), int(found.group(2)))}",
            text,
        )
        text = re.sub(r"target_id=(\d+)", lambda found: f"target_id={self._id('task', int(found.group(1)))}", text)
        text = re.sub(r"spec_id `(\d+)`", lambda found: f"spec_id `{self._id('spec', int(found.group(1)))}`", text)
        return _without_seconds(text)


def _without_seconds(text: str) -> str:
    """How long a throttled client must wait is compared by its header, with some tolerance."""
    return re.sub(r"available in \d+ seconds?", "available in some seconds", text)


def _without_ids(item: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in item.items() if key != "id"}
    for nested in ("shapes", "elements"):
        if nested in kept:
            kept[nested] = [_without_ids(child) for child in kept[nested]]
    return kept


def _child_kind(kind: str, key: str) -> str:
    if kind in ("annotations", "shape", "track") and key in ("tags", "shapes", "tracks", "elements"):
        if key == "elements":
            return kind
        return {"tags": "tag", "shapes": "tracked_shape" if kind == "track" else "shape", "tracks": "track"}[key]
    if key == "webhook":
        return "webhook"
    return _NESTED.get(key, kind)


def _answer_kind(resource: list[str]) -> str:
    """Whose ids stand at the top of an answer."""
    for part in ("access_tokens", "settings"):
        if part in resource:
            return _COLLECTIONS[part]
    if resource[-1] in ("annotations", "meta", "ping"):
        return resource[-1]
    return _COLLECTIONS.get(resource[0], resource[0])


def _same_kind(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return type(one) is type(other)
    if isinstance(one, int | float):
        return isinstance(other, int | float)
    return type(one) is type(other)


def _check_text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise MismatchError(f"{where}: {value!r} is no text")


def _envelope(body: dict[str, Any]) -> dict[str, Any]:
    """A list of all tasks without those that were made outside the recordings: its envelope."""
    return {"previous": body["previous"], "keys": sorted(body["results"][0]) if body["results"] else []}


class _Session:
    """One user's ways to sign in."""

    def __init__(self, url: str, name: str, password: str) -> None:
        self._name = name
        self._password = password
        self.plain = requests.Session()
        self.cookies = requests.Session()
        answer = self.cookies.post(f"{url}/api/auth/login", json={"username": name, "password": password}, timeout=60)
        answer.raise_for_status()
        self._key = answer.json()["key"]

    @property
    def csrf(self) -> str:
        return self.cookies.cookies["csrftoken"]

    def authorization(self, recorded: str) -> str:
        if "Basic" in recorded:
            return requests.auth._basic_auth_str(self._name, self._password)
        return f"Token {self._key}"


class _Media:
    """Files with the names and sizes of the recorded ones; their contents were not kept."""

    def __init__(self, records: list[Record]) -> None:
        self._sizes: dict[tuple[int, str], tuple[int, int]] = {}
        self._lengths: dict[tuple[str, int], int] = {}
        self._tus: dict[str, bytes] = {}
        self._tus_offsets: dict[str, int] = defaultdict(int)
        videos: dict[int, tuple[str, int]] = {}
        for record in records:
            task_id = record.task_id
            body = record.raw["response_body"]
            if task_id is not None and record.raw["path"].endswith("/data/meta") and "frames" in (body or {}):
                for frame in body["frames"]:
                    self._sizes[task_id, frame["name"]] = (frame["width"], frame["height"])
                if body["chapters"] is not None and body["frame_filter"] == "" and task_id in videos:
                    self._lengths[videos[task_id]] = body["size"]
            for name, size in _form_files(record):
                if name.endswith(".mp4") and task_id is not None:
                    videos[task_id] = (name, size)

    def form(self, record: Record, parts: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
        fields, files = [], []
        for part in parts:
            disposition = part["headers"][0]
            name = re.search(r' name="([^"]*)"', disposition)
            filename = re.search(r'filename="([^"]*)"', disposition)
            if name is None:
                raise MismatchError(f"a form part without a name: {disposition}")
            if filename is None:
                fields.append((name.group(1), part["value"]))
            else:
                content = self._content(record, filename.group(1).rsplit("/", 1)[-1], part["size"])
                files.append((name.group(1), (filename.group(1), content)))
        return fields, files

    def tus_part(self, record: Record, size: int) -> bytes:
        upload = record.raw["path"]
        content = self._tus.setdefault(upload, _image(320, 240, 14236))
        start = self._tus_offsets[upload]
        self._tus_offsets[upload] += size
        return content[start : start + size]

    def _content(self, record: Record, name: str, size: int) -> bytes:
        if name.endswith(".mp4"):
            return _video(self._lengths.get((name, size), 12))
        if size < 500:
            return b"\xff\xd8\xff" + b"no image" * (size // 8)
        return _image(*self._sizes.get((record.task_id or 0, name), (320, 240)), size)


def _form_files(record: Record) -> Iterator[tuple[str, int]]:
    body = record.raw["request_body"]
    for part in body.get("__multipart__", []) if isinstance(body, dict) else []:
        found = re.search(r'filename="([^"]*)"', part["headers"][0])
        if found:
            yield found.group(1).rsplit("/", 1)[-1], part["size"]


def _image(width: int, height: int, size: int) -> bytes:
    """A JPEG of at least ``size`` bytes; decoders stop at its end and ignore the filling."""
    _, content = cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 10])
    return content.tobytes().ljust(size, b"\0")


def _video(frames: int) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
        for number in range(frames):
            writer.write(np.full((240, 320, 3), number * 4 % 256, np.uint8))
        writer.release()
        return path.read_bytes()
