"""Servers of other versions than the one that was recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.faults_proxy import Break, Proxy, rewrite, status_before
from labelprop_cvat.backend.cvat import (
    Credentials,
    CVATClient,
    DataFailed,
    LabelSpec,
    RetryPolicy,
    ServerAbout,
    ServerTooOld,
    UploadFile,
)
from labelprop_cvat.backend.cvat.versions import TESTED, version_of
from labelprop_cvat.backend.local_cvat import LocalCVAT

FAST = RetryPolicy(first_delay=0.01, max_delay=0.02, total=10.0)
LOGIN = Credentials("ann", "the password of ann")
NO_REQUESTS = r"^/api/requests"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"ann": "the password of ann"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def proxy(server: LocalCVAT) -> Iterator[Proxy]:
    with Proxy(int(server.url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def of_version(proxy: Proxy) -> Callable[[str | None], CVATClient]:
    """A client of a server that says that it is of another version; None: that hides it."""

    def connect(version: str | None) -> CVATClient:
        def change(body: bytes) -> bytes:
            return json.dumps({**json.loads(body), "version": version}).encode()

        act: Break = status_before(403) if version is None else rewrite(change)
        proxy.on("GET", "/api/server/about", act, None)
        return CVATClient(proxy.url, LOGIN, retry=FAST)

    return connect


@pytest.fixture
def images(tmp_path: Path) -> list[UploadFile]:
    import cv2
    import numpy as np

    files = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8))
        files.append(UploadFile(path.name, path))
    return files


def upload(client: CVATClient, images: list[UploadFile]) -> int:
    task = client.create_task("task", [LabelSpec("car")])
    client.upload_images(task.id, images, jobs=[[images[0].name], [images[1].name, images[2].name]])
    assert [len(job.frames) for job in client.jobs(task.id)] == [1, 2]
    return task.id


@pytest.mark.parametrize(
    ("version", "has_requests"),
    [
        *((v, True) for v in ("2.4.0", "2.18.3", "2.19.0", "2.54.1", "2.99.0", "3.0.0-alpha", "nightly", "", None)),
        *((v, False) for v in ("2.4.0", "2.18.3", "2.19.0", "nightly", "", None)),
    ],
)
def test_an_upload_to_any_version(
    proxy: Proxy,
    of_version: Callable[[str | None], CVATClient],
    images: list[UploadFile],
    version: str | None,
    has_requests: bool,
) -> None:
    if not has_requests:
        proxy.on("GET", NO_REQUESTS, status_before(404, detail="Not found."), None)
    with of_version(version) as client:
        task = upload(client, images)
        # An upload that is called again finds its data.
        client.upload_images(task, images, jobs=[[images[0].name], [images[1].name, images[2].name]])


def test_an_old_server_says_why_it_made_no_frames(
    proxy: Proxy, of_version: Callable[[str | None], CVATClient], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    proxy.on("GET", NO_REQUESTS, status_before(404), None)
    with of_version("2.10.0") as client:
        task = client.create_task("task", [LabelSpec("car")])
        with pytest.raises(DataFailed, match=r"broken\.jpg"):
            client.upload_images(task.id, [UploadFile("broken.jpg", broken)], jobs=None)


def test_an_upload_to_an_old_server_goes_on_after_a_kill(
    proxy: Proxy, of_version: Callable[[str | None], CVATClient], images: list[UploadFile]
) -> None:
    """Old servers call a task finished that never got its data; that must not be believed."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    proxy.on("GET", NO_REQUESTS, status_before(404), None)
    with of_version("2.10.0") as client:
        task = client.create_task("task", [LabelSpec("car")])
        with pytest.raises(Killed):
            client.upload_images(task.id, images, jobs=None, progress=die)
        client.upload_images(task.id, images, jobs=None)
        assert client.task(task.id).size == 3


@pytest.mark.parametrize("version", ["2.3.9", "2.0", "1.7.0"])
def test_a_server_that_is_too_old_is_refused(of_version: Callable[[str | None], CVATClient], version: str) -> None:
    with of_version(version) as client, pytest.raises(ServerTooOld, match=rf"is of version {version}; needed is 2\.4"):
        client.whoami()
    # What answers there can be asked all the same.
    assert of_version(version).about().version == version


def test_one_warning_names_the_server_and_its_version(
    proxy: Proxy, of_version: Callable[[str | None], CVATClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        with of_version("2.31.0") as client:
            client.whoami()
            client.labels(project_id=client.create_project("p", [LabelSpec("car")]).id)
    (warning,) = [r.getMessage() for r in caplog.records if "is of version" in r.getMessage()]
    assert "2.31.0" in warning
    assert proxy.url in warning
    assert f"{TESTED[0][0]}.{TESTED[0][1]}" in warning


def test_the_tested_version_is_not_warned_of(server: LocalCVAT, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with CVATClient(server.url, LOGIN, retry=FAST) as client:
        client.whoami()
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.54.1", (2, 54)),
        ("v2.4", (2, 4)),
        (" 2.10.0.alpha", (2, 10)),
        ("2.54-dev+3", (2, 54)),
        ("10.0", (10, 0)),
        ("", None),
        ("develop", None),
        ("2", None),
        ("99999.1", None),
        ("2." + "9" * 500, None),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int] | None) -> None:
    assert version_of(ServerAbout("CVAT", text)) == version
