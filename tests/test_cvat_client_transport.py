"""What carries requests: deadlines, bodies that are read as they are sent, answers of bounded size."""

from __future__ import annotations

import email
import email.policy
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import faults_proxy as proxies
from benchmarks.faults_proxy import Break, Exchange, Proxy, Wire
from labelprop_cvat.backend.cvat import (
    AnswerTooLarge,
    ConnectionCut,
    Credentials,
    CVATClient,
    CVATError,
    InvalidPayload,
    LabelSpec,
    NotCVAT,
    PayloadTooLarge,
    RetryPolicy,
    Timeout,
    UploadFile,
    transport,
)
from labelprop_cvat.backend.cvat import upload as upload_module
from labelprop_cvat.backend.cvat.matching import halved
from labelprop_cvat.backend.cvat.transport import FileSlice, JSONBody, Multipart, Stream, allowance, data_of
from labelprop_cvat.backend.local_cvat import LocalCVAT

LOGIN = Credentials("ann", "the password of ann")
ONCE = RetryPolicy(attempts=1)
FAST = RetryPolicy(first_delay=0.01, max_delay=0.02, total=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"ann": "the password of ann"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def proxy(server: LocalCVAT) -> Iterator[Proxy]:
    with Proxy(int(server.url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[..., CVATClient]]:
    made: list[CVATClient] = []

    def make(retry: RetryPolicy = FAST, **options: object) -> CVATClient:
        made.append(CVATClient(proxy.url, LOGIN, retry=retry, **options))  # type: ignore[arg-type]
        made[-1].whoami()
        made[-1]._me = None
        return made[-1]

    yield make
    for client in made:
        client.close()


# Deadlines


def slow_head(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Never comes to the end of the headers, and never pauses for long."""
    wire.sendall(b"HTTP/1.1 200 OK\r\n")
    while proxy.pause(0.05):
        wire.sendall(b"X-More: y\r\n")


def slow_body(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """Announces an answer and sends a byte of it now and then."""
    wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    while proxy.pause(0.05):
        wire.sendall(b" ")


def slow_chunks(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
    """The same without saying how long it will be."""
    wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while proxy.pause(0.05):
        wire.sendall(b"1\r\n \r\n")


@pytest.mark.parametrize("act", [slow_head, slow_body, slow_chunks, proxies.silence])
def test_no_answer_holds_a_call_for_ever(proxy: Proxy, connect: Callable[..., CVATClient], act: Break) -> None:
    client = connect(ONCE, timeout=(1.0, 0.4), deadline=0.8)
    proxy.on("GET", "/api/users/self", act, None)
    started = time.monotonic()
    with pytest.raises(Timeout, match=r"did not answer within|had not answered to the end after 1 s in all"):
        client.whoami()
    assert 0.3 < time.monotonic() - started < 2.0
    proxy.clear()
    assert client.whoami().username == "ann", "the client must go on with another connection"


def test_an_answer_that_comes_slowly_but_in_time_is_taken(proxy: Proxy, connect: Callable[..., CVATClient]) -> None:
    client = connect(ONCE, timeout=(1.0, 0.4), deadline=30.0)
    proxy.on("GET", "/api/users/self", proxies.drip(0.002))
    assert client.whoami().username == "ann"


def test_a_deadline_that_was_met_does_not_touch_the_next_request(connect: Callable[..., CVATClient]) -> None:
    client = connect(ONCE, timeout=(1.0, 0.4), deadline=0.3)
    for _ in range(5):
        client._me = None
        client.whoami()
        time.sleep(0.1)


def test_a_large_body_has_the_time_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(2**20))
    assert allowance(10.0, None) == 10.0
    assert allowance(10.0, FileSlice(path, 0, 2**20)) == 10.0 + 32


# Bodies


def through(body: object) -> bytes:
    opened = body.open()  # type: ignore[attr-defined]
    pieces = list(iter(lambda: opened.read(1000), b""))
    assert all(len(piece) <= 1000 for piece in pieces)
    return b"".join(pieces)


def test_a_multipart_body_says_what_it_holds(tmp_path: Path) -> None:
    names = ["plain.jpg", "größe 帧.jpg", 'a "quoted" name.jpg']
    contents = [bytes([n]) * (70_000 + n) for n in range(3)]
    files = []
    for number, (name, content) in enumerate(zip(names, contents, strict=True)):
        path = tmp_path / str(number)
        path.write_bytes(content)
        files.append((f"client_files[{number}]", name, path, len(content)))
    body = Multipart([("image_quality", "70")], files)
    sent = through(body)
    assert len(sent) == body.size == len(body.open())
    assert through(body) == sent, "it can be sent again"
    message = email.message_from_bytes(
        b"Content-Type: " + body.content_type.encode() + b"\r\n\r\n" + sent, policy=email.policy.HTTP
    )
    parts = [part.get_payload(decode=True) for part in message.iter_parts()]  # type: ignore[attr-defined]
    assert parts == [b"70", *contents]


def test_part_of_a_file_as_a_body(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = bytes(range(256)) * 1024
    path.write_bytes(content)
    assert through(FileSlice(path, 1000, 200_000)) == content[1000:201_000]
    assert data_of(FileSlice(path, 7, 3)) == content[7:10], "a short body goes as it is"
    assert isinstance(data_of(FileSlice(path, 0, 200_000)), Stream)


def test_a_file_that_changes_while_it_is_sent_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    with pytest.raises(InvalidPayload, match="became shorter"):
        through(FileSlice(path, 0, 20))
    path.unlink()
    with pytest.raises(InvalidPayload, match="cannot be read"):
        through(FileSlice(path, 0, 10))


def test_what_is_no_json_is_not_sent(proxy: Proxy, connect: Callable[..., CVATClient]) -> None:
    client = connect()
    proxy.clear()
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(InvalidPayload, match="must be JSON"):
            client._session.json("PATCH", "/api/tasks/1", json={"x": value})
    assert proxy.traffic.requests == []
    assert through(JSONBody({"x": "y" * 100_000})) == b'{"x": "' + b"y" * 100_000 + b'"}'


def test_a_slow_line_does_not_end_a_large_upload(server: LocalCVAT, tmp_path: Path) -> None:
    """A receiver that takes longer for a body than a connection may take to be made."""
    content = b"x" * 12_000_000
    (tmp_path / "a").write_bytes(content)
    taken = bytearray()

    def receive(wire: socket.socket, head: bytes) -> None:
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(taken) < length:
            taken.extend(wire.recv(200_000))
            time.sleep(0.01)
        wire.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with (
        listener(receive) as url,
        CVATClient(url, Credentials(token="t"), retry=ONCE, timeout=(0.3, 5.0)) as client,
    ):
        client._session.request("PATCH", "/api/x", body=FileSlice(tmp_path / "a", 0, len(content)))
    assert bytes(taken) == content


@contextmanager
def listener(receive: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Answers one connection, after another that asks what this is; small buffers, so that the sender has to wait."""
    about = b'{"name": "CVAT", "version": "2.54.1"}'
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)

        def tell(wire: socket.socket, head: bytes) -> None:
            proxies.answer(wire, 200, about, "application/json")

        def serve() -> None:
            for act in (tell, receive):
                wire, _ = door.accept()
                with wire:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += wire.recv(1)
                    act(wire, head)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        thread.join(20)


# Answers


def test_an_answer_cut_amid_its_headers_is_no_empty_answer(proxy: Proxy, connect: Callable[..., CVATClient]) -> None:
    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")

    client = connect(ONCE)
    proxy.on("GET", "/api/users/self", act, None)
    with pytest.raises(ConnectionCut, match="0 bytes that are no whole JSON"):
        client.whoami()


def test_answers_are_bounded(proxy: Proxy, connect: Callable[..., CVATClient], monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect()
    monkeypatch.setattr(transport, "ANSWER_BYTES", 3 * 2**20)
    for act in (proxies.announces(4 * 2**20), proxies.unpacks_to(4)):
        proxy.clear()
        proxy.on("GET", "/api/users/self", act, None)
        with pytest.raises(AnswerTooLarge, match=r"GET /api/users/self .* larger than 3 MiB"):
            client.whoami()
        assert proxy.broken == 1, "asking again would bring the same"
    proxy.clear()
    proxy.on("GET", "/api/users/self", proxies.unpacks_to(2))
    assert client.whoami().username == "ann", "below the limit it is read, is no JSON, and is asked for again"


def test_only_the_beginning_of_a_refusal_is_read(proxy: Proxy, connect: Callable[..., CVATClient]) -> None:
    def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
        wire.sendall(b"HTTP/1.1 400 Bad\r\nContent-Type: text/html\r\n\r\n<title>no</title>")
        while True:
            wire.sendall(b"x" * 65536)

    client = connect(ONCE, timeout=(1.0, 5.0))
    proxy.on("GET", "/api/users/self", act)
    started = time.monotonic()
    with pytest.raises(CVATError, match=r"\(400\): no"):
        client.whoami()
    assert time.monotonic() - started < 3.0


def test_json_nested_beyond_reason_is_damaged(proxy: Proxy, connect: Callable[..., CVATClient]) -> None:
    client = connect(ONCE)
    proxy.on("GET", "/api/users/self", proxies.rewrite(lambda body: b"[" * 200_000), None)
    with pytest.raises((ConnectionCut, NotCVAT)):
        client.whoami()


# Too large for the server


def noise(folder: Path, count: int, size: int) -> list[UploadFile]:
    import cv2
    import numpy as np

    files = []
    for number in range(count):
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8))
        files.append(UploadFile(path.name, path))
    return files


def test_batches_shrink_until_they_pass(
    proxy: Proxy, connect: Callable[..., CVATClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = noise(tmp_path, 12, 100)
    limit = 3 * max(f.path.stat().st_size for f in files) + 3000
    proxy.on("POST", "/data/", proxies.at_most(limit), None)
    client = connect()
    task = client.create_task("t", [LabelSpec("car")])
    client.upload_images(task.id, files, jobs=None)
    assert [frame.name for frame in client.data_meta(task_id=task.id).frames] == [f.name for f in files]
    # 12 files, 6, 3 + 3 + 3 + 3: what was learnt holds for the rest, and no file needs the slow way.
    assert sum("too large" in r.getMessage() for r in caplog.records) == 2
    assert not any(method == "PATCH" for method, _ in proxy.traffic.requests)


def test_pieces_of_a_file_shrink_until_they_pass(
    proxy: Proxy, connect: Callable[..., CVATClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "_SMALLEST_CHUNK", 1000)
    files = noise(tmp_path, 2, 100)
    proxy.on("*", "/data/", proxies.at_most(8000), None)
    client = connect()
    task = client.create_task("t", [LabelSpec("car")])
    client.upload_images(task.id, files, jobs=None)
    assert [client.frame(task.id, n) for n in range(2)] == [f.path.read_bytes() for f in files]


def test_a_server_that_takes_nothing_is_given_up(
    proxy: Proxy, connect: Callable[..., CVATClient], tmp_path: Path
) -> None:
    files = noise(tmp_path, 2, 200)
    proxy.on("*", "/data/", proxies.at_most(1000), None)
    client = connect()
    task = client.create_task("t", [LabelSpec("car")])
    with pytest.raises(PayloadTooLarge, match="413"):
        client.upload_images(task.id, files, jobs=None)
    proxy.clear()
    client.upload_images(task.id, files, jobs=None)
    assert client.task(task.id).size == 2


def test_annotations_are_halved_in_order() -> None:
    def tag(number: int, size: int = 1) -> dict[str, object]:
        return {"frame": number, "label_id": 1, "text": "x" * size}

    batch = {"version": 0, "tags": [tag(0), tag(1)], "shapes": [tag(2, 500)], "tracks": [tag(3)]}
    first, second = halved(batch)
    assert [first["tags"], first["shapes"], first["tracks"]] == [batch["tags"], [], []]
    assert [second["tags"], second["shapes"], second["tracks"]] == [[], batch["shapes"], batch["tracks"]]
    assert halved({"tags": [tag(0)]}) == []
    large_first = halved({"tags": [tag(0, 500), tag(1), tag(2)]})
    assert [len(piece["tags"]) for piece in large_first] == [1, 2]


@pytest.mark.parametrize("action", ["create", "update", "delete"])
def test_annotations_that_are_too_large_go_in_smaller_pieces(
    proxy: Proxy, connect: Callable[..., CVATClient], tmp_path: Path, action: str
) -> None:
    client = connect()
    task = client.create_task("t", [LabelSpec("car")])
    client.upload_images(task.id, noise(tmp_path, 1, 16), jobs=None)
    (job,) = client.jobs(task.id)
    (label,) = client.labels(task.id)
    shapes = [
        {"type": "rectangle", "frame": 0, "label_id": label.id, "points": [n, 0.0, n + 1.0, 5.0], "attributes": []}
        for n in range(15)
    ]
    if action != "create":
        shapes = client.create_annotations({"shapes": shapes}, job_id=job.id)["shapes"]
    proxy.on("PATCH", "/annotations", proxies.at_most(1200), None)
    if action == "delete":
        client.delete_annotations({"shapes": shapes}, job_id=job.id)
    elif action == "update":
        client.update_annotations({"shapes": [{**s, "occluded": True} for s in shapes]}, job_id=job.id)
    else:
        made = client.create_annotations({"shapes": shapes}, job_id=job.id)["shapes"]
        assert [s["points"] for s in made] == [s["points"] for s in shapes]
    there = client.annotations(job_id=job.id)["shapes"]
    assert len(there) == (0 if action == "delete" else 15)
    assert all(s["occluded"] == (action == "update") for s in there)
