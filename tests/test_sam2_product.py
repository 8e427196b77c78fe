"""SAM 2 fills what people annotated: to CVAT and back, on images and videos, with random weights at a small size."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import (
    annotate_by_script,
    client_of,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)
from PIL import Image

import labelprop_cvat  # noqa: F401 - registers the backend
import labelprop_cvat.workflow as lp
from benchmarks.sam2_random import random_checkpoint
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.labels import detection_to_mask
from labelprop_cvat.propagation.sam2 import engine as sam2_engine
from labelprop_cvat.propagation.sam2.model import load_model
from labelprop_cvat.propagation.sam2.options import Sam2Options

SIZE = (72, 128)
FRAMES = 8
RUN = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:4",
    "exemplars": "every:3",
    "engine": "sam2",
}
EXEMPLARS = {0, 3, 4, 7}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("weights") / "random.pt")


@pytest.fixture(scope="module")
def options(checkpoint: Path) -> dict[str, Any]:
    return {"checkpoint": str(checkpoint), "image_size": 128, "device": "cpu"}


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Reads each file of weights once, as the network keeps nothing between two uses; lists what was asked for."""
    asked: list[Any] = []

    def load_once(wanted: Sam2Options, *args: Any) -> Any:
        asked.append(wanted)
        key = (wanted.checkpoint, wanted.image_size)
        if key not in LOADED:
            LOADED[key] = load_model(wanted, *args)
        return LOADED[key]

    monkeypatch.setattr(sam2_engine, "load_model", load_once)
    return asked


LOADED: dict[Any, Any] = {}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("scene"), FRAMES)


@pytest.fixture
def dataset(files: list[Path]) -> Iterator[fo.Dataset]:
    made = image_dataset(files)
    yield made
    made.delete()


def pixels(label: fo.Detection) -> np.ndarray:
    mask = detection_to_mask(label, SIZE)
    assert mask is not None
    return mask.to_full(SIZE)


def propagated(dataset: fo.Dataset, field: str = "objects_propagated") -> list[dict[int, fo.Detection]]:
    return [
        {label.index: label for label in (held.detections if held is not None else ())}
        for held in dataset.sort_by("number").values(field)
    ]


def changed_at(dataset: fo.Dataset) -> list[Any]:
    return dataset.sort_by("number").values("last_modified_at")


def ids(dataset: fo.Dataset) -> list[list[str]]:
    return [[label.id for label in labels.values()] for labels in propagated(dataset)]


def correct(server: LocalCVAT, results: Any, segment: int) -> None:
    """On the last exemplar of a segment a person moves the person's mask to the right, and takes the car's away."""
    results.refresh()
    (task,) = results.ledger.tasks()
    (job,) = (job for job in task.jobs if job.segment == segment)
    with client_of(server) as client:
        shapes = client.annotations(job_id=job.id)["shapes"]
        last = max(shape["frame"] for shape in shapes)
        on_it = {shape["label_id"]: shape for shape in shapes if shape["frame"] == last}
        person, car = (on_it[task.labels[name].id] for name in ("person", "car"))
        *runs, left, top, right, bottom = person["points"]
        person["points"] = [*runs, left + 1, top, right + 1, bottom]
        client.update_annotations({"tags": [], "shapes": [person], "tracks": []}, job_id=job.id)
        client.delete_annotations({"tags": [], "shapes": [car], "tracks": []}, job_id=job.id)


def check_provenance(labels: Mapping[int, fo.Detection], number: int) -> None:
    for label in labels.values():
        drawn = number in EXEMPLARS
        assert (label.source, label.keyframe) == (("manual", True) if drawn else ("propagated", False))
        assert (label.confidence == 1.0) is drawn
        assert 0 < label.confidence <= 1
        assert set(label.exemplar_frames) <= EXEMPLARS
        assert label.exemplar_frames


