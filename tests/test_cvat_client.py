"""The CVAT client against the embedded server, over a real socket: answers get lost, uploads get killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from fixtures_cvat_client import LossyAdapter, lose_first

from labelprop_cvat.backend.cvat import (
    AttributeSpec,
    Credentials,
    CVATClient,
    DataFailed,
    Invalid,
    InvalidPayload,
    LabelMap,
    LabelMissing,
    LabelSpec,
    LoginRefused,
    NotFound,
    RetryPolicy,
    Task,
    UploadFile,
    mask_to_points,
)
from labelprop_cvat.backend.cvat import upload as upload_module
from labelprop_cvat.backend.cvat import writing as writing_module
from labelprop_cvat.backend.local_cvat import LocalCVAT

FAST = RetryPolicy(attempts=4, first_delay=0.002, max_delay=0.01, total=30.0)
INDEX = AttributeSpec("index", False, "number", ("0", "100000", "1"), "0")
SPEED = AttributeSpec("speed", True, "select", ("slow", "fast"), "slow")
LABELS = [LabelSpec("car", (INDEX, SPEED)), LabelSpec("dog", (INDEX,), color="#ff0000")]
USERS = {"admin": "admin-password", "ann": "ann-password"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users=USERS, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def connect(server: LocalCVAT) -> Iterator[Callable[..., CVATClient]]:
    """Makes clients; ``connect(lose)`` makes one that loses requests or answers by that rule."""
    opened: list[CVATClient] = []

    def make(lose: Callable[[requests.PreparedRequest], str | None] | None = None) -> CVATClient:
        adapter = None if lose is None else LossyAdapter(lose)
        client = CVATClient(server.url, Credentials("admin", USERS["admin"]), retry=FAST, adapter=adapter)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., CVATClient]) -> CVATClient:
    return connect()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[UploadFile]:
    folder = tmp_path_factory.mktemp("images")
    files = []
    for number in range(6):
        path = folder / f"on_disk_{number}.png"
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(path), noise)
        files.append(UploadFile(f"frame_{number}.png", path))
    return files


def lossy(client: CVATClient) -> LossyAdapter:
    adapter = client._session._http.get_adapter(client.url)
    assert isinstance(adapter, LossyAdapter)
    return adapter


def names(files: list[UploadFile]) -> list[str]:
    return [f.name for f in files]


def new_task(client: CVATClient, images: list[UploadFile], jobs: list[list[str]] | None = None) -> Task:
    task = client.create_task("task", LABELS)
    client.upload_images(task.id, images, jobs=jobs if jobs is not None else [names(images)])
    return task


def rectangle(label: int, frame: int, left: float, attributes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "type": "rectangle",
        "label_id": label,
        "frame": frame,
        "points": [left, 2.0, left + 5.5, 12.25],
        "attributes": attributes or [],
    }


def track(label: int, frames: list[int], left: float, attributes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    keys = ("type", "frame", "points", "attributes")
    shapes = [{k: v for k, v in rectangle(label, f, left + f).items() if k in keys} for f in frames]
    return {"label_id": label, "frame": frames[0], "attributes": attributes or [], "shapes": shapes}


# Verbs


def test_about_whoami_and_users(client: CVATClient, server: LocalCVAT) -> None:
    assert client.about().version == "2.54.1"
    assert client.whoami().username == "admin"
    assert client.find_user("ann").username == "ann"
    with pytest.raises(NotFound, match='no user "an"'):
        client.find_user("an")
    with pytest.raises(LoginRefused, match='login as "admin"'):
        CVATClient(server.url, Credentials("admin", "wrong"), retry=FAST).whoami()


def test_a_login_key_works_as_token(client: CVATClient, server: LocalCVAT) -> None:
    client.whoami()
    with CVATClient(server.url, Credentials(token=client._session._token), retry=FAST) as other:
        assert other.whoami() == client.whoami()


def test_a_task_with_a_job_per_list_of_files(client: CVATClient, images: list[UploadFile]) -> None:
    seen: list[tuple[int, int]] = []
    task = client.create_task("jobs", LABELS, bug_tracker="https://bugs.test/1", marker="m")
    lists = [["frame_3.png", "frame_4.png"], ["frame_0.png", "frame_1.png", "frame_2.png"], ["frame_5.png"]]
    client.upload_images(task.id, images, jobs=lists, progress=lambda done, total: seen.append((done, total)))
    meta = client.data_meta(task_id=task.id)
    assert [f.name for f in meta.frames] == [name for job in lists for name in job]
    assert {(f.width, f.height) for f in meta.frames} == {(60, 40)}
    assert [list(j.frames) for j in client.jobs(task.id)] == [[0, 1], [2, 3, 4], [5]]
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert client.find_tasks("jobs") == [client.task(task.id)]
    assert client.task(task.id).bug_tracker == "https://bugs.test/1#m"
    job = client.jobs(task.id)[1]
    assert [f.name for f in client.data_meta(job_id=job.id).frames] == lists[1]


def test_frames_come_back_bit_for_bit_in_order(client: CVATClient, images: list[UploadFile]) -> None:
    task = client.create_task("plain", LABELS, segment_size=4)
    shuffled = [images[i] for i in (4, 0, 5, 1, 3, 2)]
    client.upload_images(task.id, shuffled, jobs=None)
    assert [f.name for f in client.data_meta(task_id=task.id).frames] == names(shuffled)
    assert [list(j.frames) for j in client.jobs(task.id)] == [[0, 1, 2, 3], [4, 5]]
    for number, file in enumerate(shuffled):
        assert client.frame(task.id, number) == file.path.read_bytes()


@pytest.mark.parametrize("limit", [10_000_000, 100], ids=["batch", "pieces"])
def test_names_may_hold_anything_but_folders(
    client: CVATClient, images: list[UploadFile], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(upload_module, "BATCH_BYTES", limit)
    odd = ["größe 1.png", "50%+&=#?.png", "été_0003.png", "a;b,c'd.png", "[0][1].png"]
    files = [UploadFile(name, file.path) for name, file in zip(odd, images, strict=False)]
    task = client.create_task("Straße & Co. #1", LABELS)
    client.upload_images(task.id, files, jobs=[odd[3:], odd[:3]])
    assert [f.name for f in client.data_meta(task_id=task.id).frames] == odd[3:] + odd[:3]
    assert client.find_tasks("Straße & Co. #1")[-1].id == task.id


def test_labels_by_name(client: CVATClient) -> None:
    task = client.create_task("labels", LABELS)
    labels = LabelMap(client.labels(task.id))
    assert labels.names == ("car", "dog")
    assert labels.label("car").attribute("index").mutable is False
    assert labels.label("car").attribute("speed").values == ("slow", "fast")
    assert labels.label("dog").color == "#ff0000"
    with pytest.raises(LabelMissing, match=r'Label "cat" is missing on the server, which has "car", "dog"'):
        labels.label("cat")
    with pytest.raises(LabelMissing, match=r'"dog" has no attribute "speed" on the server; it has "index"'):
        labels.label("dog").attribute("speed")


def test_a_project_gives_its_labels(client: CVATClient) -> None:
    assert client.find_project("p") is None
    project = client.create_project("p", LABELS)
    assert client.find_project("p") == client.project(project.id) == project
    task = client.create_task("of project", None, project_id=project.id)
    assert [label.name for label in client.labels(task.id)] == ["car", "dog"]
    with pytest.raises(InvalidPayload, match="either labels or a project"):
        client.create_task("both", LABELS, project_id=project.id)
    client.delete_project(project.id)
    client.delete_project(project.id)
    assert client.find_project("p") is None


def test_jobs_are_assigned_and_finished(client: CVATClient, images: list[UploadFile]) -> None:
    job = client.jobs(new_task(client, images).id)[0]
    ann = client.find_user("ann")
    assert client.update_job(job.id, assignee_id=ann.id).assignee == ann
    assert client.update_job(job.id, state="completed").state == "completed"
    assert client.update_job(job.id).assignee == ann
    changed = client.update_job(job.id, stage="validation", assignee_id=None)
    assert (changed.stage, changed.state, changed.assignee) == ("validation", "new", None)
    with pytest.raises(Invalid, match="not a valid choice"):
        client.update_job(job.id, state="bogus")


def test_issues_with_their_comments(client: CVATClient, images: list[UploadFile]) -> None:
    job = client.jobs(new_task(client, images).id)[0]
    made = client.create_issue(job.id, 1, (3, 4), "too small")
    client.create_issue(job.id, 2, (1, 2, 30, 40), "missing")
    first, second = client.issues(job.id)
    assert (first.id, first.frame, first.position, first.resolved) == (made.id, 1, (3.0, 4.0), False)
    assert [c.message for c in first.comments] == ["too small"]
    assert second.position == (1.0, 2.0, 30.0, 40.0)
    assert client.resolve_issue(first.id).resolved is True
    assert [i.resolved for i in client.issues(job.id)] == [True, False]


def test_a_deleted_task_is_gone(client: CVATClient) -> None:
    task = client.create_task("gone", LABELS)
    client.delete_task(task.id)
    client.delete_task(task.id)
    assert client.find_tasks("gone") == []
    with pytest.raises(NotFound, match=f"/api/tasks/{task.id}"):
        client.task(task.id)


# Uploads


@pytest.mark.parametrize("fate", ["answer", "request"])
@pytest.mark.parametrize("step", ["Upload-Start", "Upload-Multiple", "Upload-Finish"])
def test_an_upload_survives_any_lost_step(
    connect: Callable[..., CVATClient], images: list[UploadFile], step: str, fate: str
) -> None:
    left = [1]

    def lose(request: requests.PreparedRequest) -> str | None:
        if step in request.headers and left[0]:
            left[0] = 0
            return fate
        return None

    client = connect(lose)
    task = new_task(client, images)
    assert lossy(client).lost == 1
    assert [f.name for f in client.data_meta(task_id=task.id).frames] == names(images)
    for number, file in enumerate(images):
        assert client.frame(task.id, number) == file.path.read_bytes()


@pytest.mark.parametrize("fate", ["answer", "request"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD"])
def test_large_files_go_in_pieces_and_survive_lost_ones(
    connect: Callable[..., CVATClient],
    images: list[UploadFile],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    fate: str,
) -> None:
    monkeypatch.setattr(upload_module, "BATCH_BYTES", 100)
    monkeypatch.setattr(upload_module, "CHUNK_BYTES", 1000)
    count = [0]

    def lose(request: requests.PreparedRequest) -> str | None:
        tus = "Upload-Length" in request.headers or "Upload-Offset" in request.headers or request.method == "HEAD"
        if tus and request.method == method:
            count[0] += 1
            return fate if count[0] % 3 == 2 else None
        return "answer" if method == "HEAD" and "Upload-Offset" in request.headers and count[0] < 4 else None

    client = connect(lose)
    task = new_task(client, images)
    assert lossy(client).lost >= 2
    for number, file in enumerate(images):
        assert client.frame(task.id, number) == file.path.read_bytes()
    largest = max(len(r.body or b"") for r in lossy(client).sent if r.method == "PATCH")
    assert largest == 1000


def test_a_killed_upload_goes_on_in_another_process(
    connect: Callable[..., CVATClient], images: list[UploadFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "BATCH_FILES", 2)
    client = connect()
    task = client.create_task("killed", LABELS)

    def interrupt(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.upload_images(task.id, images, jobs=[names(images)], progress=interrupt)
    assert client.task(task.id).size == 0
    again = connect(lambda request: None)
    again.upload_images(task.id, images, jobs=[names(images)])
    assert [f.name for f in again.data_meta(task_id=task.id).frames] == names(images)
    for number, file in enumerate(images):
        assert again.frame(task.id, number) == file.path.read_bytes()
    assert not any("Upload-Multiple" in r.headers for r in lossy(again).sent), "the server appends batches blindly"


def test_an_upload_killed_while_waiting_is_not_sent_again(
    connect: Callable[..., CVATClient], images: list[UploadFile]
) -> None:
    def kill(request: requests.PreparedRequest) -> str | None:
        if "/api/requests/" in request.path_url and any("Upload-Finish" in r.headers for r in lossy(client).sent):
            raise KeyboardInterrupt
        return None

    client = connect(kill)
    task = client.create_task("waiting", LABELS)
    with pytest.raises(KeyboardInterrupt):
        client.upload_images(task.id, images, jobs=None)
    again = connect(lambda request: None)
    again.upload_images(task.id, images, jobs=None)
    assert not any(r.method == "POST" and r.path_url.endswith("/data/") for r in lossy(again).sent)
    again.upload_images(task.id, images, jobs=None)
    assert again.task(task.id).size == len(images)


def test_other_images_into_a_full_task_are_refused(client: CVATClient, images: list[UploadFile]) -> None:
    task = new_task(client, images)
    with pytest.raises(Invalid, match=r"already holds 6 frames.*new task"):
        client.upload_images(task.id, images[:3], jobs=None)


def test_an_image_that_is_none_fails_with_the_servers_words(
    client: CVATClient, images: list[UploadFile], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no JPEG")
    task = client.create_task("broken", LABELS)
    files = [*images, UploadFile("broken.jpg", broken)]
    for _ in range(2):
        with pytest.raises(DataFailed, match=r"7 files of task \d+: .+ delete it"):
            client.upload_images(task.id, files, jobs=None)


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([["frame_0.png"]], "in no job: ['frame_1.png'"),
        ([["frame_0.png", "frame_1.png", "frame_0.png"]], "exactly once"),
        ([["frame_0.png", "frame_1.png"], ["ghost.png"]], "no such file: ['ghost.png']"),
        ([["frame_0.png", "frame_1.png"], []], "none may be empty"),
    ],
)
def test_jobs_must_fit_the_files(
    client: CVATClient, images: list[UploadFile], jobs: list[list[str]], said: str
) -> None:
    with pytest.raises(InvalidPayload) as caught:
        client.upload_images(1, images[:2], jobs=jobs)
    assert said in str(caught.value)


def test_files_are_checked_before_anything_is_sent(
    client: CVATClient, images: list[UploadFile], tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    task = client.create_task("unsent", LABELS, segment_size=2)
    cases: list[tuple[list[UploadFile], str]] = [
        ([], "at least one image"),
        ([images[0], images[0]], "is there twice"),
        ([UploadFile("x.jpg", tmp_path / "missing.jpg")], "cannot be read"),
        ([UploadFile("x.jpg", tmp_path / "empty.jpg")], "is empty"),
    ]
    for files, said in cases:
        with pytest.raises(InvalidPayload, match=said):
            client.upload_images(task.id, files, jobs=None)
    with pytest.raises(InvalidPayload, match="without segment_size"):
        client.upload_images(task.id, images, jobs=[names(images)])
    for name in ("a/b.jpg", "", "..", "a\\b.jpg"):
        with pytest.raises(Invalid, match="has no folder"):
            UploadFile(name, images[0].path)


# Annotations


@pytest.fixture
def work(client: CVATClient, images: list[UploadFile]) -> tuple[int, LabelMap]:
    """A job of six frames and its labels."""
    task = new_task(client, images)
    return client.jobs(task.id)[0].id, LabelMap(client.labels(task.id))


def payload_of(labels: LabelMap) -> dict[str, Any]:
    car, dog = labels.label("car"), labels.label("dog")
    index = car.attribute("index").id
    mask = np.zeros((6, 7), bool)
    mask[1:, 2:5] = True
    indices = [[{"spec_id": index, "value": str(n)}] for n in range(4)]
    return {
        "version": 0,
        "tags": [{"label_id": dog.id, "frame": 3, "attributes": []}],
        "shapes": [
            rectangle(car.id, 0, 3.25, indices[1]),
            rectangle(car.id, 0, 3.25, indices[2]),
            {
                "type": "mask",
                "label_id": dog.id,
                "frame": 5,
                "points": mask_to_points(4, 9, mask),
                "attributes": [{"spec_id": dog.attribute("index").id, "value": "9"}],
            },
            {"type": "polygon", "label_id": dog.id, "frame": 1, "points": [1, 2, 3, 4.125, 5, 1], "attributes": []},
        ],
        "tracks": [
            track(car.id, [0, 2, 5], 7.125, indices[3]),
            track(car.id, [1], 8.5, indices[1]),
            track(dog.id, [0, 2, 5], 7.125),
        ],
    }


def counts(annotations: dict[str, Any]) -> tuple[int, int, int]:
    return len(annotations["tags"]), len(annotations["shapes"]), len(annotations["tracks"])


def test_annotations_go_there_and_back(client: CVATClient, work: tuple[int, LabelMap]) -> None:
    job, labels = work
    payload = payload_of(labels)
    created = client.create_annotations(payload, job_id=job)
    assert counts(created) == (1, 4, 3)
    there = client.annotations(job_id=job)
    assert counts(there) == (1, 4, 3)
    assert [s["points"] for s in created["shapes"]] == [s["points"] for s in payload["shapes"]]
    by_id = {s["id"]: s for s in there["shapes"]}
    for sent, made in zip(payload["shapes"], created["shapes"], strict=True):
        assert by_id[made["id"]]["points"] == sent["points"]

    changed = dict(by_id[created["shapes"][0]["id"]])
    changed["points"] = [1.0, 1.0, 4.0, 4.0]
    client.update_annotations({"shapes": [changed]}, job_id=job)
    gone = {"tracks": there["tracks"][:1], "tags": there["tags"]}
    client.delete_annotations(gone, job_id=job)
    client.delete_annotations(gone, job_id=job)
    there = client.annotations(job_id=job)
    assert counts(there) == (0, 4, 2)
    assert {s["id"]: s for s in there["shapes"]}[changed["id"]]["points"] == [1.0, 1.0, 4.0, 4.0]


@pytest.mark.parametrize("fate", ["answer", "request"])
@pytest.mark.parametrize("limit", [10_000_000, 700, 1], ids=["one batch", "some batches", "one each"])
def test_created_annotations_are_neither_doubled_nor_lost(
    connect: Callable[..., CVATClient],
    client: CVATClient,
    work: tuple[int, LabelMap],
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
    limit: int,
) -> None:
    monkeypatch.setattr(writing_module, "PAYLOAD_BYTES", limit)
    job, labels = work
    payload = payload_of(labels)
    client.create_annotations(payload, job_id=job)
    before = client.annotations(job_id=job)
    turns = [0]

    def lose(request: requests.PreparedRequest) -> str | None:
        if request.method != "PATCH":
            return None
        turns[0] += 1
        return fate if turns[0] % 2 == 1 else None

    careless = connect(lose)
    created = careless.create_annotations(payload, job_id=job)
    assert lossy(careless).lost >= 1
    after = client.annotations(job_id=job)
    assert counts(after) == (2, 8, 6), "equal objects that were there before must not be taken for the new ones"
    for kind in ("tags", "shapes", "tracks"):
        old = {o["id"] for o in before[kind]}
        new = {o["id"] for o in after[kind]} - old
        assert {o["id"] for o in created[kind]} == new
    assert [s["points"] for s in created["shapes"]] == [s["points"] for s in payload["shapes"]]
    for sent, made in zip(payload["shapes"], created["shapes"], strict=True):
        given = {a["spec_id"]: a["value"] for a in made["attributes"]}
        assert given.items() >= {a["spec_id"]: a["value"] for a in sent["attributes"]}.items()


def test_a_killed_creation_is_resumed(
    connect: Callable[..., CVATClient],
    client: CVATClient,
    work: tuple[int, LabelMap],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing_module, "PAYLOAD_BYTES", 1)
    job, labels = work
    payload = payload_of(labels)
    seen: list[tuple[int, int]] = []

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.create_annotations(payload, job_id=job, progress=kill)
    assert sum(counts(client.annotations(job_id=job))) == 5
    created = client.create_annotations(payload, job_id=job, resume=True, progress=lambda *now: seen.append(now))
    assert seen == [(6, 8), (7, 8), (8, 8)]
    there = client.annotations(job_id=job)
    assert counts(there) == counts(created) == (1, 4, 3)
    assert [s["points"] for s in created["shapes"]] == [s["points"] for s in payload["shapes"]]
    client.create_annotations(payload, job_id=job, resume=True)
    assert client.annotations(job_id=job) == there
    client.create_annotations(payload, job_id=job)
    assert counts(client.annotations(job_id=job)) == (2, 8, 6)


def test_a_connection_cut_by_the_server_doubles_nothing(
    server: LocalCVAT, client: CVATClient, work: tuple[int, LabelMap]
) -> None:
    job, labels = work
    for action in ("close_after", "close", "503"):
        server.faults.add("PATCH", f"/api/jobs/{job}/annotations", action)
        client.create_annotations({"shapes": [rectangle(labels.label("car").id, 2, 11.0)]}, job_id=job)
    assert len(server.faults.triggered) == 3
    server.faults.clear()
    assert counts(client.annotations(job_id=job)) == (0, 3, 0)


def test_a_server_that_hangs_is_given_up(server: LocalCVAT, client: CVATClient) -> None:
    client.whoami()
    server.faults.add("GET", "/api/tasks/", "hang", times=1, seconds=20.0)
    impatient = CVATClient(
        server.url,
        Credentials(token=client._session._token),
        timeout=(1.0, 0.3),
        retry=RetryPolicy(attempts=2, first_delay=0.01, total=5.0),
    )
    with impatient, pytest.raises(NotFound):
        impatient.task(999_999)
    server.faults.clear()


@pytest.mark.parametrize("fate", ["answer", "request"])
def test_updates_and_deletions_are_done_once_in_the_end(
    connect: Callable[..., CVATClient], client: CVATClient, work: tuple[int, LabelMap], fate: str
) -> None:
    job, labels = work
    client.create_annotations(payload_of(labels), job_id=job)
    there = client.annotations(job_id=job)
    for shape in there["shapes"]:
        shape["points"] = [p + 1 for p in shape["points"]] if shape["type"] != "mask" else shape["points"]
    careless = connect(lose_first("PATCH", "action=update", fate))
    careless.update_annotations({"shapes": there["shapes"], "tracks": there["tracks"]}, job_id=job)
    assert lossy(careless).lost == 1
    now = client.annotations(job_id=job)
    assert counts(now) == (1, 4, 3)
    assert {s["id"]: s["points"] for s in now["shapes"]} == {s["id"]: s["points"] for s in there["shapes"]}

    careless = connect(lose_first("PATCH", "action=delete", fate))
    careless.delete_annotations({"shapes": now["shapes"][:3], "tracks": now["tracks"]}, job_id=job)
    assert lossy(careless).lost == 1
    assert counts(client.annotations(job_id=job)) == (1, 1, 0)


@pytest.mark.parametrize("fate", ["answer", "request"])
def test_tasks_and_issues_are_made_once(
    connect: Callable[..., CVATClient], client: CVATClient, images: list[UploadFile], fate: str
) -> None:
    name = f"once {fate}"
    careless = connect(lose_first("POST", "/api/tasks", fate, times=2))
    task = careless.create_task(name, LABELS)
    assert [t.id for t in client.find_tasks(name)] == [task.id]
    client.upload_images(task.id, images, jobs=None)
    job = client.jobs(task.id)[0].id
    client.create_issue(job, 1, (3, 4), "look")
    careless = connect(lose_first("POST", "/api/issues", fate))
    issue = careless.create_issue(job, 1, (3, 4), "look")
    assert [i.id for i in client.issues(job)][1:] == [issue.id]
    careless = connect(lose_first("POST", "/api/projects", fate))
    project = careless.create_project(name, LABELS)
    assert client.find_project(name) == project


def test_annotations_of_a_whole_task(client: CVATClient, images: list[UploadFile]) -> None:
    task = new_task(client, images, [names(images[:3]), names(images[3:])])
    car = LabelMap(client.labels(task.id)).label("car").id
    payload = {"shapes": [rectangle(car, 0, 1), rectangle(car, 5, 1)], "tracks": [track(car, [3, 5], 2)]}
    client.create_annotations(payload, task_id=task.id)
    first, second = client.jobs(task.id)
    assert counts(client.annotations(job_id=first.id)) == (0, 1, 0)
    assert counts(client.annotations(job_id=second.id)) == (0, 1, 1)
    with pytest.raises(InvalidPayload, match=r"frames 1\.\.4, which lie in several jobs"):
        client.create_annotations({"tracks": [track(car, [1, 4], 2)]}, task_id=task.id)
    with pytest.raises(InvalidPayload, match=r"on frame 2, but the frames here are 3\.\.5"):
        client.create_annotations({"shapes": [rectangle(car, 2, 1)]}, job_id=second.id)
    with pytest.raises(Invalid, match="Exactly one of task_id and job_id"):
        client.annotations()


@pytest.mark.parametrize("fate", ["answer", "request"])
def test_tracks_that_end_with_their_job_are_recognized(
    connect: Callable[..., CVATClient], client: CVATClient, images: list[UploadFile], fate: str
) -> None:
    """The task's annotations show such a track with one keyframe more than was sent."""
    task = new_task(client, images, [names(images[:3]), names(images[3:])])
    car = LabelMap(client.labels(task.id)).label("car").id
    careless = connect(lose_first("PATCH", "action=create", fate))
    careless.create_annotations({"tracks": [track(car, [0, 2], 2), track(car, [3, 5], 2)]}, task_id=task.id)
    assert lossy(careless).lost == 1
    shown = client.annotations(task_id=task.id)["tracks"]
    assert sorted([s["frame"] for s in t["shapes"]] for t in shown) == [[0, 2, 3], [3, 5]]
    careless = connect(lose_first("PATCH", "action=update", fate))
    first = client.annotations(job_id=client.jobs(task.id)[0].id)
    first["tracks"][0]["shapes"][0]["points"] = [1.0, 1.0, 9.0, 9.0]
    careless.update_annotations(first, task_id=task.id)
    assert counts(client.annotations(task_id=task.id)) == (0, 0, 2)
    client.update_annotations(client.annotations(task_id=task.id), task_id=task.id)
    assert client.annotations(task_id=task.id)["tracks"][0]["shapes"][0]["points"] == [1.0, 1.0, 9.0, 9.0]
    assert client.annotations(job_id=client.jobs(task.id)[0].id) == first
    client.delete_annotations(client.annotations(task_id=task.id), task_id=task.id)
    assert counts(client.annotations(task_id=task.id)) == (0, 0, 0)


