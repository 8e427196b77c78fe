"""The client's models read every answer that was recorded from a real CVAT 2.54.1."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from conftest import SHARED
from fixtures_cvat_client import ABOUT, FunctionAdapter

from labelprop_cvat.backend.cvat import (
    Comment,
    Credentials,
    CVATClient,
    CVATRefusal,
    DataMeta,
    Invalid,
    InvalidPayload,
    Issue,
    Job,
    Label,
    LabelMap,
    LabelMissing,
    PermissionRefused,
    Project,
    Request,
    RetryPolicy,
    ServerAbout,
    ServerFailure,
    Task,
    Throttled,
    User,
    check_payload,
    points_to_mask,
)
from labelprop_cvat.backend.cvat import session as session_module
from labelprop_cvat.backend.cvat.annotations import objects
from labelprop_cvat.backend.cvat.matching import find_new

TRACES = SHARED / "cvat-2.54.1" / "traces"
pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="the recordings of a real server are not here")

MODELS: list[tuple[str, str, Callable[[dict[str, Any]], object], bool]] = [
    (r"GET", r"/api/server/about", ServerAbout.from_json, False),
    (r"GET", r"/api/users/self", User.from_json, False),
    (r"GET", r"/api/users", User.from_json, True),
    (r"GET|POST|PATCH", r"/api/tasks/\d+", Task.from_json, False),
    (r"POST", r"/api/tasks", Task.from_json, False),
    (r"GET", r"/api/tasks", Task.from_json, True),
    (r"GET|PATCH", r"/api/jobs/\d+", Job.from_json, False),
    (r"POST", r"/api/jobs", Job.from_json, False),
    (r"GET", r"/api/jobs", Job.from_json, True),
    (r"GET", r"/api/labels", Label.from_json, True),
    (r"POST", r"/api/projects", Project.from_json, False),
    (r"GET|PATCH", r"/api/(tasks|jobs)/\d+/data/meta", DataMeta.from_json, False),
    (r"GET", r"/api/requests/.*", Request.from_json, False),
    (r"POST|PATCH", r"/api/issues(/\d+)?", Issue.from_json, False),
    (r"GET", r"/api/issues", Issue.from_json, True),
    (r"POST|PATCH", r"/api/comments(/\d+)?", Comment.from_json, False),
    (r"GET", r"/api/comments", Comment.from_json, True),
]


def recordings() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(TRACES.glob("*.jsonl")):
        with path.open() as lines:
            for line in lines:
                yield path.stem, json.loads(line)


def kind_of(record: dict[str, Any]) -> tuple[Callable[[dict[str, Any]], object], bool] | None:
    for methods, path, model, listed in MODELS:
        if re.fullmatch(methods, record["method"]) and re.fullmatch(path, record["path"]):
            return model, listed
    return None


def test_every_recorded_object_is_read() -> None:
    seen: Counter[str] = Counter()
    for name, record in recordings():
        found = kind_of(record)
        if found is None or record["status"] >= 300:
            continue
        model, listed = found
        body = record["response_body"]
        for item in body["results"] if listed else [body]:
            value = model(item)
            if hasattr(value, "id"):
                assert str(value.id) == str(item["id"]), name
            seen[type(value).__name__] += 1
    assert set(seen) == {
        "ServerAbout", "User", "Task", "Job", "Label", "Project", "DataMeta", "Request", "Issue", "Comment",
    }  # fmt: skip
    assert sum(seen.values()) > 500


def test_recorded_values_arrive() -> None:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for name, record in recordings():
        by_name.setdefault(name, []).append(record)
    mapping = by_name["rest_job_file_mapping"]
    meta = next(DataMeta.from_json(r["response_body"]) for r in mapping if r["path"].endswith("/data/meta"))
    assert [f.name for f in meta.frames][:3] == ["s2_000.jpg", "s2_001.jpg", "s1_000.jpg"]
    deleted = [
        DataMeta.from_json(r["response_body"]).deleted_frames
        for r in by_name["sdk_deleted_frames"]
        if r["path"].endswith("/data/meta")
    ]
    assert (1, 7) in deleted
    jobs = [
        Job.from_json(item)
        for records in by_name.values()
        for r in records
        if r["path"] == "/api/jobs" and r["method"] == "GET" and r["status"] == 200
        for item in r["response_body"]["results"]
    ]
    assert {"annotation", "ground_truth"} <= {j.type for j in jobs}
    failed = [
        Request.from_json(r["response_body"])
        for records in by_name.values()
        for r in records
        if "/api/requests/" in r["path"]
    ]
    assert {"queued", "started", "finished", "failed"} & {f.status for f in failed} >= {"started", "finished", "failed"}


def _replaying(record: dict[str, Any], attempts: int = 1) -> CVATClient:
    """A client of a server that answers everything but the beginning with that record."""
    body = record["response_body"]
    page = body["__text__"] if isinstance(body, dict) and "__text__" in body else body
    headers = {k: v for k, v in record["response_headers"] if k in ("retry-after", "content-type")}

    def answer(request: requests.PreparedRequest) -> tuple[int, object, dict[str, str]]:
        if request.path_url == "/api/server/about" and record["path"] != "/api/server/about":
            return 200, ABOUT, {}
        return record["status"], page, headers

    login = Credentials(token="0" * 40)
    policy = RetryPolicy(attempts=attempts)
    return CVATClient("http://cvat.test", login, adapter=FunctionAdapter(answer), retry=policy)


def test_every_recorded_refusal_is_one_short_sentence() -> None:
    kinds = {400: Invalid, 403: PermissionRefused, 429: Throttled, 500: ServerFailure}
    seen: Counter[int] = Counter()
    for _, record in recordings():
        status = record["status"]
        if status < 400 or record["path"] == "/api/server/about" or record["path"] == "/api/auth/login":
            continue
        with pytest.raises(CVATRefusal) as caught:
            _replaying(record)._session.request(record["method"], record["path"])
        error = caught.value
        assert type(error) is kinds[status]
        assert (error.status, error.path, error.method) == (status, record["path"], record["method"])
        text = str(error)
        assert "\n" not in text
        assert "<" not in text
        assert len(text) < 500
        seen[status] += 1
    assert seen.keys() == {400, 403, 500}


def test_the_recorded_throttling_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(session_module, "sleep", waits.append)
    record = next(r for _, r in recordings() if r["status"] == 429)
    with pytest.raises(Throttled, match="Expected available in 34 seconds"):
        _replaying(record, attempts=2).about()
    assert waits == [34.0]


def _payloads() -> Iterator[tuple[str, dict[str, Any], LabelMap, range]]:
    """What was sent as annotations to jobs whose labels and frames are recorded too."""
    for path in sorted(TRACES.glob("*.jsonl")):
        labels: list[Label] = []
        frames: dict[str, range] = {}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            body = record["response_body"]
            if record["status"] >= 300 or body is None:
                continue
            if record["path"] == "/api/labels":
                labels += [Label.from_json(item) for item in body["results"]]
            if record["path"] == "/api/jobs" and record["method"] == "GET":
                for job in (Job.from_json(item) for item in body["results"]):
                    frames[f"/api/jobs/{job.id}/annotations"] = job.frames
            if record["path"] in frames and record["method"] in ("PUT", "PATCH", "GET"):
                sent = body if record["method"] == "GET" else record["request_body"]
                if "action=delete" not in record["query"] and isinstance(sent, dict) and "shapes" in sent:
                    yield f"{path.stem} {record['method']}", sent, LabelMap(labels), frames[record["path"]]


# The recordings probe on purpose what the server lets through.
DELIBERATE = "mask track|on frame \\d+, but|two keyframes|runs must fill|mixes|only, not for|takes|no shapes|x2 > x1"


def _refusal(payload: dict[str, Any], labels: LabelMap, frames: range) -> str | None:
    try:
        check_payload(payload, labels, frames, ids="absent")
    except InvalidPayload as error:
        return str(error)
    return None


def test_the_checks_let_pass_what_people_and_clients_sent_in_earnest() -> None:
    """Recorded payloads of FiftyOne's own client hold mask tracks and attributes at will; everything else must pass."""
    passed = 0
    for name, payload, labels, frames in _payloads():
        try:
            known = [labels.by_id(item["label_id"]) for _, item in objects(payload)]
        except LabelMissing:
            continue
        stripped = {k: [{**i, "id": None} for i in payload[k]] for k in ("tags", "shapes", "tracks")}
        refusal = _refusal(stripped, labels, frames)
        assert refusal is None or re.search(DELIBERATE, refusal), f"{name}: {refusal}"
        passed += len(known) if refusal is None else 0
    assert passed > 100


