"""The official cvat-sdk works against the local server unchanged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from labelprop_cvat.backend.local_cvat import LocalCVAT

cvat_sdk = pytest.importorskip("cvat_sdk")
models = pytest.importorskip("cvat_sdk.models")

LABELS = [
    {
        "name": "car",
        "attributes": [
            {"name": "index", "mutable": False, "input_type": "number", "values": ["0", "1000", "1"]},
            {"name": "speed", "mutable": True, "input_type": "text", "values": [""]},
        ],
    },
    {
        "name": "person",
        "type": "skeleton",
        "sublabels": [{"name": "head", "type": "points"}, {"name": "foot", "type": "points"}],
        "svg": "<circle/>",
    },
]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"admin": "secret", "ann": "ann-secret"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalCVAT) -> Iterator[Any]:
    with cvat_sdk.make_client(server.url, credentials=("admin", "secret")) as made:
        made.config.status_check_period = 0.05
        yield made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((60, 80, 3), 40 * number, np.uint8))
    return paths


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (80, 60))
    for number in range(30):
        writer.write(np.full((60, 80, 3), 8 * number, np.uint8))
    writer.release()
    return path


def _image_task(client: Any, images: list[Path], **spec: Any) -> Any:
    return client.tasks.create_from_data(
        spec={"name": "images", "labels": LABELS, **spec},
        resources=images,
        data_params={"image_quality": 90, "sorting_method": "predefined"},
    )


def test_images_round_trip(client: Any, images: list[Path]) -> None:
    task = _image_task(client, images, segment_size=2)

    assert task.size == 4
    jobs = sorted(task.get_jobs(), key=lambda job: int(job.start_frame))
    assert [(job.start_frame, job.stop_frame) for job in jobs] == [(0, 1), (2, 3)]
    assert [frame.name for frame in task.get_meta().frames] == ["0.png", "1.png", "2.png", "3.png"]

    car = next(label for label in task.get_labels() if label.name == "car")
    specs = {attribute.name: attribute.id for attribute in car.attributes}
    task.set_annotations(
        models.LabeledDataRequest(
            shapes=[
                models.LabeledShapeRequest(
                    frame=3,
                    label_id=car.id,
                    type="rectangle",
                    points=[1, 2, 30.5, 40.25],
                    attributes=[models.AttributeValRequest(spec_id=specs["index"], value="7")],
                )
            ]
        )
    )
    jobs[0].update_annotations(
        models.PatchedLabeledDataRequest(
            shapes=[models.LabeledShapeRequest(frame=1, label_id=car.id, type="mask", points=[0, 4, 5, 5, 6, 6])]
        ),
        action=cvat_sdk.core.proxies.annotations.AnnotationUpdateAction.CREATE,
    )

    shapes = {shape.frame: shape for shape in task.get_annotations().shapes}
    assert sorted(shapes) == [1, 3]
    assert shapes[3].points == [1, 2, 30.5, 40.25]
    assert {item.spec_id: item.value for item in shapes[3].attributes} == {specs["index"]: "7", specs["speed"]: ""}
    assert shapes[1].type.value == "mask"
    assert [shape.frame for shape in jobs[1].get_annotations().shapes] == [3]
    task.remove()
    with pytest.raises(cvat_sdk.api_client.exceptions.NotFoundException):
        client.tasks.retrieve(task.id)


def test_skeletons_keep_their_elements(client: Any, images: list[Path]) -> None:
    task = _image_task(client, images)
    person = next(label for label in task.get_labels() if label.name == "person")
    head, foot = (part.id for part in person.sublabels)
    elements = [
        models.SubLabeledShapeRequest(frame=0, label_id=part, type="points", points=[x, 5.0])
        for part, x in ((head, 3.0), (foot, 9.0))
    ]
    task.set_annotations(
        models.LabeledDataRequest(
            shapes=[models.LabeledShapeRequest(frame=0, label_id=person.id, type="skeleton", elements=elements)]
        )
    )

    (shape,) = task.get_annotations().shapes
    assert {(part.label_id, tuple(part.points)) for part in shape.elements} == {(head, (3, 5)), (foot, (9, 5))}


def test_video_round_trip(client: Any, video: Path) -> None:
    task = client.tasks.create_from_data(
        spec={"name": "video", "labels": LABELS, "segment_size": 10, "overlap": 0},
        resources=[video],
        data_params={"image_quality": 90, "start_frame": 5, "frame_step": 2, "use_zip_chunks": True},
    )

    assert task.size == 13
    assert task.mode == "interpolation"
    # Frame 0 of the task is frame 5 of the video, frame 12 frame 29.
    for frame, source in ((12, 29), (0, 5)):
        picture = np.asarray(Image.open(task.get_frame(frame, quality="original")))
        assert abs(picture.mean() - 8 * source) < 3

    car = next(label for label in task.get_labels() if label.name == "car")
    keyframes = [
        models.TrackedShapeRequest(frame=frame, type="rectangle", points=[frame, 0, frame + 10, 10])
        for frame in (2, 12)
    ]
    task.set_annotations(
        models.LabeledDataRequest(tracks=[models.LabeledTrackRequest(frame=2, label_id=car.id, shapes=keyframes)])
    )
    jobs = sorted(task.get_jobs(), key=lambda job: int(job.start_frame))
    first, second = (job.get_annotations().tracks[0] for job in jobs)
    assert [(shape.frame, shape.points[0]) for shape in first.shapes] == [(2, 2), (9, 9)]
    assert [(shape.frame, shape.points[0]) for shape in second.shapes] == [(10, 10), (12, 12)]


def test_frames_and_chunks_are_the_uploaded_pictures(client: Any, images: list[Path], tmp_path: Path) -> None:
    task = _image_task(client, images, segment_size=2)

    assert task.get_frame(2, quality="original").read() == images[2].read_bytes()
    written = task.download_frames([0, 3], outdir=tmp_path, quality="compressed")
    assert written is None or len(written) == 2
    assert len(list(tmp_path.iterdir())) == 2
    task.download_chunk(0, chunk := io.BytesIO(), quality="compressed")
    import zipfile

    with zipfile.ZipFile(chunk) as archive:
        assert archive.namelist() == [f"{number:06d}.jpeg" for number in range(4)]
    assert Image.open(task.get_preview()).size == (80, 60)
    job = min(task.get_jobs(), key=lambda job: int(job.start_frame))
    assert Image.open(job.get_frame(1, quality="compressed")).size == (80, 60)


def test_jobs_issues_and_comments(client: Any, server: LocalCVAT, images: list[Path]) -> None:
    task = _image_task(client, images)
    (job,) = task.get_jobs()
    annotator = next(user for user in client.users.list() if user.username == "ann")
    job.update({"assignee": annotator.id, "state": "in progress"})
    assert (job.assignee.username, job.state) == ("ann", "in progress")

    with cvat_sdk.make_client(server.url, credentials=("ann", "ann-secret")) as other:
        mine = other.jobs.retrieve(job.id)
        mine.update({"state": "completed"})
        with pytest.raises(cvat_sdk.api_client.exceptions.ForbiddenException):
            mine.update({"stage": "validation"})
        with pytest.raises(cvat_sdk.api_client.exceptions.ForbiddenException):
            other.tasks.retrieve(task.id)
        issue = other.issues.create(models.IssueWriteRequest(frame=1, position=[1.0, 2.0], job=job.id, message="why?"))
        other.comments.create(models.CommentWriteRequest(issue.id, message="because"))

    (found,) = job.get_issues()
    assert [comment.message for comment in found.get_comments()] == ["because", "why?"]
    found.update(models.PatchedIssueWriteRequest(resolved=True))
    assert job.get_issues()[0].resolved
    found.remove()
    assert job.get_issues() == []
    assert client.jobs.retrieve(job.id).state == "completed"


def test_projects_share_their_labels(client: Any, images: list[Path]) -> None:
    project = client.projects.create({"name": "project", "labels": LABELS})
    task = _image_task(client, images, name="in project", project_id=project.id, labels=[])

    assert [found.id for found in project.get_tasks()] == [task.id]
    assert [label.name for label in task.get_labels()] == ["car", "person"]
    project.remove()
    assert task.id not in [found.id for found in client.tasks.list()]


def test_data_that_is_no_picture_fails_with_a_message(client: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(cvat_sdk.core.exceptions.BackgroundRequestException, match=r"broken\.jpg"):
        _image_task(client, [broken])


def test_personal_access_tokens_open_the_server(client: Any, server: LocalCVAT) -> None:
    token, _ = client.api_client.auth_api.create_access_tokens(
        models.AccessTokenWriteRequest(name="robot", read_only=True)
    )
    with cvat_sdk.make_client(server.url, access_token=token.value) as robot:
        assert robot.users.retrieve_current_user().username == "admin"
        with pytest.raises(cvat_sdk.api_client.exceptions.ForbiddenException):
            robot.projects.create({"name": "no"})
