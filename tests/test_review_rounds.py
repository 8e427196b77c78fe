"""What comes after a review: when the next one goes out, when the loop ends, and what happens beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures_review import (
    EXEMPLARS,
    FRAMES,
    Media,
    Review,
    begin,
    cell_box,
    cell_mask,
    draw_exemplars,
    login,
)
from fixtures_roundtrip import SIZE, client_of

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage
from labelprop_cvat.errors import ConfigurationError

EVERY = {*range(FRAMES)}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media.of(tmp_path_factory.mktemp("media"))


def move(page: JobPage, index: int = 1, frame: int = 2, right: int = 4) -> None:
    page.move_box(page.track(index), frame, cell_box(index, frame, right))


# --- when the loop ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "kind"), [("image", "detections"), ("video", "instances")])
def test_a_review_that_changes_nothing_ends_the_loop(server: LocalCVAT, media: Media, what: str, kind: str) -> None:
    review = begin(server, media, what, kind)
    review.finish()
    review.load()
    assert review.after == review.before
    assert len(review.rounds) == 2
    review.check_settled()


def test_only_a_finished_review_is_read(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections")
    with review.page(finish=False) as page:
        move(page)
    review.load()
    assert review.after == review.before
    assert len(review.rounds) == 2
    review.finish()
    review.load()
    assert review.changed(review.label_field) == {1: {2}}
    assert len(review.rounds) == 3


def test_where_all_is_satisfactory_what_was_changed_counts_and_nothing_more_goes_out(
    server: LocalCVAT, media: Media
) -> None:
    review = begin(server, media, "image", "detections")
    with review.page() as page:
        move(page)
        for track in page.tracks:
            page.set_verdict(track, "satisfactory")
    review.load()
    assert review.changed(review.label_field) == {1: {2}}
    assert review.label(review.output_field, 2, 1).source == "manual"
    assert len(review.rounds) == 2
    review.check_settled()


def test_no_more_reviews_than_max_rounds(
    server: LocalCVAT, media: Media, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("labelprop_cvat"), "propagate", True)
    review = begin(server, media, "image", "detections", max_rounds=1)
    with review.page() as page:
        move(page)
    review.load()
    assert len(review.rounds) == 2
    assert "max_rounds=1" in caplog.text
    assert review.dataset.load_annotation_results("run").request_review() == 3
    with review.page(finish=False) as page:
        assert len(page.tracks) == 2
    review.check_settled()


# --- issues and frames -----------------------------------------------------------------------------------------------


def test_an_issue_goes_out_once_and_is_known_to_be_resolved(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections")
    with review.page() as page:
        page.set_verdict(page.track(1), "fix")
    review.load()
    assert review.after == review.before
    (record,) = (issue for issue in review.jobs()[0].issues if issue.index == 1)
    with review.page() as page:
        (issue,) = (issue for issue in page.issues() if "object 1" in issue.comments[0].message)
        assert issue.frame == record.position
        page.resolve_issue(issue)
    job = review.jobs()[0].id
    review.load()
    # Somebody looked, and left it as it is.
    assert review.changed(review.label_field) == {}
    assert review.changed(review.output_field) == {1: EVERY - EXEMPLARS}
    assert {review.label(review.output_field, p, 1).source for p in EVERY - EXEMPLARS} == {"reviewed"}
    found = [j for r in review.rounds for task in r.tasks for j in task.jobs if j.id == job]
    assert [issue.resolved for issue in found[0].issues if issue.index == 1] == [True]
    review.check_settled()


@pytest.mark.parametrize(("what", "kind"), [("image", "detections"), ("image", "instances")])
def test_a_frame_that_is_deleted_keeps_its_labels_and_is_not_shown_again(
    server: LocalCVAT, media: Media, what: str, kind: str
) -> None:
    review = begin(server, media, what, kind)
    with review.page() as page:
        page.delete_frame(4)
        if kind == "detections":
            move(page)
        else:
            page.brush_mask(page.shape(1, 2), cell_mask(1, 2, 4))
    review.load()
    assert review.changed(review.label_field) == {1: {2}}
    assert review.changed(review.output_field) == {1: {1, 2}}
    assert review.jobs()[0].positions == sorted(EVERY - {4})
    review.check_settled()


# --- several sequences and segments ----------------------------------------------------------------------------------


def test_what_is_changed_in_one_group_leaves_the_others_alone(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "group", "detections")
    tasks = review.rounds[-1].tasks
    assert len(tasks) == 2
    (number,) = (n for n, task in enumerate(tasks) if "south" in task.name)
    with review.page(number) as page:
        move(page)
    with review.page(1 - number):
        pass
    review.load()
    assert review.changed(review.label_field, "south") == {1: {2}}
    assert review.changed(review.output_field, "south") == {1: {1, 2}}
    (task,) = review.rounds[-1].tasks
    assert "south" in task.name
    review.check_settled()


def shown(review: Review, segment: int) -> set[int]:
    """The positions of a segment."""
    found = review.segments()[segment]
    return {*range(found.start, found.stop)}


def test_annotation_and_review_of_different_segments_go_on_at_the_same_time(server: LocalCVAT, media: Media) -> None:
    dataset = media.dataset("image")
    results = dataset.annotate(
        "run", backend="labelprop", label_field="objects", label_type="detections", classes=["person", "car"],
        segmentation="fixed:4", exemplars="first", engine="interpolate", sort_field="number", review=True,
        **login(server),
    )  # fmt: skip
    draw_exemplars(server, results, "detections", {1: EVERY, 2: EVERY})
    first, second = (job for task in results.ledger.tasks() for job in task.jobs)
    with client_of(server) as client:
        client.update_job(second.id, state="in progress")
    review = Review(server, dataset, "detections")
    review.load()
    assert len(review.jobs()) == 1
    assert review.jobs()[0].positions == sorted(shown(review, 0))
    review.remember()

    # While somebody reviews the first segment, somebody annotates the second.
    with review.page() as page:
        move(page)
        with client_of(server) as client:
            client.update_job(second.id, state="completed")
        review.load()
        changed = {p for places in review.changed(review.output_field).values() for p in places}
        assert changed == shown(review, 1)
        assert [job.positions for job in review.jobs()] == [sorted(shown(review, 1))]
        review.remember()

        # And somebody corrects an exemplar of the segment that is under review: it waits.
        with client_of(server) as client, JobPage(client, first.id) as exemplars:
            exemplars.move_box(exemplars.track(2), 0, cell_box(2, 0, 5))
        review.load()
        assert review.changed(review.label_field) == {2: {0}}
        assert review.changed(review.output_field) == {}
    # The page belongs to the job that was opened; the last round is another by now.
    with client_of(server) as client:
        client.update_job(review.rounds[1].tasks[0].jobs[0].id, state="completed")
    review.load()
    assert review.changed(review.label_field) == {1: {2}, 2: {0}}
    places = review.changed(review.output_field)
    assert places[1] <= shown(review, 0)
    assert places[2] <= shown(review, 0)
    assert 0 in places[2]
    review.check_settled()


def test_what_two_people_changed_is_kept_in_both_versions(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections")
    exemplars = review.rounds[0].tasks[0].jobs[0]
    with client_of(server) as client, JobPage(client, exemplars.id) as page:
        page.move_box(page.track(1), 1, cell_box(1, 3, 8))
    with review.page() as page:
        page.move_box(page.track(1), 3, cell_box(1, 3, 4))
    review.load()
    assert review.changed(review.label_field) == {1: {3}}
    x = review.label(review.label_field, 3, 1).bounding_box[0] * 128
    assert x == pytest.approx(cell_box(1, 3, 4)[0])
    ((place, (_, other)),) = review.held("objects_conflicts").items()
    assert place == ("", 3, 1)
    assert f"{cell_box(1, 3, 8)[0] / 128}"[:8] in other
    review.check_settled()
    assert len(review.held("objects_conflicts")) == 1


def test_edits_after_a_review_was_loaded_are_read_as_well(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections")
    with review.page() as page:
        move(page)
    job = review.jobs()[0].id
    review.load()
    review.remember()
    # The job is completed, and somebody still has it open.
    with client_of(server) as client, JobPage(client, job) as page:
        page.move_box(page.track(2), 4, cell_box(2, 4, 4))
    review.load()
    assert review.changed(review.label_field) == {2: {4}}
    # The next review shows what was there before: what it leads to waits for it.
    assert review.changed(review.output_field) == {}
    review.finish()
    review.load()
    assert review.changed(review.label_field) == {2: {4}}
    assert review.changed(review.output_field) == {2: {4, 5}}
    review.check_settled()


# --- which frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detections", "instances"])
def test_frames_that_nobody_saw_change_only_beside_those_that_were_corrected(
    server: LocalCVAT, media: Media, kind: str
) -> None:
    review = begin(server, media, "image", kind, review_frames="every:3")
    assert review.jobs()[0].positions == sorted(EXEMPLARS)
    with review.page() as page:
        if kind == "detections":
            page.move_box(page.track(1), 1, cell_box(1, 3, 4))
        else:
            page.brush_mask(page.shape(1, 1), cell_mask(1, 3, 4))
    review.load()
    assert review.changed(review.label_field) == {1: {3}}
    assert review.changed(review.output_field) == {1: {1, 2, 3, 4, 5}}
    review.check_settled()


def test_reviews_that_nobody_asked_for_do_not_go_out(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections", review=False)
    assert [round_.kind for round_ in review.rounds] == ["exemplars"]
    results: Any = review.dataset.load_annotation_results("run")
    assert results.request_review() == 2
    assert results.request_review() is None
    with review.page() as page:
        move(page)
    review.load()
    assert review.changed(review.label_field) == {1: {2}}
    assert len(review.rounds) == 2
    review.check_settled()


def test_what_a_reviewer_only_marked_is_an_issue_of_the_next_review(server: LocalCVAT, media: Media) -> None:
    review = begin(server, media, "image", "detections")
    with review.page() as page:
        page.set_verdict(page.track(1), "fix")
        page.set_verdict(page.track(2), "fix")
        page.move_box(page.track(2), 2, cell_box(2, 2, 4))
    review.load()
    (job,) = review.jobs()
    asked = [issue for issue in job.issues if "needs fixing" in issue.message]
    assert [(issue.index, issue.message) for issue in asked] == [
        (1, "The last review said that object 1 needs fixing.")
    ]
    with client_of(server) as client:
        (issue,) = (issue for issue in client.issues(job.id) if issue.id == asked[0].id)
    shown = review.label("objects_propagated", asked[0].position, 1).bounding_box
    left, top, right, bottom = issue.position
    assert shown == pytest.approx(
        [left / SIZE[1], top / SIZE[0], (right - left) / SIZE[1], (bottom - top) / SIZE[0]], abs=0.02
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"review": "yes"}, "review is True or False, got 'yes'"),
        ({"review_frames": "often"}, "'all' frames of a segment, 'every:n'.*got 'often'"),
        ({"review_as": "boxes"}, "review_as is 'polygons', or None"),
        ({"max_rounds": 0}, "max_rounds is a whole number from 1, got 0"),
        ({"gt_field": "truth"}, "gt_field='truth' is no field of"),
        ({"engine": "none"}, "this run propagates nothing"),
    ],
)
def test_what_cannot_be_reviewed_is_said_before_anything_is_sent(
    server: LocalCVAT, media: Media, asked: dict[str, Any], said: str
) -> None:
    with client_of(server) as client:
        before = len(client.tasks())
    with pytest.raises(ConfigurationError, match=said):
        begin(server, media, "image", "detections", **asked)
    with client_of(server) as client:
        assert len(client.tasks()) == before
