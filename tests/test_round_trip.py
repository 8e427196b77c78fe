"""The round trip over a real socket: exemplars out, keyframes back, every other frame filled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import (
    annotate_by_script,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import detection_to_mask

FRAMES = 13


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT() as running:
        yield running


def full_mask(label: fo.Detection, size: tuple[int, int] = (72, 128)) -> np.ndarray:
    mask = detection_to_mask(label, size)
    assert mask is not None
    return mask.to_full(size)


def test_images_with_masks(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, FRAMES))
    results = dataset.annotate(
        "masks",
        backend="labelprop",
        label_field="objects",
        label_type="instances",
        classes=["person", "car"],
        sort_field="number",
        segmentation="none",
        exemplars="every:6",
        engine="interpolate",
        **login(server),
    )
    (task,) = results.ledger.tasks()
    assert [job.positions for job in task.jobs] == [[0, 6, 12]]
    annotate_by_script(server, results)
    dataset.load_annotations("masks")

    for number, sample in enumerate(dataset.sort_by("number")):
        if number in (0, 6, 12):
            assert {label.index: label.label for label in sample.objects.detections} == {1: "person", 2: "car"}
            for label in sample.objects.detections:
                assert np.array_equal(full_mask(label), scene_masks(number)[label.index])
                assert label.keyframe is True
        else:
            assert sample.objects is None
        propagated = {label.index: label for label in sample.objects_propagated.detections}
        assert propagated.keys() == {1, 2}
        assert {label.source for label in propagated.values()} == {"manual" if number in (0, 6, 12) else "propagated"}
    instances = dataset.values("objects_propagated.detections.instance._id", unwind=True)
    assert len(set(instances)) == 2


def test_video_with_boxes(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "street.mp4", FRAMES))
    results = dataset.annotate(
        "boxes",
        backend="labelprop",
        label_field="frames.objects",
        label_type="detections",
        classes=["person", "car"],
        segmentation="none",
        exemplars="every:6",
        engine="interpolate",
        **login(server),
    )
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    dataset.load_annotations("boxes")
    sample = dataset.first()
    for number in range(1, FRAMES + 1):
        labels = {label.index: label for label in sample.frames[number].objects_propagated.detections}
        assert labels.keys() == {1, 2}
        assert labels[1].label == "person"
    keyframes = [n for n in range(1, FRAMES + 1) if n in sample.frames and sample.frames[n].objects is not None]
    assert keyframes == [1, 7, 13]
    assert {label.index for n in keyframes for label in sample.frames[n].objects.detections} == {1, 2}