def test_recorded_masks_decode() -> None:
    count = 0
    for _, record in recordings():
        body = record["response_body"]
        if record["method"] != "GET" or not record["path"].endswith("/annotations") or record["status"] != 200:
            continue
        for shape in body["shapes"]:
            if shape["type"] != "mask":
                continue
            try:
                _, _, crop = points_to_mask(shape["points"])
            except InvalidPayload:
                continue
            left, top, right, bottom = shape["points"][-4:]
            assert crop.shape == (bottom - top + 1, right - left + 1)
            assert crop.sum() == sum(shape["points"][1:-4:2])
            count += 1
    assert count > 10


def test_recorded_writes_are_recognized_in_the_next_recorded_read() -> None:
    """A lost answer is resolved by reading back: what was PUT must be found in the GET that follows it."""
    checked = 0
    for path in sorted(TRACES.glob("sdk_*.jsonl")):
        last: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            place = record["path"]
            if not re.fullmatch(r"/api/jobs/\d+/annotations", place):
                continue
            if record["method"] == "PUT" and record["status"] == 200:
                last[place] = record["request_body"]
            elif record["method"] == "GET" and record["status"] == 200 and place in last:
                sent = last.pop(place)
                wanted = sum(1 for _ in objects(sent))
                _, count = find_new(sent, record["response_body"], set())
                assert count == wanted, f"{path.stem}: {wanted - count} of {wanted} not recognized"
                checked += wanted
            else:
                last.pop(place, None)
    assert checked > 15
