"""Attacks on the round trip: fields that hold one label at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_attacks import KINDS, SINGLE, Edit, _of, _points, annotate, duplicate, label_ids, redraw, strip
from fixtures_label_types import MAKERS, content, finish_jobs, schema_of
from fixtures_roundtrip import image_dataset, write_images, write_video

from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT


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


# Fields of one label


@pytest.mark.parametrize("edit", [duplicate, redraw])
@pytest.mark.parametrize("kind", SINGLE)
def test_a_field_of_one_label_holds_what_was_drawn_last(
    server: LocalCVAT, images: list[Path], kind: str, edit: Edit
) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    before = content(dataset, kind)
    ids = label_ids(dataset, kind)
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    finish_jobs(server, results, edit)
    dataset.load_annotations("run")
    once = content(dataset, kind)
    assert label_ids(dataset, kind) == ids
    if kind != "classification":
        assert once != before
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, kind) == once


@pytest.mark.parametrize("kind", [kind for kind in SINGLE if kind != "segmentation"])
def test_what_stood_beside_the_only_label_takes_its_place(server: LocalCVAT, images: list[Path], kind: str) -> None:
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    before = content(dataset, kind)
    ids = label_ids(dataset, kind)
    results = annotate(server, dataset, label_schema=schema_of([kind]))
    finish_jobs(server, results, duplicate)
    dataset.load_annotations("run")

    def delete_newest(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        newest: dict[str, list[dict[str, Any]]] = {name: [] for name in ("tags", "shapes", "tracks")}
        for name in newest:
            frames = {entry["frame"] for entry in there[name]}
            count = len(there[name]) // 2 if name != "tracks" else 1
            newest[name] = sorted(there[name], key=lambda entry: entry["id"])[-count:] if frames else []
        client.delete_annotations(newest, job_id=job_id)

    finish_jobs(server, results, delete_newest)
    for _ in range(2):
        dataset.load_annotations("run")
        assert label_ids(dataset, kind) == ids
        for sample, entry in zip(dataset, before, strict=True):
            value = sample[kind]
            if kind == "instance":
                assert value.mask.sum() == np.sum(entry[kind][1][0])
                assert value.bounding_box[0] == pytest.approx(34 / 128)
            elif kind == "detection":
                assert value.bounding_box == pytest.approx(_of(entry[kind])["bounding_box"], abs=1e-6)
            elif kind != "classification":
                flat = np.array(value.points).reshape(-1, 2)
                assert flat == pytest.approx(np.array(_points(entry[kind])).reshape(-1, 2), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "segmentation"])
def test_labels_that_were_not_sent_stay(server: LocalCVAT, images: list[Path], kind: str) -> None:
    """A filtered view sends nothing; what is drawn goes beside it, or to the only place there is."""
    dataset = image_dataset(images[:2], **{kind: MAKERS[kind]})
    ids = label_ids(dataset, kind)
    before = content(dataset, kind)
    view = dataset.filter_labels(kind, fo.ViewField("label") == "nothing", only_matches=False)
    results = annotate(server, view, label_schema=schema_of([kind]))
    finish_jobs(server, results)
    for _ in range(2):
        dataset.load_annotations("run")
        assert content(dataset, kind) == before, "nothing was drawn"
    assert [len(entries) for entries in ids] == [len(entries) for entries in label_ids(dataset, kind)]


@pytest.mark.parametrize("restriction", ["allow_additions", "allow_deletions"])
@pytest.mark.parametrize("kind", SINGLE)
def test_restrictions_of_fields_of_one_label(
    server: LocalCVAT, images: list[Path], kind: str, restriction: str
) -> None:
    dataset = image_dataset(images[:2], **{kind: lambda n: MAKERS[kind](n) if n else None})
    before = content(dataset, kind)

    def edit(client: CVATClient, job_id: int) -> None:
        there = client.annotations(job_id=job_id)
        if restriction == "allow_deletions":
            client.delete_annotations({k: there[k] for k in ("tags", "shapes", "tracks")}, job_id=job_id)
            return
        new = {k: [{**strip(entry), "frame": 0} for entry in there[k]] for k in ("tags", "shapes")}
        new["tracks"] = []
        for track in there["tracks"]:
            moved = strip(track)
            moved["frame"] = 0
            moved["shapes"] = [{**moved["shapes"][0], "frame": 0}, {**moved["shapes"][0], "frame": 1, "outside": True}]
            new["tracks"].append(moved)
        client.create_annotations(new, job_id=job_id)

    results = annotate(server, dataset, label_schema=schema_of([kind]), **{restriction: False})
    finish_jobs(server, results, edit)
    for _ in range(3):
        dataset.load_annotations("run")
        assert content(dataset, kind) == before


def test_redrawing_where_nothing_may_change(server: LocalCVAT, images: list[Path]) -> None:
    dataset = image_dataset(images[:2], **MAKERS)
    before = content(dataset, *KINDS)
    forbidden = ("additions", "deletions", "label_edits", "index_edits", "spatial_edits")
    options = {f"allow_{name}": False for name in forbidden}
    results = annotate(server, dataset, label_schema=schema_of(KINDS), **options)
    finish_jobs(server, results, redraw)
    for _ in range(3):
        dataset.load_annotations("run")
        for kind in KINDS:
            assert content(dataset, kind) == [{kind: entry[kind]} for entry in before], kind