def test_images_with_masks_and_a_correction(server: LocalCVAT, dataset: fo.Dataset, options: dict[str, Any]) -> None:
    results = dataset.annotate("masks", **RUN, missing="absent", engine_options=options, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations("masks")
    found = propagated(dataset)
    assert [sorted(labels) for labels in found] == [[1, 2]] * FRAMES
    for number, labels in enumerate(found):
        check_provenance(labels, number)
        assert {index: label.label for index, label in labels.items()} == {1: "person", 2: "car"}
        if number in EXEMPLARS:
            for index, label in labels.items():
                assert np.array_equal(pixels(label), scene_masks(number)[index])
        else:
            # Random weights know nothing, but no pixel has two objects.
            assert not (pixels(labels[1]) & pixels(labels[2])).any()
    assert {labels[1].instance.id for labels in found} == {found[0][1].instance.id}

    before = ids(dataset)
    correct(server, results, 1)
    dataset.load_annotations("masks")
    after = ids(dataset)
    # Frame 4 is where people had drawn both, and stays as it is.
    assert after[:5] == before[:5]
    assert all(a != b for a, b in zip(after[5:], before[5:], strict=True))
    found = propagated(dataset)
    assert [sorted(labels) for labels in found[4:]] == [[1, 2], [1, 2], [1, 2], [1]]
    assert np.array_equal(pixels(found[7][1]), np.roll(scene_masks(7)[1], 1, axis=1))
    assert found[6][2].exemplar_frames == [4]
    assert found[6][1].exemplar_frames == [4, 7]

    stamps = changed_at(dataset)
    dataset.load_annotations("masks")
    assert changed_at(dataset) == stamps
    assert ids(dataset) == after


def test_a_video_with_boxes(server: LocalCVAT, tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = video_dataset(write_video(tmp_path / "street.mp4", 5))
    run = {**RUN, "label_field": "frames.objects", "label_type": "detections", "sort_field": None}
    run |= {"segmentation": "none", "exemplars": "every:4"}
    results = dataset.annotate("boxes", **run, engine_options=options, **login(server))
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    dataset.load_annotations("boxes")
    frames = dataset.first().frames
    boxes = [{label.index: label for label in frames[n].objects_propagated.detections} for n in range(1, 6)]
    assert [sorted(labels) for labels in boxes] == [[1, 2]] * 5
    assert not any(label.has_mask for labels in boxes for label in labels.values())
    assert [labels[1].source for labels in boxes] == ["manual", *["propagated"] * 3, "manual"]
    for number in (1, 5):
        theirs = {label.index: label.bounding_box for label in frames[number].objects.detections}
        for index, label in boxes[number - 1].items():
            assert label.bounding_box == pytest.approx(theirs[index], abs=1e-6)

    # The same boxes, for masks.
    lp.propagate(
        dataset,
        "frames.objects",
        "frames.masks",
        engine="sam2",
        engine_options={**options, "masks_from_boxes": True},
        segmentation="none",
    )
    dataset.reload()
    masks = [frame.masks.detections for _, frame in sorted(dataset.first().frames.items())]
    assert [len(labels) for labels in masks] == [2] * 5
    assert all(label.has_mask for labels in masks for label in labels)
    assert {label.source for labels in masks for label in labels} == {"propagated"}
    dataset.delete()


def test_clicks_make_masks(dataset: fo.Dataset, options: dict[str, Any]) -> None:
    def clicked(**said: Any) -> list[dict[int, fo.Detection]]:
        sample = dataset.sort_by("number").first()
        points = [(0.25, 0.5), (0.8, 0.2)]
        sample["clicks"] = fo.Keypoints(keypoints=[fo.Keypoint(label="person", index=1, points=points, **said)])
        sample.save()
        view = dataset.sort_by("number").limit(3)
        assert lp.propagate(view, "clicks", engine="sam2", engine_options=options, sort_field="number") == 3
        return propagated(dataset, "clicks_propagated")[:3]

    on_it, beside_it = clicked(), clicked(sam_labels=[1, 0])
    for labels in (*on_it, *beside_it):
        assert (labels[1].label, labels[1].source, labels[1].keyframe) == ("person", "propagated", False)
        assert 0 < labels[1].confidence < 1
        assert labels[1].exemplar_frames == [0]
    assert not np.array_equal(pixels(on_it[0][1]), pixels(beside_it[0][1]))


def test_cut_off_in_the_middle(
    server: LocalCVAT,
    dataset: fo.Dataset,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    loads: list[Any],
) -> None:
    closed, close = [], sam2_engine.Sam2Propagator.close
    monkeypatch.setattr(sam2_engine.Sam2Propagator, "close", lambda self: closed.append(1) or close(self))
    results = dataset.annotate("cut", **RUN, engine_options=options, **login(server))
    assert loads == []
    annotate_by_script(server, results)
    threads = threading.active_count()
    with monkeypatch.context() as patch:
        answer = sam2_engine.AnswerMaker.answer

        def cut_off(self: Any, known: Any) -> Any:
            if known.frame == 6:
                raise KeyboardInterrupt("enough")
            return answer(self, known)

        patch.setattr(sam2_engine.AnswerMaker, "answer", cut_off)
        with pytest.raises(KeyboardInterrupt, match="enough"):
            dataset.load_annotations("cut")
    assert (len(loads), len(closed)) == (1, 1)
    assert threading.active_count() <= threads
    assert [bool(labels) for labels in propagated(dataset)] == [True] * 4 + [False] * 4
    before = ids(dataset)[:4]
    dataset.load_annotations("cut")
    assert [sorted(labels) for labels in propagated(dataset)] == [[1, 2]] * FRAMES
    assert ids(dataset)[:4] == before


def test_the_demo(files: list[Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, path in enumerate(files):
        numbers = np.zeros(SIZE, np.uint8)
        for object_id, mask in scene_masks(number).items():
            numbers[mask] = object_id
        Image.fromarray(numbers).save(masks / path.name)
    words = ["demo", "--frames", str(files[0].parent), "--masks", str(masks), "--exemplars", "every:7", "--json"]
    words += ["--engine", "sam2", "--checkpoint", str(checkpoint), "--image-size", "128", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    summary = json.loads(said[said.index("{") :])
    assert summary["touched_frames"] == [0, 7]
    assert [entry["name"] for entry in summary["engines"]] == ["sam2", "flow", "interpolate", "hold"]
    # Random weights know nothing; the masks of the others are those of the same keyframes.
    assert summary["engines"][0]["j"] < summary["engines"][1]["j"]
    assert Image.open(tmp_path / "out" / "comparison.png").width > 4 * 480
    assert (tmp_path / "out" / "propagated.webm").stat().st_size > 1000


KILLED_ON_FRAME_6 = """
import os, signal, sys
import fiftyone as fo
import labelprop_cvat
from labelprop_cvat.propagation.sam2 import engine

answer = engine.AnswerMaker.answer

def killed(self, known):
    if known.frame == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, known)

engine.AnswerMaker.answer = killed
fo.load_dataset(sys.argv[1]).load_annotations("killed", username=sys.argv[2], password=sys.argv[3])
"""


def test_a_process_that_is_killed_in_the_middle(
    server: LocalCVAT, dataset: fo.Dataset, options: dict[str, Any]
) -> None:
    dataset.persistent = True
    results = dataset.annotate("killed", **RUN, engine_options=options, **login(server))
    annotate_by_script(server, results)
    words = [dataset.name, str(server.username), str(server.password)]
    done = subprocess.run([sys.executable, "-c", KILLED_ON_FRAME_6, *words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    dataset.reload()
    assert [bool(labels) for labels in propagated(dataset)] == [True] * 4 + [False] * 4
    before = ids(dataset)[:4]
    dataset.load_annotations("killed")
    assert [sorted(labels) for labels in propagated(dataset)] == [[1, 2]] * FRAMES
    assert ids(dataset)[:4] == before
