"""The local server's behaviour, without recordings: sessions, faults, restarts, concurrency, uploads, jobs."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from fixtures_local_cvat import Api, box, image, payload, track, video

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"admin": "secret", "ann": "ann-secret"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def api(server: LocalCVAT) -> Iterator[Api]:
    yield Api(server)
    server.faults.clear()


# Sessions


def test_login_takes_json_only(server: LocalCVAT) -> None:
    body = {"username": "admin", "password": "secret"}
    assert requests.post(f"{server.url}/api/auth/login", data=body, timeout=10).status_code == 415
    wrong = requests.post(f"{server.url}/api/auth/login", json={**body, "password": "x"}, timeout=10)
    assert (wrong.status_code, wrong.json()) == (
        400,
        {"non_field_errors": ["Unable to log in with provided credentials."]},
    )


def test_a_session_cookie_writes_only_with_its_csrf_token(server: LocalCVAT) -> None:
    session = requests.Session()
    session.post(f"{server.url}/api/auth/login", json={"username": "admin", "password": "secret"}, timeout=10)
    assert session.get(f"{server.url}/api/users/self", timeout=10).json()["username"] == "admin"
    body = {"name": "x", "labels": []}
    assert session.post(f"{server.url}/api/tasks", json=body, timeout=10).status_code == 403
    headers = {"X-CSRFToken": session.cookies["csrftoken"]}
    assert session.post(f"{server.url}/api/tasks", json=body, headers=headers, timeout=10).status_code == 201


def test_strangers_get_nothing_but_the_version(server: LocalCVAT) -> None:
    assert requests.get(f"{server.url}/api/server/about", timeout=10).json()["version"] == "2.54.1"
    assert requests.get(f"{server.url}/api/tasks", timeout=10).status_code == 401
    bad = requests.get(f"{server.url}/api/tasks", headers={"Authorization": "Token no"}, timeout=10)
    assert bad.status_code == 401


def test_logout_ends_the_token(server: LocalCVAT) -> None:
    api = Api(server)
    assert api.call("POST", "auth/logout").status_code == 200
    assert api.call("GET", "users/self").status_code == 401


def test_a_bearer_token_may_be_read_only(api: Api) -> None:
    made = api.call("POST", "auth/access_tokens", {"name": "robot", "read_only": True}).json()
    headers = {"Authorization": f"Bearer {made['value']}"}
    assert requests.get(f"{api.url}/api/users/self", headers=headers, timeout=10).status_code == 200
    assert requests.post(f"{api.url}/api/tasks", json={"name": "x"}, headers=headers, timeout=10).status_code == 403
    assert api.call("DELETE", f"auth/access_tokens/{made['id']}").status_code == 204
    assert requests.get(f"{api.url}/api/users/self", headers=headers, timeout=10).status_code == 401


def test_anonymous_calls_are_throttled_and_login_counts() -> None:
    clock = [0.0]
    with LocalCVAT(users={"admin": "secret"}, anonymous_rate=3, clock=lambda: clock[0]) as server:
        api = Api(server)
        about = f"{server.url}/api/server/about"
        assert [requests.get(about, timeout=10).status_code for _ in range(3)] == [200, 200, 429]
        clock[0] = 18.5
        refused = requests.post(f"{server.url}/api/auth/login", json={}, timeout=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "42")
        assert api.call("GET", "users/self").status_code == 200
        clock[0] = 60.5
        assert requests.get(about, timeout=10).status_code == 200


def test_secrets_are_not_on_the_disk(tmp_path: Path) -> None:
    with LocalCVAT(tmp_path, users={"admin": "a-very-secret-word"}) as server:
        token = Api(server).session.headers["Authorization"].split()[1]
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a-very-secret-word" not in content
    assert token.encode() not in content


# Life of a server


def test_it_listens_on_the_loopback_interface_only(server: LocalCVAT) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    listening = [c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]


def test_many_start_and_stop_quickly_in_one_process() -> None:
    started = time.monotonic()
    servers = [LocalCVAT().start() for _ in range(4)]
    assert time.monotonic() - started < 4
    assert len({server.url for server in servers}) == 4
    held = [Api(server) for server in servers]
    assert [api.get("tasks")["count"] for api in held] == [0, 0, 0, 0]
    started = time.monotonic()
    for server in servers:
        server.stop()
    assert time.monotonic() - started < 4
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{held[0].url}/api/server/about", timeout=2)
    with pytest.raises(RuntimeError, match="not running"):
        _ = servers[0].url


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    with LocalCVAT(tmp_path, users={"boss": "secret"}) as server:
        api = Api(server)
        task_id = api.image_task(3)
        label_id, _ = api.label(task_id)
        job_id = api.jobs(task_id)[0]["id"]
        api.call(
            "PUT", f"jobs/{job_id}/annotations", payload(shapes=[box(label_id, 1)], tracks=[track(label_id, 0, 2)])
        )
        api.call("PATCH", f"jobs/{job_id}", {"state": "completed"})
        before = [api.get(path) for path in (f"tasks/{task_id}/annotations", f"tasks/{task_id}/data/meta")]
        token = api.session.headers["Authorization"]
        port = int(server.url.rsplit(":", 1)[1])

    with LocalCVAT(tmp_path, port) as server:
        assert (server.username, server.password) == ("boss", None)
        api.session.headers["Authorization"] = token
        assert [api.get(path) for path in (f"tasks/{task_id}/annotations", f"tasks/{task_id}/data/meta")] == before
        assert api.get(f"jobs/{job_id}")["state"] == "completed"
        frame = api.session.get(f"{api.url}/api/tasks/{task_id}/data?type=frame&number=2&quality=original", timeout=10)
        assert frame.content == image(2)


def test_an_upload_that_a_stopped_server_left_is_taken_up(tmp_path: Path) -> None:
    with LocalCVAT(tmp_path, users={"admin": "secret"}) as server:
        task_id = Api(server).image_task(2)
    # As if the server had been killed while it worked on the files.
    with contextlib.closing(sqlite3.connect(tmp_path / "server.sqlite3", isolation_level=None)) as database:
        database.execute("UPDATE request SET status = 'started'")
        database.execute("UPDATE data SET ready = 0, size = 0")
        for table in ("job", "image"):
            database.execute(f"DELETE FROM {table}")

    with LocalCVAT(tmp_path, users={"admin": "secret"}) as server:
        api = Api(server)
        assert api.wait(f"action=create&target=task&target_id={task_id}")["status"] == "finished"
        assert len(api.jobs(task_id)) == 1


def test_one_directory_serves_one_server(tmp_path: Path) -> None:
    with LocalCVAT(tmp_path), pytest.raises(ConfigurationError, match="another"):
        LocalCVAT(tmp_path).start()


def test_a_taken_port_is_named(server: LocalCVAT) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match=str(port)):
        LocalCVAT(port=port).start()


# Faults


def test_faults_hit_what_they_name_and_nothing_else(server: LocalCVAT, api: Api) -> None:
    server.faults.add("GET", r"/api/tasks$", 503, times=1, skip=1)
    server.faults.add("GET", r"/api/users", "429", retry_after=7)
    assert [api.call("GET", "tasks").status_code for _ in range(3)] == [200, 503, 200]
    refused = api.call("GET", "users")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert server.faults.triggered == [("GET", "/api/tasks", 503), ("GET", "/api/users", 429)]
    with pytest.raises(ValueError, match="close_after"):
        server.faults.add("GET", "x", "explode")


def test_close_does_nothing_and_close_after_does_it(server: LocalCVAT, api: Api) -> None:
    count = api.get("tasks?page_size=1")["count"]
    server.faults.add("POST", "/api/tasks$", "close")
    with pytest.raises(requests.ConnectionError):
        api.call("POST", "tasks", {"name": "lost"})
    assert api.get("tasks?page_size=1")["count"] == count
    server.faults.add("POST", "/api/tasks$", "close_after")
    with pytest.raises(requests.ConnectionError):
        api.call("POST", "tasks", {"name": "unheard"})
    assert api.get("tasks?name=unheard")["count"] == 1


def test_hang_lets_the_client_time_out(server: LocalCVAT, api: Api) -> None:
    server.faults.add("GET", "about", "hang")
    with pytest.raises(requests.ReadTimeout):
        api.call("GET", "server/about", timeout=0.2)
    assert api.call("GET", "server/about").status_code == 200


def test_a_hanging_request_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with LocalCVAT(users={"admin": "secret"}) as server, ThreadPoolExecutor(1) as pool:
        api = Api(server)
        server.faults.add("GET", "about", "hang")
        hanging = pool.submit(api.call, "GET", "server/about")
        _wait_until(lambda: server.faults.triggered)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        assert isinstance(hanging.exception(timeout=5), requests.ConnectionError)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# Uploads


def test_job_file_mapping_makes_the_jobs(api: Api) -> None:
    task_id = api.make_task()
    files = [(name, image(i)) for i, name in enumerate(("a.png", "b.png", "c.png"))]
    mapping = {
        "job_file_mapping[0][0]": "c.png",
        "job_file_mapping[1][0]": "b.png",
        "job_file_mapping[1][1]": "a.png",
    }
    assert api.upload(task_id, files, **mapping)["status"] == "finished"
    assert [frame["name"] for frame in api.get(f"tasks/{task_id}/data/meta")["frames"]] == ["c.png", "b.png", "a.png"]
    assert [(job["start_frame"], job["stop_frame"]) for job in api.jobs(task_id)] == [(0, 0), (1, 2)]


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ({}, {"sorting_method": "predefined"}, "sorting_method"),
        ({"segment_size": 1}, {}, "segment_size"),
        ({}, {"job_file_mapping[0][1]": "missing.png"}, "missing.png"),
        ({}, {"job_file_mapping[0][1]": "a.png"}, "more than once"),
    ],
)
def test_a_mapping_that_cannot_be_fails_the_request_not_the_post(
    api: Api, task: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    task_id = api.make_task(**task)
    ended = api.upload(task_id, [("a.png", image(1))], **{"job_file_mapping[0][0]": "a.png", **data})
    assert ended["status"] == "failed"
    assert message in ended["message"]
    assert api.jobs(task_id) == []


def test_a_broken_image_fails_the_request_and_may_be_sent_again(api: Api) -> None:
    task_id = api.make_task()
    ended = api.upload(task_id, [("good.png", image(1)), ("broken.png", b"no image")])
    assert (ended["status"], api.jobs(task_id)) == ("failed", [])
    assert "broken.png" in ended["message"]
    assert api.get(f"tasks/{task_id}/status")["state"] == "Failed"
    assert api.upload(task_id, [("broken.png", image(2))])["status"] == "finished"
    again = api.session.post(f"{api.url}/api/tasks/{task_id}/data", json={"image_quality": 70}, timeout=10)
    assert again.status_code == 400


def test_nothing_works_before_the_data_is_in(api: Api) -> None:
    task_id = api.make_task()
    assert api.call("PUT", f"tasks/{task_id}/annotations", payload()).status_code == 500
    assert api.call("GET", f"tasks/{task_id}/data/meta").status_code == 500
    # The trap that makes this address useless for waiting.
    assert api.get(f"tasks/{task_id}/status")["state"] == "Finished"


def _begin_upload(api: Api, task_id: int, name: str, length: int, **headers: str) -> requests.Response:
    import base64

    return api.session.post(
        f"{api.url}/api/tasks/{task_id}/data/",
        headers={
            "Upload-Length": str(length),
            "Tus-Resumable": "1.0.0",
            "Upload-Metadata": f"filename {base64.b64encode(name.encode()).decode()}",
            **headers,
        },
        timeout=10,
    )


def _append(api: Api, location: str, offset: int, content: bytes) -> requests.Response:
    headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
    return api.session.patch(location, content, headers=headers, timeout=10)


def test_an_upload_resumes_where_it_was_cut(api: Api) -> None:
    task_id, content = api.make_task(), image(5)
    api.session.post(f"{api.url}/api/tasks/{task_id}/data/", headers={"Upload-Start": "true"}, timeout=10)
    assert _begin_upload(api, task_id, "a.png", len(content)).status_code == 500  # no Origin
    location = _begin_upload(api, task_id, "a.png", len(content), Origin=api.url).headers["Location"]

    assert _append(api, location, 0, content[:40]).headers["Upload-Offset"] == "40"
    assert _append(api, location, 0, content).status_code == 409
    assert api.session.head(location, timeout=10).headers["Upload-Offset"] == "40"
    assert _append(api, location, 40, content[40:] + b"!").status_code == 413
    assert _append(api, location, 40, content[40:]).status_code == 204
    answer = api.session.post(
        f"{api.url}/api/tasks/{task_id}/data/",
        json={"image_quality": 70},
        headers={"Upload-Finish": "true"},
        timeout=10,
    )
    assert api.wait(answer.json()["rq_id"])["status"] == "finished"
    frame = api.session.get(f"{api.url}/api/tasks/{task_id}/data?type=frame&number=0&quality=original", timeout=10)
    assert frame.content == content


def test_a_name_that_no_header_can_hold_goes_up_too(api: Api) -> None:
    task_id = api.make_task()
    answer = _begin_upload(api, task_id, "straße_街.png", 10, Origin=api.url)
    assert answer.status_code == 201
    assert str(make_header(decode_header(answer.headers["Upload-Filename"]))) == "straße_街.png"


def test_what_arrived_before_the_connection_broke_stays(api: Api) -> None:
    task_id = api.make_task()
    location = _begin_upload(api, task_id, "a.bin", 100_000, Origin=api.url).headers["Location"]
    host, port = location.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as raw:
        head = (
            f"PATCH /{location.split('/', 3)[3]} HTTP/1.1\r\nHost: {host}\r\nUpload-Offset: 0\r\n"
            "Content-Length: 100000\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Authorization: {api.session.headers['Authorization']}"
        )
        raw.sendall(head.encode() + b"\r\n\r\n" + b"x" * 30_000)
        _wait_until(lambda: int(api.session.head(location, timeout=10).headers["Upload-Offset"]) > 0)
    _wait_until(lambda: int(api.session.head(location, timeout=10).headers["Upload-Offset"]) == 30_000)
    assert _append(api, location, 30_000, b"x" * 70_000).status_code == 204


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_file_names_cannot_leave_the_task(api: Api, server: LocalCVAT) -> None:
    task_id = api.make_task()
    assert api.upload(task_id, [("../../../escaped.png", image(1))])["status"] == "finished"
    assert api.get(f"tasks/{task_id}/data/meta")["frames"][0]["name"] == "escaped.png"
    refused = _begin_upload(api, task_id, "..", 3, Origin=api.url)
    assert refused.status_code == 400


def test_a_large_upload_needs_little_memory(api: Api) -> None:
    task_id, size = api.make_task(), 48 * 2**20
    boundary = "x" * 20
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="client_files[0]"; filename="big.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    piece = bytes(2**20)

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(size // len(piece)):
            yield piece
        yield tail

    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Upload-Multiple": "true",
    }
    tracemalloc.start()
    try:
        answer = api.session.post(f"{api.url}/api/tasks/{task_id}/data", body(), headers=headers, timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200, answer.text
    assert peak < 8 * 2**20


# Annotations


def test_annotations_are_filled_in_and_unknown_keys_dropped(api: Api) -> None:
    task_id = api.image_task()
    label_id, spec = api.label(task_id)
    job = api.jobs(task_id)[0]["id"]
    sent = track(label_id, 3, 0, 2, foo=1, score=0.5)
    sent["frame"] = 3
    sent["shapes"][1]["attributes"] = [{"spec_id": spec["speed"], "value": "fast"}]
    answer = api.call("PUT", f"jobs/{job}/annotations", payload(tracks=[sent])).json()
    assert "foo" not in answer["tracks"][0]
    assert answer["tracks"][0]["shapes"][0]["attributes"] == []

    (found,) = api.get(f"jobs/{job}/annotations")["tracks"]
    assert found["frame"] == 0
    assert [shape["frame"] for shape in found["shapes"]] == [0, 2, 3]
    assert [shape["attributes"][0]["value"] for shape in found["shapes"]] == ["fast", "fast", "fast"]
    assert found["attributes"] == [{"spec_id": spec["index"], "value": "0"}]
    assert (found["group"], found["source"], found["shapes"][0]["z_order"]) == (None, "manual", 0)


@pytest.mark.parametrize(
    ("items", "status"),
    [
        ({"tracks": [{"label_id": 0, "frame": 0, "shapes": []}]}, 500),
        ({"shapes": [{"type": "polygon", "points": [1, 1, 2, 2]}]}, 400),
        ({"shapes": [{"type": "blob"}]}, 400),
        ({"shapes": [{"label_id": 999_999}]}, 400),
        ({"shapes": [{"attributes": [{"spec_id": 999_999, "value": "x"}]}]}, 400),
        ({"tracks": [{"id": 7, "label_id": 0, "frame": 0, "shapes": [{"type": "mask", "frame": 0}]}]}, 400),
        ({"shapes": [{"frame": 999}]}, 200),
        ({"shapes": [{"points": [-50, -50, 900, 900]}]}, 200),
    ],
)
def test_what_is_refused_and_what_is_not(api: Api, items: dict[str, Any], status: int) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    job = api.jobs(task_id)[0]["id"]
    if "shapes" in items:
        items = {"shapes": [{**box(label_id), **items["shapes"][0]}]}
    else:
        items = {"tracks": [{**items["tracks"][0], "label_id": label_id}]}
    kept = api.call("PUT", f"jobs/{job}/annotations", payload(shapes=[box(label_id)])).json()["shapes"][0]["id"]
    assert api.call("PUT", f"jobs/{job}/annotations", payload(**items)).status_code == status
    found = [shape["id"] for shape in api.get(f"jobs/{job}/annotations")["shapes"]]
    # A refused PUT leaves everything as it was.
    assert (kept in found) == (status != 200)


def test_patch_adds_changes_and_deletes_by_id(api: Api) -> None:
    task_id = api.image_task(2)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    first, second = (
        api.call("PATCH", f"{path}?action=create", payload(shapes=[box(label_id, frame)])).json()["shapes"][0]
        for frame in (0, 1)
    )
    api.call("PATCH", f"{path}?action=update", payload(shapes=[{**first, "points": [0, 0, 4, 4]}]))
    assert [(s["id"], s["points"][2]) for s in api.get(path)["shapes"]] == [(first["id"], 4), (second["id"], 9)]
    # Without an id an update adds.
    api.call("PATCH", f"{path}?action=update", payload(shapes=[box(label_id)]))
    assert len(api.get(path)["shapes"]) == 3
    assert api.call("PATCH", f"{path}?action=delete", payload(shapes=[{"id": first["id"]}])).status_code == 400
    api.call("PATCH", f"{path}?action=delete", payload(shapes=[first]))
    assert first["id"] not in [shape["id"] for shape in api.get(path)["shapes"]]
    assert api.call("PATCH", path, payload()).status_code == 400


def test_ids_are_never_given_out_twice(api: Api) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    seen = set()
    for _ in range(3):
        answer = api.call("PUT", path, payload(shapes=[box(label_id)], tracks=[track(label_id, 0)])).json()
        ids = (answer["shapes"][0]["id"], answer["tracks"][0]["id"], answer["tracks"][0]["shapes"][0]["id"])
        assert ids not in seen
        seen.add(ids)
    chosen = track(label_id, 0)
    chosen["shapes"][0]["id"] = 5_000
    api.call("PUT", path, payload(tracks=[chosen]))
    fresh = api.call("PUT", path, payload(tracks=[track(label_id, 0)])).json()
    assert fresh["tracks"][0]["shapes"][0]["id"] > 5_000


def test_concurrent_writes_lose_nothing(api: Api, server: LocalCVAT) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    clients = [Api(server) for _ in range(6)]

    def write(client: Api) -> list[int]:
        body = payload(shapes=[box(label_id), box(label_id)])
        answers = [client.call("PATCH", f"{path}?action=create", body) for _ in range(10)]
        return [shape["id"] for answer in answers for shape in answer.json()["shapes"]]

    with ThreadPoolExecutor(6) as pool:
        ids = [identity for batch in pool.map(write, clients) for identity in batch]
    assert len(set(ids)) == 120
    assert {shape["id"] for shape in api.get(path)["shapes"]} == set(ids)


def test_concurrent_uploads_make_their_own_tasks(server: LocalCVAT) -> None:
    clients = [Api(server) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        tasks = list(pool.map(lambda client: client.image_task(3), clients))
    assert len(set(tasks)) == 4
    assert [clients[0].get(f"tasks/{task_id}")["size"] for task_id in tasks] == [3, 3, 3, 3]


# Tasks, labels, jobs


def test_deleting_a_task_removes_its_files_and_annotations(tmp_path: Path) -> None:
    with LocalCVAT(tmp_path, users={"admin": "secret"}) as server:
        api = Api(server)
        task_id = api.image_task(2)
        job_id = api.jobs(task_id)[0]["id"]
        assert (tmp_path / "data" / str(task_id)).is_dir()
        assert api.call("DELETE", f"tasks/{task_id}").status_code == 204
        assert not (tmp_path / "data" / str(task_id)).exists()
        for path in (f"tasks/{task_id}", f"jobs/{job_id}", f"jobs/{job_id}/annotations"):
            assert api.call("GET", path).status_code == 404
        assert api.call("DELETE", f"tasks/{task_id}").status_code == 404
        assert api.make_task() > task_id


def test_labels_are_renamed_and_deleted_with_what_they_label(api: Api) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    api.call("PUT", path, payload(shapes=[box(label_id)]))
    assert api.call("PATCH", f"labels/{label_id}", {"name": "lorry"}).json()["name"] == "lorry"
    assert api.call("DELETE", f"labels/{label_id}").status_code == 204
    assert api.get(path)["shapes"] == []


def test_lists_come_in_pages_and_take_filters(api: Api) -> None:
    made = [api.make_task(name=f"paged {i % 2}", labels=[]) for i in range(5)]
    first = api.get("tasks?search=paged&page_size=2")
    assert (first["count"], [task["id"] for task in first["results"]]) == (5, made[:2:-1])
    assert "page=2" in first["next"]
    assert [task["id"] for task in api.get("tasks?search=paged&page_size=2&page=3")["results"]] == made[:1]
    assert api.call("GET", "tasks?search=paged&page_size=2&page=9").status_code == 404
    assert api.get("tasks?name=paged 1")["count"] == 2
    rule = {"and": [{"in": [{"var": "name"}, ["paged 0"]]}, {">": [{"var": "id"}, made[0]]}]}
    assert api.get(f"tasks?filter={json.dumps(rule)}")["count"] == 2
    assert [task["id"] for task in api.get(f"tasks?ids={made[1]},{made[3]}")["results"]] == [made[3], made[1]]


def test_job_lists_descend_and_stage_resets_state(api: Api) -> None:
    task_id = api.image_task(4, segment_size=2)
    listed = [job["id"] for job in api.get(f"jobs?task_id={task_id}")["results"]]
    assert listed == sorted(listed, reverse=True)
    job = f"jobs/{listed[0]}"
    assert api.call("PATCH", job, {"state": "completed"}).json()["state"] == "completed"
    moved = api.call("PATCH", job, {"stage": "validation"}).json()
    assert (moved["stage"], moved["state"], moved["status"]) == ("validation", "new", "validation")
    assert api.call("PATCH", job, {"assignee": "ann"}).status_code == 500
    assert api.call("PATCH", job, {"state": "done"}).status_code == 400
    assert api.call("PATCH", job, {"colour": "red"}).status_code == 403
    assert api.get(f"jobs?task_id={task_id}&stage=validation")["count"] == 1


def test_an_annotator_sees_only_the_job(api: Api, server: LocalCVAT) -> None:
    task_id = api.image_task(2)
    job_id = api.jobs(task_id)[0]["id"]
    annotator = Api(server, "ann", "ann-secret")
    assert annotator.call("GET", f"jobs/{job_id}").status_code == 403
    api.call("PATCH", f"jobs/{job_id}", {"assignee": annotator.get("users/self")["id"]})
    assert annotator.get("jobs")["count"] == 1
    assert annotator.call("PATCH", f"jobs/{job_id}", {"stage": "validation"}).status_code == 403
    assert annotator.call("GET", f"tasks/{task_id}").status_code == 403
    assert annotator.call("GET", f"tasks/{task_id}/annotations").status_code == 403
    assert annotator.call("PUT", f"jobs/{job_id}/annotations", payload()).status_code == 200


def test_organizations_keep_their_tasks_apart(api: Api) -> None:
    api.call("POST", "organizations", {"slug": "lab"})
    headers = {"X-Organization": "lab"}
    made = api.call("POST", "tasks", {"name": "in the lab", "labels": []}, headers=headers).json()
    assert made["organization_id"] is not None
    assert api.call("GET", "tasks", headers=headers).json()["count"] == 1
    assert made["id"] not in [
        task["id"] for task in api.call("GET", "tasks?page_size=all", headers={"X-Organization": ""}).json()["results"]
    ]
    assert api.call("GET", "tasks", headers={"X-Organization": "nobody"}).status_code == 404


def test_ground_truth_jobs_stay_out_of_the_task(api: Api) -> None:
    task_id = api.image_task(4)
    label_id, _ = api.label(task_id)
    body = {"type": "ground_truth", "task_id": task_id, "frame_selection_method": "manual", "frames": [1, 3]}
    truth = api.call("POST", "jobs", body).json()
    assert (truth["type"], truth["frame_count"]) == ("ground_truth", 2)
    api.call("PUT", f"jobs/{truth['id']}/annotations", payload(shapes=[box(label_id, 1)]))
    assert api.get(f"tasks/{task_id}/annotations")["shapes"] == []
    assert api.get(f"jobs/{truth['id']}/data/meta")["included_frames"] == [1, 3]
    assert api.call("POST", "jobs", body).status_code == 400
    assert api.call("DELETE", f"jobs/{truth['id']}").status_code == 204


def test_video_frames_are_decoded_when_asked_for(api: Api, tmp_path: Path) -> None:
    task_id = api.make_task()
    assert api.upload(task_id, [("v.mp4", video(tmp_path / "v.mp4"))])["status"] == "finished"
    assert api.get(f"tasks/{task_id}")["mode"] == "interpolation"
    import cv2
    import numpy as np

    for number in (11, 3, 4, 0):
        answer = api.session.get(
            f"{api.url}/api/tasks/{task_id}/data?type=frame&number={number}&quality=original", timeout=10
        )
        picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert abs(float(picture.mean()) - 15 * number) < 4
    chunk = api.session.get(f"{api.url}/api/tasks/{task_id}/data?type=chunk&number=0&quality=original", timeout=10)
    assert chunk.headers["Content-Type"] == "video/mp4"
    assert api.call("GET", f"tasks/{task_id}/data?type=frame&number=12").status_code == 400


def test_webhooks_are_signed_and_say_what_changed(api: Api) -> None:
    received: list[tuple[dict[str, str], bytes]] = []
    arrived = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *args: Any) -> None:
            """Keep the test's output clean."""

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever)
    thread.start()
    try:
        project = api.call("POST", "projects", {"name": "p", "labels": []}).json()["id"]
        hook = {
            "target_url": f"http://127.0.0.1:{receiver.server_port}/",
            "type": "project",
            "project_id": project,
            "secret": "s",
            "events": ["update:job"],
        }
        assert api.call("POST", "webhooks", hook).status_code == 201
        task_id = api.image_task(1, labels=[], project_id=project)
        api.call("PATCH", f"jobs/{api.jobs(task_id)[0]['id']}", {"state": "completed"})
        assert arrived.wait(5)
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join()

    headers, content = received[0]
    body = json.loads(content)
    assert (body["event"], body["job"]["state"], body["before_update"]["state"]) == ("update:job", "completed", "new")
    signature = "sha256=" + hmac.new(b"s", content, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == signature


def test_unknown_addresses_are_404_and_methods_405(api: Api) -> None:
    assert api.call("GET", "nothing").status_code == 404
    assert api.call("DELETE", "tasks").status_code == 405
    assert "without CVAT" in requests.get(f"{api.url}/tasks/1/jobs/2", timeout=10).text
