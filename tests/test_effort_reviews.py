"""What reviewers did, counted from what comes back: beside what a scripted one says of itself, and edit by edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, truth, write_images

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator.edits import JobPage
from labelprop_cvat.backend.local_cvat.annotator.reviewer import ScriptedReviewer
from labelprop_cvat.propagation.effort import Actions

FRAMES = 9
SHAPES = {"instances": "mask", "detections": "rectangle", "polygons": "polygon"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


def under_review(server: LocalCVAT, frames: list[Path], label_type: str, **options: Any) -> tuple[fo.Dataset, int]:
    """A run whose objects were held still between exemplars 0 and 8 and went to review, and the job of that."""
    dataset = image_dataset(frames)
    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_field="objects",
        label_type=label_type,
        classes=["person", "car"],
        sort_field="number",
        segmentation="none",
        exemplars="every:8",
        engine="hold",
        **login(server),
    )
    annotate_by_script(server, results, shape=SHAPES[label_type])
    dataset.load_annotations("run")
    results = dataset.load_annotation_results("run")
    assert results.request_review(**options) == 2
    return dataset, results.ledger.rounds[1].tasks[0].jobs[0].id


def counted(dataset: fo.Dataset) -> Actions:
    dataset.load_annotations("run")
    return dataset.load_annotation_results("run").effort()[1].actions


@pytest.mark.parametrize("label_type", SHAPES)
def test_a_reviewer_counts_the_same(server: LocalCVAT, frames: list[Path], label_type: str) -> None:
    dataset, job = under_review(server, frames, label_type)
    with client_of(server) as client:
        did = ScriptedReviewer(client, every=2, threshold=0.9).review(job, truth())
    assert did.fixed > 3
    found = counted(dataset)
    assert found.examined == FRAMES
    assert found.redrawn == pytest.approx(did.actions.redrawn, abs=0.01)
    assert found.redrawn > 0.5 or label_type != "instances"
    if label_type == "polygons":
        # Which corners moved nobody saw: there was a mask.
        assert found.edited <= found.clicks - did.resolved <= did.actions.clicks
    else:
        assert found.clicks == did.actions.clicks + did.resolved
    same = {"examined": 0, "redrawn": 0.0, "clicks": 0}
    assert replace(found, **same) == replace(did.actions, **same)
    # The exemplars were counted in the round that they were drawn in.
    assert dataset.load_annotation_results("run").effort()[0].actions.drawn > 0


Edit = Callable[[JobPage], object]


def edits(page: JobPage) -> Iterator[tuple[Edit, Actions]]:
    """One thing after the other that a person does to two tracks of boxes, and what it costs."""
    one, other = page.track(1), page.track(2)
    yield lambda page: page.set_verdict(one, "satisfactory"), Actions(attributes=1)
    yield lambda page: page.set_outside(other, 5), Actions(absent=1, located=1, examined=1)
    yield lambda page: page.move_box(one, 3, (5, 5, 30, 60)), Actions(edited=1, clicks=2, located=1, examined=1)
    yield lambda page: page.move_box(one, 3, (6, 5, 31, 60)), Actions(edited=1, clicks=1, located=1, examined=1)
    yield lambda page: page.draw_track("car", 6, (70, 5, 90, 25)), Actions(boxes=1, examined=1)
    yield lambda page: page.relabel(other, "person"), Actions(attributes=1, located=1)
    yield lambda page: page.delete(one), Actions(deleted=1, located=1)
    yield lambda page: None, Actions()


def test_each_edit_costs_what_it_takes(server: LocalCVAT, frames: list[Path]) -> None:
    dataset, job = under_review(server, frames, "detections")
    with client_of(server) as client:
        JobPage(client, job).finish()
        before = counted(dataset)
        assert before == Actions(examined=FRAMES)
        for edit, cost in edits(JobPage(client, job)):
            with JobPage(client, job) as page:
                edit(page)
            after = counted(dataset)
            assert after == before + cost
            before = after


def test_a_review_that_is_loaded_elsewhere_is_counted_when_it_comes_home(server: LocalCVAT, frames: list[Path]) -> None:
    dataset, job = under_review(server, frames, "detections")
    with client_of(server) as client, JobPage(client, job) as page:
        page.set_verdict(page.track(1), "satisfactory")
        page.finish()
    dataset.load_annotations("run", dest_field="elsewhere")
    dataset.load_annotations("run", dest_field="elsewhere")
    assert counted(dataset) == Actions(attributes=1, examined=FRAMES)
    assert counted(dataset) == Actions(attributes=1, examined=FRAMES)


def test_a_split_and_a_merge_are_no_drawings(server: LocalCVAT, frames: list[Path]) -> None:
    dataset, job = under_review(server, frames, "detections")
    with client_of(server) as client:
        JobPage(client, job).finish()
        before = counted(dataset)
        with JobPage(client, job) as page:
            parts = page.split(page.track(1), 4)
        after = counted(dataset)
        assert after == before + Actions(clicks=1, located=1)
        with JobPage(client, job) as page:
            page.merge(*(next(t for t in page.tracks if t["id"] == part["id"]) for part in parts))
        assert counted(dataset) == after + Actions(clicks=2, located=1)


def test_masks_are_deleted_one_by_one_and_drawn_where_there_was_none(server: LocalCVAT, frames: list[Path]) -> None:
    dataset, job = under_review(server, frames, "instances")
    with client_of(server) as client:
        with JobPage(client, job) as page:
            for frame in (2, 3):
                page.delete(page.shape(1, frame))
            page.delete_and_undo(page.shape(2, 5))
            page.finish()
        assert counted(dataset) == Actions(deleted=2, located=2, examined=FRAMES)
        with JobPage(client, job) as page:
            page.draw_mask("person", 3, page.shape(1, 4)["points"], index=1)
        assert counted(dataset) == Actions(deleted=2, located=2, masks=1, examined=FRAMES + 1)