def test_tracks_do_not_leak_into_later_jobs(client: CVATClient, images: list[UploadFile]) -> None:
    task = new_task(client, images, [names(images[:3]), names(images[3:])])
    car = LabelMap(client.labels(task.id)).label("car").id
    payload = {"shapes": [rectangle(car, 4, 1), rectangle(car, 1, 2)], "tracks": [track(car, [0, 2], 2)]}
    created = client.create_annotations(payload, task_id=task.id)
    assert [s["frame"] for s in created["shapes"]] == [4, 1], "in the order given"
    assert counts(client.annotations(job_id=client.jobs(task.id)[1].id)) == (0, 1, 0)


def test_a_task_whose_jobs_share_frames_is_written_job_by_job(client: CVATClient, images: list[UploadFile]) -> None:
    task = client.create_task("overlap", LABELS, segment_size=4, overlap=1)
    client.upload_images(task.id, images, jobs=None)
    car = LabelMap(client.labels(task.id)).label("car").id
    with pytest.raises(InvalidPayload, match="share frames"):
        client.create_annotations({"shapes": [rectangle(car, 3, 1)]}, task_id=task.id)
    job = client.jobs(task.id)[0]
    client.create_annotations({"shapes": [rectangle(car, 3, 1)]}, job_id=job.id)
    assert counts(client.annotations(job_id=job.id)) == (0, 1, 0)


