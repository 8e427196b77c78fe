"""What a hostile, broken or careless server sends, and names that mean something to a file system."""

from __future__ import annotations

import io
import math
import re
import socket
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import faults_proxy as proxies
from benchmarks.faults_proxy import Exchange, Proxy, Wire
from labelprop_cvat.backend.cvat import (
    AnswerTooLarge,
    AttributeSpec,
    Credentials,
    CVATClient,
    Invalid,
    InvalidPayload,
    LabelSpec,
    NotCVAT,
    RetryPolicy,
    UploadFile,
    mask_to_points,
    points_to_mask,
    unreadable,
)
from labelprop_cvat.backend.cvat import chunks as chunks_module
from labelprop_cvat.backend.cvat.chunks import images_of
from labelprop_cvat.backend.cvat.rle import MOST_PIXELS, check_points
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.rounds.plan import frame_name

LOGIN = Credentials("ann", "the password of ann")
FAST = RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.02, total=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"ann": "the password of ann"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def proxy(server: LocalCVAT) -> Iterator[Proxy]:
    with Proxy(int(server.url.rpartition(":")[2])) as running:
        yield running


@contextmanager
def peak_below(mebibytes: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


# Masks that lie about their size


@pytest.mark.parametrize(
    "points",
    [
        [0, 10**10, 0, 0, 10**5 - 1, 10**5 - 1],
        [0, 10**300, 0, 0, 5, 5],
        [2**62, 2**62, 2**62, 2**62, 36, 0, 0, 5, 5],
        [2**63, 2**63, 36, 0, 0, 5, 5],
        [36, 0, 0, 10**18, 10**18],
        [0, 36, 10**18, 10**18, 10**18 + 5, 10**18 + 5],
        [-36, 72, 0, 0, 5, 5],
        [0, 36, -5, -5, 0, 0],
        [0, 36, 5, 5, 0, 0],
        [0.5, 35.5, 0, 0, 5, 5],
        [math.nan, 36, 0, 0, 5, 5],
        [0, 36, 0, 0, math.inf, 5],
        [0, 36, 0, 0, math.nan, 5],
        [0, 35, 0, 0, 5, 5],
        [0, 37, 0, 0, 5, 5],
        [0, 0, 5, 5],
        [],
        ["a", "b", "c", "d", "e"],
        [None] * 6,
        [[0, 36], [0, 0], [5, 5]],
        [10**400, 36, 0, 0, 5, 5],
        {"a": 1},
        "0,36,0,0,5,5",
        None,
    ],
    ids=lambda points: str(points)[:40],
)
def test_a_mask_that_lies_is_refused_before_it_is_made(points: Any) -> None:
    with peak_below(1):
        with pytest.raises(InvalidPayload):
            points_to_mask(points)
        with pytest.raises(InvalidPayload):
            check_points(points)


def test_the_largest_mask_is_allowed_and_the_next_is_not() -> None:
    side = math.isqrt(MOST_PIXELS)
    check_points([0, side * side, 0, 0, side - 1, side - 1])
    with pytest.raises(InvalidPayload, match="no frame is that large"):
        check_points([0, side * (side + 1), 0, 0, side, side - 1])


NUMBERS = st.one_of(
    st.integers(-3, 50), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([2.0**31, 2.0**63, 1e300, -0.0])
)


@given(st.lists(NUMBERS, max_size=12))
@settings(max_examples=500, deadline=None)
def test_any_numbers_are_a_mask_or_refused(points: list[Any]) -> None:
    try:
        x, y, crop = points_to_mask(points)
    except InvalidPayload:
        return
    assert mask_to_points(x, y, crop)[-4:] == [int(p) for p in points[-4:]]
    assert crop.sum() == sum(points[1:-4:2])


# Shapes that are none


GOOD: dict[str, Any] = {
    "id": 1,
    "label_id": 2,
    "frame": 0,
    "type": "rectangle",
    "points": [1.0, 2.0, 3.0, 4.0],
    "rotation": 0.0,
    "attributes": [],
}
BROKEN_SHAPES: list[Any] = [
    {**GOOD, "points": [math.nan] * 4},
    {**GOOD, "points": [math.inf] * 4},
    {**GOOD, "points": [1e30] * 4},
    {**GOOD, "points": [1.0, 2.0]},
    {**GOOD, "points": None},
    {**GOOD, "points": "1,2,3,4"},
    {**GOOD, "points": [[1.0, 2.0], [3.0, 4.0]]},
    {**GOOD, "type": "polygon", "points": [1.0] * 5},
    {**GOOD, "type": "mask", "points": [10**12, 0, 0, 5, 5]},
    {**GOOD, "type": "hologram"},
    {**GOOD, "type": None},
    {**GOOD, "frame": 0.5},
    {**GOOD, "frame": None},
    {**GOOD, "rotation": math.nan},
    {**GOOD, "rotation": "half"},
    {key: value for key, value in GOOD.items() if key != "points"},
    {},
    None,
    [GOOD],
    "shape",
]
BROKEN_OBJECTS: list[Any] = [
    *BROKEN_SHAPES,
    {**GOOD, "id": "1"},
    {**GOOD, "label_id": None},
    {**GOOD, "label_id": 1.5},
]


@pytest.mark.parametrize("item", BROKEN_OBJECTS, ids=lambda item: str(item)[:60])
def test_what_is_no_shape_is_found(item: Any) -> None:
    found = list(unreadable({"tags": [], "shapes": [GOOD, item], "tracks": []}))
    assert [(kind, broken) for kind, broken, _ in found] == [("shapes", item)]
    assert 10 < len(found[0][2]) < 300


@pytest.mark.parametrize("item", BROKEN_SHAPES, ids=lambda item: str(item)[:60])
def test_a_track_with_a_keyframe_that_is_none_is_found(item: Any) -> None:
    track = {"id": 7, "label_id": 2, "frame": 0, "shapes": [GOOD, item]}
    skeleton = {"id": 8, "label_id": 2, "frame": 0, "shapes": [], "elements": [track]}
    found = list(unreadable({"tags": [], "shapes": [], "tracks": [track, skeleton]}))
    assert [(kind, broken) for kind, broken, _ in found] == [("tracks", track), ("tracks", skeleton)]


def test_what_editors_make_is_readable() -> None:
    mask = {**GOOD, "type": "mask", "points": [0, 36, 0, 0, 5, 5]}
    skeleton = {
        **GOOD,
        "type": "skeleton",
        "points": [],
        "elements": [{**GOOD, "type": "points", "points": [1.0, 2.0]}],
    }
    keyframes = [{**GOOD, "frame": frame, "outside": frame == 5} for frame in (0, 5)]
    track = {"id": 7, "label_id": 2, "frame": 0, "shapes": keyframes, "attributes": []}
    nodes = {**track, "elements": [{**track, "shapes": [{**GOOD, "type": "points", "points": [1.0, 2.0]}]}]}
    nodes["shapes"] = [{**GOOD, "type": "skeleton", "points": []}]
    tag = {"id": 1, "label_id": 2, "frame": 0, "attributes": []}
    off_image = {**GOOD, "points": [-500.0, -3.5, 99999.0, 1e6]}
    answer = {"tags": [tag], "shapes": [GOOD, mask, skeleton, off_image], "tracks": [track, nodes]}
    assert list(unreadable(answer)) == []


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "..",
        ".",
        "",
        " ",
        "/etc/passwd",
        "a/b.jpg",
        "a\\b.jpg",
        "..\\a",
        "a\nb.jpg",
        "a\r\nX: y",
        "a\0b",
        "a\u2028b",
        "\udc80",
    ],
    ids=ascii,
)
def test_names_that_mean_something_to_a_file_system_are_no_frames(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no folder, no line break"):
        UploadFile(name, tmp_path / "a.jpg")


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40))
@example("\xa0")
@example(" .. ")
def test_whatever_a_file_is_called_its_frame_has_a_name(name: str) -> None:
    UploadFile(frame_name(name), Path("a.jpg"))


