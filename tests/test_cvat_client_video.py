"""Videos into tasks over a real socket: the right frames arrive, once, whatever gets lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import requests
from conftest import SHARED
from fixtures_cvat_client import LossyAdapter

from labelprop_cvat.backend.cvat import (
    Credentials,
    CVATClient,
    DataFailed,
    Invalid,
    InvalidPayload,
    LabelSpec,
    PayloadTooLarge,
    RetryPolicy,
    Task,
)
from labelprop_cvat.backend.cvat import upload as upload_module
from labelprop_cvat.backend.local_cvat import LocalCVAT

FRAMES = 12
FAST = RetryPolicy(attempts=4, first_delay=0.002, max_delay=0.01, total=30.0)
Lose = Callable[[requests.PreparedRequest], str | None]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults(server: LocalCVAT) -> Iterator[None]:
    yield
    server.faults.clear()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "street 1.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(FRAMES):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture
def connect(server: LocalCVAT) -> Iterator[Callable[..., CVATClient]]:
    """Makes clients; ``connect(lose)`` makes one that loses requests or answers by that rule."""
    opened: list[CVATClient] = []

    def make(lose: Lose | None = None) -> CVATClient:
        adapter = LossyAdapter(lose or (lambda request: None))
        login = Credentials(server.username, server.password)
        opened.append(CVATClient(server.url, login, retry=FAST, adapter=adapter))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., CVATClient]) -> CVATClient:
    return connect()


def adapter_of(client: CVATClient) -> LossyAdapter:
    adapter = client._session._http.get_adapter(client.url)
    assert isinstance(adapter, LossyAdapter)
    return adapter


def sent(client: CVATClient, header: str) -> list[requests.PreparedRequest]:
    return [request for request in adapter_of(client).sent if header in request.headers]


def new_task(client: CVATClient, **options: int) -> Task:
    return client.create_task("video", [LabelSpec("car")], **options)


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]


def decoded(path: Path) -> list[npt.NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    pictures = []
    while (read := capture.read())[0]:
        pictures.append(read[1])
    capture.release()
    return pictures  # type: ignore[return-value]


def check_frames(client: CVATClient, task_id: int, video: Path, first: int, last: int) -> None:
    """The task shows exactly those frames of the file, in one job, numbered from 0."""
    pictures = decoded(video)[first : last + 1]
    (job,) = client.jobs(task_id)
    meta = client.data_meta(task_id=task_id)
    assert (meta.size, meta.start_frame, meta.stop_frame) == (len(pictures), first, last)
    assert (job.start_frame, job.stop_frame) == (0, len(pictures) - 1)
    assert [frame.name for frame in meta.frames] == [video.name]
    for number in (0, len(pictures) // 2, len(pictures) - 1):
        assert np.array_equal(pixels(client.frame(task_id, number)), pictures[number])
    shown = [pixels(content).mean() for content in client.chunk(task_id, 0, "compressed")]
    assert shown == pytest.approx([picture.mean() for picture in pictures], abs=3.0)


@pytest.mark.parametrize(
    ("start", "stop", "last"), [(0, None, FRAMES - 1), (0, 4, 4), (3, None, FRAMES - 1), (5, 8, 8), (7, 7, 7)]
)
def test_a_task_shows_the_frames_of_the_file(
    client: CVATClient, video: Path, start: int, stop: int | None, last: int
) -> None:
    task = new_task(client)
    seen: list[tuple[int, int]] = []
    size = client.upload_video(
        task.id, video, start_frame=start, stop_frame=stop, progress=lambda done, total: seen.append((done, total))
    )
    assert size == last - start + 1
    check_frames(client, task.id, video, start, last)
    in_bytes = video.stat().st_size
    assert seen[-1] == (in_bytes, in_bytes)
    assert all(done < total for done, total in seen[:-1]), "the frames are not there before the last call"


def test_annotations_count_from_the_tasks_first_frame(client: CVATClient, video: Path) -> None:
    task = new_task(client)
    client.upload_video(task.id, video, start_frame=5, stop_frame=8)
    (label,) = client.labels(task.id)
    shapes = [{"type": "rectangle", "frame": frame, "points": [1, 2, 9, 8]} for frame in (0, 3)]
    client.create_annotations({"tracks": [{"label_id": label.id, "frame": 0, "shapes": shapes}]}, task_id=task.id)
    (track,) = client.annotations(task_id=task.id)["tracks"]
    assert [shape["frame"] for shape in track["shapes"]] == [0, 3]
    with pytest.raises(InvalidPayload, match="frame 4"):
        client.create_annotations({"tags": [{"label_id": label.id, "frame": 4}]}, task_id=task.id)


@pytest.mark.parametrize("fate", ["answer", "request"])
@pytest.mark.parametrize("step", ["Upload-Start", "Upload-Length", "Upload-Offset", "Upload-Finish", "HEAD"])
def test_an_upload_survives_any_lost_step_of_a_video(
    connect: Callable[..., CVATClient], video: Path, monkeypatch: pytest.MonkeyPatch, step: str, fate: str
) -> None:
    monkeypatch.setattr(upload_module, "CHUNK_BYTES", 700)
    count = [0]

    def lose(request: requests.PreparedRequest) -> str | None:
        if step == "HEAD":
            # Somebody has to ask for the offset first.
            if request.method == "PATCH" and not count[0]:
                count[0] = 1
                return "answer"
            if request.method == "HEAD" and count[0] == 1:
                count[0] = 2
                return fate
            return None
        if step in request.headers:
            count[0] += 1
            return fate if count[0] in (1, 2 if step == "Upload-Offset" else 1) else None
        return None

    client = connect(lose)
    task = new_task(client)
    client.upload_video(task.id, video, start_frame=2, stop_frame=9)
    assert adapter_of(client).lost == (2 if step in ("HEAD", "Upload-Offset") else 1)
    check_frames(client, task.id, video, 2, 9)
    assert not sent(client, "Upload-Multiple"), "the server appends batches blindly"
    assert max(len(request.body or b"") for request in sent(client, "Upload-Offset")) == 700


def test_resets_of_the_line_do_no_harm(
    server: LocalCVAT, client: CVATClient, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "CHUNK_BYTES", 700)
    task = new_task(client)
    server.faults.add("PATCH", "/data/", "close", skip=1)
    server.faults.add("PATCH", "/data/", "close_after", skip=2)
    server.faults.add("POST", "/data/$", 503, times=2, skip=1)
    client.upload_video(task.id, video)
    assert len(server.faults.triggered) == 4
    check_frames(client, task.id, video, 0, FRAMES - 1)


def test_pieces_that_are_too_large_become_smaller(
    server: LocalCVAT, client: CVATClient, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "_SMALLEST_CHUNK", 300)
    size = video.stat().st_size
    task = new_task(client)
    server.faults.add("PATCH", "/data/", 413, times=2)
    client.upload_video(task.id, video)
    check_frames(client, task.id, video, 0, FRAMES - 1)
    assert len(sent(client, "Upload-Offset")[2].body or b"") == size // 4
    server.faults.add("PATCH", "/data/", 413, times=None)
    with pytest.raises(PayloadTooLarge):
        client.upload_video(new_task(client).id, video)


def test_a_killed_upload_of_a_video_goes_on_in_another_process(
    connect: Callable[..., CVATClient], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "CHUNK_BYTES", 700)
    client = connect()
    task = new_task(client)

    def interrupt(done: int, total: int) -> None:
        if done >= 1400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.upload_video(task.id, video, start_frame=3, progress=interrupt)
    assert client.task(task.id).size == 0
    again = connect()
    assert again.upload_video(task.id, video, start_frame=3) == FRAMES - 3
    check_frames(again, task.id, video, 3, FRAMES - 1)


def test_a_video_that_is_in_is_not_sent_again(connect: Callable[..., CVATClient], video: Path) -> None:
    def kill(request: requests.PreparedRequest) -> str | None:
        if "/api/requests/" in request.path_url and sent(client, "Upload-Finish"):
            raise KeyboardInterrupt
        return None

    client = connect(kill)
    task = new_task(client)
    with pytest.raises(KeyboardInterrupt):
        client.upload_video(task.id, video)
    again = connect()
    for _ in range(2):
        assert again.upload_video(task.id, video) == FRAMES
    assert not any(r.method == "POST" and r.path_url.endswith("/data/") for r in adapter_of(again).sent)


def test_other_frames_into_a_full_task_are_refused(client: CVATClient, video: Path, tmp_path: Path) -> None:
    task = new_task(client)
    client.upload_video(task.id, video, start_frame=2, stop_frame=8)
    for others in ({}, {"start_frame": 2, "stop_frame": 7}, {"start_frame": 1, "stop_frame": 8}):
        with pytest.raises(Invalid, match=r"already holds 7 frames.*frames 2\.\.8.*new task"):
            client.upload_video(task.id, video, **others)
    with pytest.raises(Invalid, match=r"another\.mp4"):
        client.upload_video(task.id, video, name="another.mp4", start_frame=2, stop_frame=8)
    assert client.upload_video(task.id, video, start_frame=2) == 7, "a missing end takes what is there"


def test_a_file_that_is_no_video_fails_with_the_servers_words(client: CVATClient, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    task = new_task(client)
    for _ in range(2):
        with pytest.raises(DataFailed, match=r"the video broken\.mp4 of task \d+: .*broken\.mp4.*delete it"):
            client.upload_video(task.id, broken)


def test_a_video_that_is_too_short_is_noticed(client: CVATClient, video: Path) -> None:
    with pytest.raises(DataFailed, match=r"made 2 frames .*frames 10\.\.20 are 11.*Delete the task"):
        client.upload_video(new_task(client).id, video, start_frame=10, stop_frame=20)
    with pytest.raises(DataFailed, match="leaves no frame"):
        client.upload_video(new_task(client).id, video, start_frame=20, stop_frame=30)


def test_wrong_calls_send_nothing(client: CVATClient, video: Path, tmp_path: Path) -> None:
    task = new_task(client)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InvalidPayload, match=r"got 5\.\.4"):
        client.upload_video(task.id, video, start_frame=5, stop_frame=4)
    with pytest.raises(InvalidPayload, match=r"got -1\.\.None"):
        client.upload_video(task.id, video, start_frame=-1)
    with pytest.raises(InvalidPayload, match=r"video .*empty.mp4 is empty"):
        client.upload_video(task.id, tmp_path / "empty.mp4")
    with pytest.raises(InvalidPayload, match=r"video .*none.mp4 cannot be read"):
        client.upload_video(task.id, tmp_path / "none.mp4")
    with pytest.raises(InvalidPayload, match=r"segment_size=5.*several jobs"):
        client.upload_video(new_task(client, segment_size=5).id, video)
    assert not any("/data" in request.path_url for request in adapter_of(client).sent)


def test_the_last_step_says_what_the_server_documents(client: CVATClient, video: Path) -> None:
    """A recorded server's own document names the fields and their types."""
    document = SHARED / "cvat-2.54.1" / "openapi.json"
    if not document.exists():
        pytest.skip("The document of the recorded server is not at hand.")
    fields = json.loads(document.read_text())["components"]["schemas"]["DataRequest"]["properties"]
    client.upload_video(new_task(client).id, video, start_frame=1, stop_frame=2, chunk_size=5)
    (last,) = sent(client, "Upload-Finish")
    content = json.loads(last.body or b"")
    types = {"integer": int, "boolean": bool}
    assert set(content) == {
        "image_quality",
        "use_cache",
        "use_zip_chunks",
        "chunk_size",
        "start_frame",
        "stop_frame",
    }
    assert all(type(value) is types[fields[name]["type"]] for name, value in content.items())


def test_frames_are_deleted_and_brought_back(client: CVATClient, video: Path) -> None:
    task = new_task(client)
    client.upload_video(task.id, video, start_frame=2, stop_frame=8)
    (job,) = client.jobs(task.id)
    assert client.set_deleted_frames({4, 1}, job_id=job.id).deleted_frames == (1, 4)
    assert client.data_meta(task_id=task.id).deleted_frames == (1, 4)
    assert client.set_deleted_frames([4], task_id=task.id).deleted_frames == (4,)
    assert client.data_meta(job_id=job.id).deleted_frames == (4,)
