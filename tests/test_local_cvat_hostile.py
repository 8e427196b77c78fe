"""What the local server refuses, and that nothing leaves its folder: foreign hosts, odd file names, huge bodies."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fixtures_local_cvat import Api, box, image, payload

from labelprop_cvat.backend.local_cvat import LocalCVAT, multipart, replies, uploads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outer") / "server"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LocalCVAT]:
    with LocalCVAT(folder, users={"admin": "secret"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def api(server: LocalCVAT) -> Api:
    return Api(server)


# Other hosts


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example", "null", "http://[", ""])
def test_pages_of_other_hosts_get_nothing_and_do_nothing(api: Api, origin: str) -> None:
    count = api.get("tasks?page_size=1")["count"]
    for method, path in (("GET", "tasks"), ("POST", "tasks"), ("POST", "auth/login"), ("GET", "server/about")):
        answer = api.call(
            method, path, {"name": "x", "username": "admin", "password": "secret"}, headers={"Origin": origin}
        )
        assert answer.status_code == 403
        assert "Origin checking failed" in answer.json()["detail"]
        assert "key" not in answer.json()
    assert api.get("tasks?page_size=1")["count"] == count


def test_a_session_of_a_browser_is_no_use_to_other_hosts(server: LocalCVAT) -> None:
    browser = requests.Session()
    browser.post(f"{server.url}/api/auth/login", json={"username": "admin", "password": "secret"}, timeout=10)
    headers = {"Origin": "http://evil.example", "X-CSRFToken": browser.cookies["csrftoken"]}
    body = {"name": "forged", "labels": []}
    assert browser.post(f"{server.url}/api/tasks", json=body, headers=headers, timeout=10).status_code == 403
    own = {**headers, "Origin": server.url}
    assert browser.post(f"{server.url}/api/tasks", json=body, headers=own, timeout=10).status_code == 201


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "127.0.0.2", "[::2]", ""])
def test_names_that_were_made_to_point_here_are_refused(api: Api, host: str) -> None:
    answer = raw(api, f"GET /api/server/about HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n", 1)[0]
    assert b"2.54.1" not in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8080"])
def test_names_of_this_machine_are_answered(api: Api, host: str) -> None:
    answer = raw(api, f"GET /api/server/about HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert b" 200 " in answer.split(b"\r\n", 1)[0]


def raw(api: Api, request: str) -> bytes:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


# File names

ODD_NAMES = [
    ("../../../escaped.png", "escaped.png"),
    ("/etc/absolute.png", "absolute.png"),
    ("..\\..\\windows.png", "windows.png"),
    ("C:\\images\\drive.png", "drive.png"),
    ("two\nlines\r.png", "twolines.png"),
    ("nul\0l.png", "null.png"),
    ("straße_街_🚲.png", "straße_街_🚲.png"),
    ("right\u202eto left.png", "rightto left.png"),
    ("&lt;b&gt;.png", "<b>.png"),
    ("a'b;c $(d) `e`.png", "a'b;c $(d) `e`.png"),
    ("  spaces .png", "  spaces .png"),
]


def form_part(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """A form whose file name is sent as it is, with no client's help; what no header can hold goes percent-encoded."""
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    head = (
        '--x\r\nContent-Disposition: form-data; name="image_quality"\r\n\r\n70\r\n--x\r\n'
        f"Content-Disposition: form-data; name=\"client_files[0]\"; filename*=UTF-8''{quoted}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(("name", "kept"), ODD_NAMES)
def test_files_of_a_form_are_kept_in_the_tasks_folder(api: Api, folder: Path, name: str, kept: str) -> None:
    task_id = api.make_task()
    body, headers = form_part(name, image(4))
    answer = api.session.post(f"{api.url}/api/tasks/{task_id}/data", body, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    assert api.wait(answer.json()["rq_id"])["status"] == "finished"
    assert [frame["name"] for frame in api.get(f"tasks/{task_id}/data/meta")["frames"]] == [kept]
    frame = api.session.get(f"{api.url}/api/tasks/{task_id}/data?type=frame&number=0&quality=original", timeout=10)
    assert frame.content == image(4)
    assert [path.name for path in files_of(folder, task_id)] == [kept]
    assert only_the_server_wrote(folder)


@pytest.mark.parametrize("name", [".", "..", "../", "\n", "a/..", "x" * 300 + ".png"])
def test_names_of_which_nothing_is_left_are_refused(api: Api, folder: Path, name: str) -> None:
    task_id = api.make_task()
    body, headers = form_part(name, image(4))
    answer = api.session.post(f"{api.url}/api/tasks/{task_id}/data", body, headers=headers, timeout=20)
    assert answer.status_code == 400
    assert files_of(folder, task_id) == []
    assert only_the_server_wrote(folder)


def begin(api: Api, task_id: int, name: str, length: int = 3) -> requests.Response:
    metadata = f"filename {base64.b64encode(name.encode()).decode()}"
    headers = {
        "Upload-Length": str(length),
        "Tus-Resumable": "1.0.0",
        "Origin": api.url,
        "Upload-Metadata": metadata,
    }
    return api.session.post(f"{api.url}/api/tasks/{task_id}/data/", headers=headers, timeout=10)


def append(api: Api, location: str, content: bytes) -> requests.Response:
    headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    return api.session.patch(location, content, headers=headers, timeout=10)


@pytest.mark.parametrize("name", ["../escaped.png", "/etc/passwd", "a/../../b.png", "..", ".", "nul\0l", "y" * 1100])
def test_resumable_uploads_that_lead_elsewhere_are_refused(api: Api, folder: Path, name: str) -> None:
    task_id = api.make_task()
    assert begin(api, task_id, name).status_code == 400
    assert only_the_server_wrote(folder)


@pytest.mark.parametrize("name", ["left/right.png", "straße_街.png", "back\\slash.png", "a b;c.png"])
def test_resumable_uploads_with_odd_names_arrive(api: Api, folder: Path, name: str) -> None:
    task_id, content = api.make_task(), image(6)
    begun = begin(api, task_id, name, len(content))
    assert begun.status_code == 201
    assert append(api, begun.headers["Location"], content).status_code == 204
    answer = api.session.post(
        f"{api.url}/api/tasks/{task_id}/data/",
        json={"image_quality": 70, "sorting_method": "predefined", "upload_file_order": [name]},
        headers={"Upload-Finish": "true"},
        timeout=10,
    )
    assert api.wait(answer.json()["rq_id"])["status"] == "finished"
    assert api.get(f"tasks/{task_id}/data/meta")["frames"][0]["name"] == name
    raw_folder = folder / "data" / str(task_id) / "raw"
    assert [str(path.relative_to(raw_folder)) for path in files_of(folder, task_id)] == [name]
    assert only_the_server_wrote(folder)


def test_a_line_break_in_a_resumable_uploads_name_breaks_it_as_on_the_real_server(api: Api, folder: Path) -> None:
    task_id = api.make_task()
    assert begin(api, task_id, "two\nlines.png").status_code == 500
    assert not (folder / "data" / str(task_id)).exists()


def test_a_file_in_the_way_of_a_folder_is_a_refusal(api: Api) -> None:
    task_id = api.make_task()
    assert append(api, begin(api, task_id, "a").headers["Location"], b"abc").status_code == 204
    blocked = append(api, begin(api, task_id, "a/b.png").headers["Location"], b"abc")
    assert (blocked.status_code, "stands in its way" in blocked.text) == (400, True)


def test_a_file_that_is_named_like_a_partial_one_is_a_file(api: Api, folder: Path) -> None:
    task_id = api.make_task()
    files = [("a.png.part", image(1)), ("a.png", image(2))]
    parts = [(f"client_files[{n}]", file) for n, file in enumerate(files)]
    answer = api.session.post(
        f"{api.url}/api/tasks/{task_id}/data", files=parts, headers={"Upload-Multiple": "true"}, timeout=20
    )
    assert answer.status_code == 200
    assert {path.name: path.read_bytes() for path in files_of(folder, task_id)} == dict(files)


def test_uploads_of_another_task_are_not_reached(api: Api) -> None:
    first, second = api.make_task(), api.make_task()
    location = begin(api, first, "a.png").headers["Location"]
    stolen = location.replace(f"/tasks/{first}/", f"/tasks/{second}/")
    assert append(api, stolen, b"abc").status_code == 404
    for identity in ("..%2F..%2Fserver.sqlite3", "..", "%2e%2e"):
        assert append(api, f"{api.url}/api/tasks/{first}/data/{identity}", b"abc").status_code in (404, 405, 415)


def test_odd_names_of_jobs_files_only_ever_name_uploaded_ones(api: Api) -> None:
    task_id = api.make_task()
    ended = api.upload(task_id, [("a.png", image(1))], **{"job_file_mapping[0][0]": "../../server.sqlite3"})
    assert ended["status"] == "failed"
    assert "must match the uploaded files" in ended["message"]


def files_of(folder: Path, task_id: int) -> list[Path]:
    return [path for path in (folder / "data" / str(task_id) / "raw").rglob("*") if path.is_file()]


def only_the_server_wrote(folder: Path) -> bool:
    beside = {path.name for path in folder.parent.iterdir()}
    inside = {path.name for path in folder.iterdir()} - {"data"}
    # The folder is there from the first upload that was taken.
    tasks = {path.name for path in (folder / "data").glob("*")}
    return (
        beside == {folder.name}
        and all(name.startswith("server.sqlite3") for name in inside)
        and all(name.isdecimal() for name in tasks)
    )


# Odd texts


@pytest.mark.parametrize("text", ["../x", "a\nb", "街 🚲", "'; DROP TABLE task; --", "\u202e", "<script>", "x" * 250])
def test_texts_come_back_as_they_went(api: Api, text: str) -> None:
    task_id = api.make_task(name=text)
    assert api.get(f"tasks/{task_id}")["name"] == text
    assert [task["id"] for task in api.call("GET", "tasks", params={"name": text}).json()["results"]] == [task_id]
    job = api.jobs(api.image_task(1))[0]["id"]
    api.call("POST", "issues", {"job": job, "frame": 0, "position": [1, 1], "message": text})
    assert api.get(f"comments?job_id={job}")["results"][0]["message"] == text


# Huge and broken bodies


def test_bodies_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    monkeypatch.setattr(replies, "MAX_BODY", 100_000)
    kept = api.call("PUT", path, payload(shapes=[box(label_id)]))
    refused = api.call("PUT", path, payload(shapes=[box(label_id)] * 2_000))
    assert (kept.status_code, refused.status_code) == (200, 413)
    assert "too large" in refused.json()["detail"]
    assert len(api.get(path)["shapes"]) == 1
    finish = api.session.post(
        f"{api.url}/api/tasks/{api.make_task()}/data",
        json={"image_quality": 70, "upload_file_order": ["x" * 1000] * 200},
        timeout=10,
    )
    assert finish.status_code == 413


def test_forms_are_bounded(api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = api.make_task()
    address = f"{api.url}/api/tasks/{task_id}/data"
    monkeypatch.setattr(uploads, "_MAX_FILE", 50_000)
    monkeypatch.setattr(multipart, "_MAX_FIELDS", 50_000)
    monkeypatch.setattr(multipart, "_MAX_PARTS", 20)
    large = {"client_files[0]": ("a.png", bytes(60_000))}
    assert api.session.post(address, files=large, data={"image_quality": 70}, timeout=10).status_code == 413
    fields = {f"field{n}": "x" * 10_000 for n in range(6)}
    small = {"client_files[0]": ("a.png", image(1))}
    assert api.session.post(address, files=small, data=fields, timeout=10).status_code == 413
    many = [(f"client_files[{n}]", (f"{n}.png", b"x")) for n in range(21)]
    assert api.session.post(address, files=many, timeout=10).status_code == 413
    assert [path for path in files_of(folder, task_id) if path.name.startswith(".") or path.name == "a.png"] == []
    assert begin(api, task_id, "b.png", 60_000).status_code == 413


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"points": NaN}', "\x00", '{"name": "x"', '"text"', "[1]", '{"shapes": 1e999}']
)
def test_bodies_that_are_no_objects_are_refused(api: Api, body: str) -> None:
    task_id = api.image_task(1)
    path = f"{api.url}/api/jobs/{api.jobs(task_id)[0]['id']}/annotations"
    headers = {"Content-Type": "application/json"}
    answer = api.session.put(path, body, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert isinstance(json.loads(answer.content), (dict, list))


@pytest.mark.parametrize(
    "numbers",
    [[float("1e308")] * 4, [-1e12, -1e12, 1e12, 1e12], [0, 0, 0, 0], [10**15, 10**15, 10**15 + 1, 10**15 + 1]],
)
def test_large_coordinates_are_kept(api: Api, numbers: list[Any]) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    path = f"jobs/{api.jobs(task_id)[0]['id']}/annotations"
    assert api.call("PUT", path, payload(shapes=[box(label_id, points=numbers)])).status_code == 200
    assert api.get(path)["shapes"][0]["points"] == numbers
