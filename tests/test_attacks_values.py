"""Attacks on the round trip: hostile labels, masks and schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fixtures_attacks import HOSTILE, MASKS, annotate, blob, label_ids, move_all, paint_corner
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import image_dataset, write_images, write_video

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import LabelPropError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "scene.mp4", 6)


# Hostile values


def test_labels_that_cvat_cannot_hold_stay_at_home(server: LocalCVAT, images: list[Path]) -> None:
    lists = {
        "detections": fo.Detections,
        "instances": fo.Detections,
        "polygons": fo.Polylines,
        "polylines": fo.Polylines,
        "keypoints": fo.Keypoints,
    }
    makers = {
        kind: lambda n, kind=kind, cls=cls: cls(
            **{
                cls._LABEL_LIST_FIELD: [
                    *(label.copy() for label in HOSTILE[kind]),
                    *MAKERS[kind](n)[cls._LABEL_LIST_FIELD],
                ]
            }
        )
        for kind, cls in lists.items()
    }
    dataset = image_dataset(images[:1], **makers)
    before = content(dataset, *lists)
    results = annotate(server, dataset, label_schema=schema_of(lists))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, *lists) == before
    finish_jobs(server, results, move_all)
    ids = {kind: label_ids(dataset, kind) for kind in lists}
    for _ in range(2):
        dataset.load_annotations("run")
        assert {kind: label_ids(dataset, kind) for kind in lists} == ids


def test_a_mask_larger_than_any_image_is_named(server: LocalCVAT, images: list[Path]) -> None:
    label = blob(0.5, 0.5, 1e6, 1e6, mask=np.ones((7, 12), bool))
    dataset = image_dataset(images[:1], instances=lambda n: fo.Detections(detections=[label]))
    with pytest.raises(LabelPropError, match=label.id):
        annotate(server, dataset, label_schema=schema_of(["instances"]))
    assert not dataset.list_annotation_runs()


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("name", MASKS)
def test_semantic_masks_of_any_kind(
    server: LocalCVAT, images: list[Path], tmp_path: Path, name: str, where: str
) -> None:
    label, given = fo.Segmentation(mask=MASKS[name].copy()), MASKS[name]
    if where == "disk":
        if given.dtype not in (np.uint8, np.uint16) or not given.size:
            pytest.skip("PNG files hold no such masks")
        path = tmp_path / "mask.png"
        cv2.imwrite(str(path), given[..., ::-1] if given.ndim == 3 else given)
        label = fo.Segmentation(mask_path=str(path))
    dataset = image_dataset(images[:1], segmentation=lambda n: label)
    before = content(dataset, "segmentation")
    results = annotate(server, dataset, label_schema=schema_of(["segmentation"]))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, "segmentation") == before
    finish_jobs(server, results, paint_corner)
    for _ in range(2):
        dataset.load_annotations("run")
        after = dataset.first().segmentation
        pixels = after.mask if given.ndim == 2 else after.mask[..., 2]
        assert after.id == label.id
        assert (pixels[:10, :10] == 2).all()
        assert pixels.shape == (72, 128)
        if given.shape[:2] == (72, 128):
            expected = np.array(given if given.ndim == 2 else given[..., 2]).astype(np.int64)
            expected[:10, :10] = 2
            assert np.array_equal(pixels, expected)
            assert after.mask.ndim == given.ndim


# Hostile schemas


@pytest.mark.parametrize(
    "classes",
    [
        [1, 2],
        [{"classes": "car", "attributes": {"note": {"type": "text"}}}],
        [{"classes": ["car", 7], "attributes": {}}, "index"],
        ["Car", "car", "None", "true"],
        ["x" * 64, "ü é", "日本", "a/b", "a.b", "<b>"],
    ],
)
def test_classes_of_any_form(server: LocalCVAT, images: list[Path], classes: list[Any]) -> None:
    names = [
        str(name)
        for entry in classes
        for name in ([entry["classes"]] if isinstance(entry, dict) and isinstance(entry["classes"], str) else [entry])
        for name in (name["classes"] if isinstance(name, dict) else [name])
    ]

    def labels(number: int) -> fo.Detections:
        entries = [fo.Detection(label=name, bounding_box=[0.1, 0.1, 0.2, 0.2], note="x") for name in names]
        return fo.Detections(detections=entries)

    dataset = image_dataset(images[:1], objects=labels)
    ids = label_ids(dataset, "objects")
    results = annotate(server, dataset, label_field="objects", label_type="detections", classes=classes)
    finish_jobs(server, results, move_all)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, "objects") == ids
        found = dataset.first().objects.detections
        assert [label.label for label in found] == names
        assert all(label.bounding_box[0] == pytest.approx(0.1 + 4 / 128) for label in found)
        if isinstance(classes[0], dict) and "note" in classes[0]["attributes"]:
            assert found[0].note == "moved"


@pytest.mark.parametrize(
    "options",
    [
        {"classes": [None]},
        {"classes": [["car"]]},
        {"classes": ["car", "car"]},
        {"classes": ["car "]},
        {"classes": ["x" * 65]},
        {"classes": ["car"], "attributes": {"label": {"type": "text"}}},
        {"classes": ["car"], "attributes": {"bounding_box": {"type": "text"}}},
        {"classes": ["car"], "attributes": {"x" * 65: {"type": "text"}}},
    ],
    ids=str,
)
def test_schemas_that_make_no_sense(server: LocalCVAT, images: list[Path], options: dict[str, Any]) -> None:
    dataset = image_dataset(images[:1])
    with pytest.raises(LabelPropError):
        annotate(server, dataset, label_field="objects", label_type="detections", **options)
    assert not dataset.list_annotation_runs()
