"""Review jobs that people open again after they were loaded: what was settled then stays settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_review import Media, begin, cell_box, cell_mask, class_of
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, write_images

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media.of(tmp_path_factory.mktemp("media"))


def test_an_end_that_a_reviewer_set_holds_when_something_else_is_changed_later(
    server: LocalCVAT, tmp_path: Path
) -> None:
    dataset = image_dataset(write_images(tmp_path, 13))
    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_field="objects",
        label_type="detections",
        classes=["person", "car"],
        sort_field="number",
        segmentation="none",
        exemplars="every:6",
        # Boxes that jump half-way have keyframes of ours behind the end.
        engine="hold",
        review=True,
        max_rounds=1,
        **login(server),
    )
    annotate_by_script(server, results, shape="rectangle")
    dataset.load_annotations("run")

    def said() -> list[list[int]]:
        ledger = dataset.load_annotation_results("run", cache=False).ledger
        (record,) = ledger.sequences.values()
        return list(record.segments[0].fill("objects").said_absent)

    job = dataset.load_annotation_results("run").ledger.rounds[-1].tasks[0].jobs[0].id
    with client_of(server) as client, JobPage(client, job) as page:
        page.set_outside(page.track(1), 1)
        assert {3, 4} <= {shape["frame"] for shape in page.track(1)["shapes"]}
        page.finish()
    dataset.load_annotations("run")
    assert said() == [[1, position] for position in range(1, 6)]
    with client_of(server) as client, JobPage(client, job) as page:
        page.move_box(page.track(2), 2, (1.0, 2.0, 40.0, 60.0))
    dataset.load_annotations("run")
    assert said() == [[1, position] for position in range(1, 6)]


def test_a_mask_drawn_in_the_place_of_ours_stays_it_when_the_job_is_opened_again(
    server: LocalCVAT, media: Media
) -> None:
    review = begin(server, media, "image", "instances", max_rounds=1)
    (job,) = review.jobs()
    with review.page() as page:
        page.draw_mask(class_of(1), 1, cell_mask(1, 1, 3), index=1)
    review.load()
    assert review.changed(review.label_field) == {1: {1}}
    first = review.label("objects", 1, 1)
    review.remember()

    with client_of(server) as client, JobPage(client, job.id) as page:
        page.brush_mask(page.shape(2, 2), cell_mask(2, 2, 3))
    review.load()
    assert review.changed(review.label_field) == {2: {2}}
    assert set(review.changed(review.output_field)) == {2}
    assert review.label("objects", 1, 1).id == first.id
    review.check_settled()


def test_a_mask_drawn_on_another_frame_is_not_what_was_deleted_on_this_one(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "instances", max_rounds=1)
    with review.page() as page:
        page.delete(page.shape(1, 1))
        page.draw_mask(class_of(1), 2, cell_mask(1, 2, 2))
    review.load()
    (fill,) = review.segments()[0].fills.values()
    assert fill.said_absent == [[1, 1]]
    assert review.changed(review.label_field) == {3: {2}}
    assert review.there(review.output_field, 1) >= {0, 2, 3}
    review.check_settled()


def test_the_later_part_of_a_split_track_stays_an_object_of_its_own(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections", max_rounds=1)
    (job,) = review.jobs()
    with review.page() as page:
        page.split(page.track(1), 2)
    review.load()
    assert review.there(review.label_field, 1) == {0}
    assert review.there(review.label_field, 3) == {2, 3, 6}
    review.remember()

    with client_of(server) as client, JobPage(client, job.id) as page:
        page.move_box(page.track(2), 4, cell_box(2, 4, 4))
    review.load()
    assert set(review.changed(review.label_field)) == {2}
    assert set(review.changed(review.output_field)) == {2}
    ledger = review.results.ledger
    (record,) = ledger.sequences.values()
    assert {place for place in record.fields["objects"].label_ids if place.startswith("3:")} == {"3:2", "3:3", "3:6"}
    review.check_settled()


def test_a_reviewer_who_moves_what_an_annotator_relabels_meanwhile_moves_it_only(
    server: LocalCVAT, media: Media
) -> None:
    review = begin(server, media, "image", "detections", max_rounds=1)
    ((task, job), *_) = review.results.ledger.annotation_jobs()
    assert task.server_id
    other = {"person": "car", "car": "person"}[class_of(1)]
    with client_of(server) as client, JobPage(client, job.id) as page:
        page.relabel(page.track(1), other)
    with review.page() as page:
        page.move_box(page.track(1), 2, cell_box(1, 2, 4))
    review.load()
    assert {review.label("objects", position, 1).label for position in (0, 2, 3, 6)} == {other}
    assert {review.label("objects_propagated", position, 1).label for position in range(7)} == {other}
    review.check_settled()