def test_names_of_all_the_world_come_back(proxy: Proxy, tmp_path: Path) -> None:
    names = [
        "größe.jpg",
        "帧\u3000一.jpg",
        "🦊.jpg",
        "a'b\"c;d=e.jpg",
        "e\u0301.jpg",
        "...jpg",
        "-rf.jpg",
        "%2e%2e.jpg",
        "$(x).jpg",
    ]
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    files = [UploadFile(name, path) for name in names]
    with CVATClient(proxy.url, LOGIN, retry=FAST) as client:
        task = client.create_task("../../etc/\u202epasswd\n<script>", [LabelSpec("car")])
        client.upload_images(task.id, files, jobs=[names])
        assert [frame.name for frame in client.data_meta(task_id=task.id).frames] == names
        assert client.task(task.id).name == "../../etc/\u202epasswd\n<script>"


def test_labels_and_attributes_of_all_the_world_come_back(proxy: Proxy, tmp_path: Path) -> None:
    strange = ["../car", "a\nb", "<b>", "🦊", "'; DROP TABLE label; --", "帧", "a\u202eb", "$index"]
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    with CVATClient(proxy.url, LOGIN, retry=FAST) as client:
        task = client.create_task("t", [LabelSpec(name, (AttributeSpec(name),)) for name in strange])
        client.upload_images(task.id, [UploadFile("a.jpg", path)], jobs=None)
        (job,) = client.jobs(task.id)
        labels = client.labels(task.id)
        assert [label.name for label in labels] == strange
        assert [label.attributes[0].name for label in labels] == strange
        texts = [*strange[1:], "x" * 4000]
        tags = [
            {"label_id": label.id, "frame": 0, "attributes": [{"spec_id": label.attributes[0].id, "value": text}]}
            for label, text in zip(labels, texts, strict=True)
        ]
        made = client.create_annotations({"tags": tags}, job_id=job.id, resume=True)["tags"]
        assert [tag["attributes"][0]["value"] for tag in made] == texts


# Chunks


