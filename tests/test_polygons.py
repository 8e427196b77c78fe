"""Polygons fill the frames between them as masks, whatever engine does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_label_types import finish_jobs
from fixtures_roundtrip import LABELS, SIZE, image_dataset, login, scene_masks, write_images

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import detection_to_mask
from labelprop_cvat.propagation.types import rasterize

HEIGHT, WIDTH = SIZE
FRAMES = 9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), FRAMES)


def outline(mask: np.ndarray) -> list[list[tuple[float, float]]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [[((x + 0.5) / WIDTH, (y + 0.5) / HEIGHT) for ((x, y),) in ring] for ring in found if len(ring) > 2]


def roofs(number: int) -> fo.Polylines | None:
    """Polygons of both objects on the first, the middle and the last frame; one where they meet has two parts."""
    if number % 4:
        return None
    return fo.Polylines(
        polylines=[
            fo.Polyline(label=LABELS[k], points=outline(mask), closed=True, filled=True, index=k, make=f"no {k}")
            for k, mask in scene_masks(number).items()
        ]
    )


def filled_mask(label: fo.Polyline) -> np.ndarray:
    rings = tuple(tuple((x * WIDTH, y * HEIGHT) for x, y in ring) for ring in label.points)
    mask = rasterize(rings, SIZE)
    assert mask is not None
    return np.array(mask.to_full(SIZE))


def shown(label: fo.Detection) -> np.ndarray:
    mask = detection_to_mask(label, SIZE)
    assert mask is not None
    return np.array(mask.to_full(SIZE))


@pytest.mark.parametrize(("engine", "least"), [("flow", 0.8), ("interpolate", 0.75)])
def test_polygons_become_masks_between_keyframes(
    server: LocalCVAT, images: list[Path], engine: str, least: float
) -> None:
    dataset = image_dataset(images, roofs=roofs)
    drawn = {n: sample.roofs.polylines for n, sample in enumerate(dataset) if sample.roofs is not None}
    options = {"label_field": "roofs", "label_type": "polygons", "sort_field": "number", "exemplars": "every:4"}
    results = dataset.annotate("run", backend="labelprop", engine=engine, **options, **login(server))
    finish_jobs(server, results)
    dataset.load_annotations("run")
    for number, labels in drawn.items():
        kept = dataset[str(images[number])].roofs.polylines
        assert [(line.id, line.points, line.filled) for line in kept] == [(x.id, x.points, True) for x in labels]
    overlaps: dict[int, list[float]] = {}
    for number, sample in enumerate(dataset):
        labels = {label.index: label for label in sample.roofs_propagated.detections}
        assert set(labels) == {1, 2}
        for index, label in labels.items():
            assert (label.label, label.make, label.keyframe) == (LABELS[index], f"no {index}", number in drawn)
            mask, expected = shown(label), scene_masks(number)[index]
            if number in drawn:
                own = next(line for line in drawn[number] if line.index == index)
                assert np.array_equal(mask, filled_mask(own))
            else:
                overlaps.setdefault(index, []).append((mask & expected).sum() / (mask | expected).sum())
    assert min(np.mean(values) for values in overlaps.values()) > least, overlaps


def test_a_moved_vertex_fills_the_frames_around_it_anew(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images, roofs=roofs)
    options = {"label_field": "roofs", "label_type": "polygons", "sort_field": "number", "exemplars": "every:4"}
    results = dataset.annotate("run", backend="labelprop", engine="interpolate", **options, **login(server))
    finish_jobs(server, results)
    dataset.load_annotations("run")
    before = [shown(next(x for x in s.roofs_propagated.detections if x.index == 1)) for s in dataset]

    def widen(client: CVATClient, job_id: int) -> None:
        tracks = client.annotations(job_id=job_id)["tracks"]
        person = next(track for track in tracks if len(track["shapes"]) == 3 and track["shapes"][0]["points"][0] < 64)
        first = person["shapes"][0]["points"]
        first[0::2] = [x - 10 if x < 30 else x for x in first[0::2]]
        client.update_annotations({"tracks": [person]}, job_id=job_id)

    finish_jobs(server, results, widen)
    dataset.load_annotations("run")
    after = [shown(next(x for x in s.roofs_propagated.detections if x.index == 1)) for s in dataset]
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [number < 4 for number in range(FRAMES)]