def test_nothing_is_sent_when_one_object_is_wrong(client: CVATClient, work: tuple[int, LabelMap]) -> None:
    job, labels = work
    payload = payload_of(labels)
    payload["tracks"].append({**track(labels.label("car").id, [0], 1), "shapes": []})
    with pytest.raises(InvalidPayload, match="Track 3 has no shapes"):
        client.create_annotations(payload, job_id=job)
    assert counts(client.annotations(job_id=job)) == (0, 0, 0)


def test_the_server_keeps_nothing_of_a_payload_that_it_refuses(client: CVATClient, work: tuple[int, LabelMap]) -> None:
    job, labels = work
    there = client.create_annotations(payload_of(labels), job_id=job)
    with pytest.raises(InvalidPayload, match="has id"):
        client.create_annotations({"shapes": there["shapes"]}, job_id=job)
    with pytest.raises(InvalidPayload, match="would make a duplicate"):
        client.update_annotations({"shapes": [rectangle(labels.label("car").id, 1, 1)]}, job_id=job)
    with pytest.raises(InvalidPayload, match="without label_id, frame, type"):
        client.delete_annotations({"shapes": [{"id": there["shapes"][0]["id"]}]}, job_id=job)
    with pytest.raises(InvalidPayload, match="drop shapez"):
        client.create_annotations({"shapez": []}, job_id=job)
    assert counts(client.annotations(job_id=job)) == (1, 4, 3)