def archive(*files: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as target:
        for name, content in files:
            target.writestr(name, content)
    return held.getvalue()


def test_a_chunk_holds_its_frames_in_order(proxy: Proxy, tmp_path: Path) -> None:
    files = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((8, 8, 3), 40 * number, np.uint8))
        files.append(UploadFile(path.name, path))
    with CVATClient(proxy.url, LOGIN, retry=FAST) as client:
        task = client.create_task("t", [LabelSpec("car")])
        client.upload_images(task.id, files, jobs=None, chunk_size=3)
        assert client.data_meta(task_id=task.id).chunk_size == 3
        frames = [*client.chunk(task.id, 0), *client.chunk(task.id, 1)]
    assert [frame == file.path.read_bytes() for frame, file in zip(frames, files, strict=True)] == [True] * 5


def test_names_in_an_archive_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = archive(("../evil", b"1"), ("/tmp/evil", b"2"), ("a/b", b"3"))
    assert sorted(images_of(evil, "GET x")) == [b"1", b"2", b"3"]
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "UNPACKED_BYTES", 2**20)
    bomb = archive(("0", bytes(200 * 2**20)), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**18
    with peak_below(8), pytest.raises(AnswerTooLarge, match="was not unpacked"):
        images_of(bomb, "GET x")
    many = archive(*((str(n), bytes(300 * 2**10)) for n in range(4)), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(AnswerTooLarge):
        images_of(many, "GET x")


def test_a_bomb_that_declares_a_small_size_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "UNPACKED_BYTES", 2**20)
    size = 5 * 2**20
    bomb = archive(("0", bytes(size)), method=zipfile.ZIP_DEFLATED).replace(size.to_bytes(4, "little"), b"\x0a\0\0\0")
    with peak_below(8), pytest.raises((AnswerTooLarge, NotCVAT)):
        images_of(bomb, "GET x")


def test_too_many_files_are_not_unpacked() -> None:
    with pytest.raises(AnswerTooLarge):
        images_of(archive(*((str(n), b"") for n in range(chunks_module.MOST_FRAMES + 1))), "GET x")


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", archive(("0", b"x" * 100))[:60], archive(("0", b"x" * 99)).replace(b"x" * 99, b"y" * 99)],
    ids=["nothing", "text", "half", "changed"],
)
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(NotCVAT, match="expected an archive of frames"):
        images_of(content, "GET x")


def test_a_video_is_no_chunk_of_images() -> None:
    with pytest.raises(Invalid, match="as videos"):
        images_of(b"\0\0\0\x20ftypisom", "GET x")


# Redirects


class Elsewhere:
    """Another host, which notes what it is sent."""

    def __init__(self) -> None:
        self.received = bytearray()

    def __enter__(self) -> Elsewhere:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://localhost:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()

    def _serve(self) -> None:
        while True:
            try:
                wire, _ = self._door.accept()
            except OSError:
                return
            with wire:
                self.received += wire.recv(65536)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/api/server/about", "/api/users/self", "/api/tasks", "/api/auth/login"])
def test_nothing_follows_a_redirect_to_another_host(proxy: Proxy, status: int, path: str) -> None:
    with Elsewhere() as elsewhere:

        def act(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
            proxies.answer(wire, status, b"", "text/html", f"Location: {elsewhere.url}{path}\r\n")

        proxy.on("*", f"^{re.escape(path)}", act, None)
        client = CVATClient(proxy.url, LOGIN, retry=FAST, headers={"X-Proxy-Key": "a secret of the proxy"})
        act_on = {"/api/tasks": lambda: client.create_task("t", [LabelSpec("car")])}.get(path, client.whoami)
        with client, pytest.raises(NotCVAT, match="credentials are not sent there"):
            act_on()
        assert proxy.broken
        assert bytes(elsewhere.received) == b""


def test_other_hosts_named_in_answers_are_not_asked(proxy: Proxy, tmp_path: Path) -> None:
    """``next`` pages and the ``Location`` of an upload name hosts; only their paths may matter."""
    with Elsewhere() as elsewhere:

        def elsewhere_in(body: bytes) -> bytes:
            return body.replace(proxy.url.encode(), elsewhere.url.encode())

        def location(proxy: Proxy, exchange: Exchange, wire: Wire) -> None:
            answer = proxy.ask(exchange, wire)
            host = re.sub(rb"(?i)(\r\nlocation: )https?://[^/]+", rb"\1" + elsewhere.url.encode(), answer)
            wire.sendall(host)

        path = tmp_path / "a.png"
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
        proxy.on("GET", "/api/(tasks|labels|jobs|users)", proxies.rewrite(elsewhere_in), None)
        proxy.on("POST", "/data/", proxies.status_before(502), 1, skip=1)
        proxy.on("POST", "/data/", location, None)
        with CVATClient(proxy.url, LOGIN, retry=FAST) as client:
            task = client.create_task("t", [LabelSpec("car")])
            client.upload_images(task.id, [UploadFile("a.png", path)], jobs=None)
            assert client.task(task.id).size == 1
        assert any(method == "PATCH" for method, _ in proxy.traffic.requests), "the resumable way must have been taken"
        assert bytes(elsewhere.received) == b""
