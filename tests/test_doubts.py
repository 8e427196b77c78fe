"""Where propagated objects are expected to be wrong, and what reviewers are told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import SIZE, first_round, image_dataset, write_images

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend import evidence
from labelprop_cvat.backend.doubts import doubts, uncertain_positions
from labelprop_cvat.backend.ledger import (
    REVIEW,
    IssueRecord,
    JobRecord,
    MeasuredRecord,
    ObjectRecord,
    RoundRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.types import PromptKind

FRAMES = 21
GOOD = (0.95, 0.95)

Said = Mapping[int, Mapping[int, tuple[float, float | None] | None]]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A loaded run of 21 frames with exemplars 0, 10 and 20."""
    dataset = image_dataset(write_images(tmp_path_factory.mktemp("frames"), FRAMES))
    with LocalCVAT(anonymous_rate=None) as server:
        yield first_round(server, dataset, exemplars="every:10")


@pytest.fixture
def run(finished_run: Any) -> Any:
    """The run, all of whose labels are good until a test says otherwise."""
    finished_run.refresh()
    say(finished_run, {})
    return finished_run


def say(results: Any, said: Said, sources: Mapping[int, str] | None = None) -> None:
    """Makes the propagated labels say of themselves (confidence, agreement), by index and position; None hides one."""
    written = []
    for number in range(FRAMES):
        labels = []
        for index, name in ((1, "person"), (2, "car")):
            is_set = number % 10 == 0
            known = said.get(index, {}).get(number, GOOD)
            if known is None:
                continue
            box = [0.1 * index, 0.01 * number, 0.2, 0.3]
            label = fo.Detection(label=name, index=index, bounding_box=box, mask=np.ones((4, 4), bool))
            label.confidence = 1.0 if is_set else known[0]
            label["keyframe"] = is_set
            label["source"] = "manual" if is_set else (sources or {}).get(index, "propagated")
            label["pass_agreement"] = None if is_set else known[1]
            labels.append(label)
        written.append(fo.Detections(detections=labels))
    results.dataset.sort_by("number").set_values("objects_propagated", written, progress=False)


def key_of(results: Any) -> str:
    return next(iter(results.ledger.sequences))


def found(results: Any, **options: Any) -> list[Any]:
    return doubts(results, key_of(results), 0, **options)


def test_what_is_good_is_not_doubted(run: Any) -> None:
    assert found(run) == []
    assert uncertain_positions(run, key_of(run), 0) == []


def test_a_stretch_is_one_doubt_with_its_worst_frame_and_a_reason(run: Any) -> None:
    poor = dict.fromkeys(range(13, 18), (0.6, 0.5)) | {15: (0.6, 0.05)}
    # A frame that is just good enough in the middle is no end of the doubt.
    poor[16] = GOOD
    say(run, {2: poor})
    (doubt,) = found(run)
    assert (doubt.label_field, doubt.index, doubt.label) == ("objects", 2, "car")
    assert (doubt.start, doubt.stop, doubt.worst, doubt.missing) == (13, 18, 15, False)
    assert 0.1 < doubt.confidence < 0.75
    assert doubt.why == (
        f"car 2: expected IoU {doubt.confidence:.2f} on frames 0013.png to 0017.png, least on 0015.png; the passes "
        f"from frames 0010.png and 0020.png disagree (IoU 0.05)."
    )
    assert doubt.box == pytest.approx((0.2 * SIZE[1], 0.15 * SIZE[0], 0.4 * SIZE[1], 0.45 * SIZE[0]))


def test_the_heaviest_comes_first_and_no_more_than_asked_for(run: Any) -> None:
    say(run, {1: dict.fromkeys(range(2, 5), (0.2, 0.1)), 2: dict.fromkeys(range(11, 20), (0.3, 0.1))})
    assert [doubt.index for doubt in found(run)] == [2, 1]
    assert [doubt.index for doubt in found(run, most=1)] == [2]
    losses = [doubt.loss for doubt in found(run)]
    assert losses == sorted(losses, reverse=True)


def test_keyframes_part_doubts_and_one_poor_frame_between_good_ones_is_none(run: Any) -> None:
    say(run, {1: {9: (0.3, 0.1), 8: (0.3, 0.1), 11: (0.3, 0.1), 12: (0.3, 0.1), 16: (0.7, 0.5)}})
    assert sorted((doubt.start, doubt.stop) for doubt in found(run)) == [(8, 10), (11, 13)]
    say(run, {1: {16: (0.01, 0.0)}})
    assert [(doubt.start, doubt.stop) for doubt in found(run)] == [(16, 17)]


def test_an_object_that_is_lost_or_ends_somewhere_is_told_of(run: Any) -> None:
    say(run, {1: dict.fromkeys(range(13, 17)), 2: dict.fromkeys(range(15, 21))})
    lost, ended = sorted(found(run), key=lambda doubt: doubt.index)
    assert (lost.start, lost.stop, lost.worst, lost.missing) == (13, 17, 13, True)
    assert lost.why == (
        "person 1: not shown on frames 0013.png to 0016.png, where it may be; frames 0010.png and 0020.png show it."
    )
    assert (ended.start, ended.stop, ended.worst) == (15, 20, 15)
    assert "where it leaves is a guess" in ended.why
    # It stands where the object was last seen.
    assert ended.box[1] == pytest.approx(0.14 * SIZE[0])
    segment = run.ledger.sequences[key_of(run)].segments[0]
    fill = segment.fill("objects")
    fill.said_absent = [[1, position] for position in range(13, 17)]
    assert [doubt.index for doubt in found(run)] == [2]
    fill.rejected = [2]
    assert found(run) == []


def test_that_an_object_is_not_there_is_settled_where_reviewers_close_the_issue(run: Any) -> None:
    say(run, {1: dict.fromkeys(range(13, 17))})
    issue = IssueRecord("objects", 1, 13, 13, 17, "not shown", id=5, resolved=True)
    job = JobRecord(segment=0, positions=list(range(FRAMES)), collected=True, issues=[issue])
    task = TaskRecord(key_of(run), "again", "m", [job], [])
    run.ledger.rounds.append(RoundRecord(2, REVIEW, "2030-01-01", [task]))
    assert found(run) == []
    for change in ({"resolved": False}, {"label_field": "others"}, {"index": 2}):
        job.issues = [replace(issue, **change)]
        assert [doubt.index for doubt in found(run)] == [1]
    job.issues = [issue]
    # The issue was about a label that is no longer there, which is another matter.
    task.objects["shape:8"] = ObjectRecord("objects", 1, 1, sightings={"16": SightingRecord("", machine=True)})
    assert [doubt.index for doubt in found(run)] == [1]


def test_an_object_that_comes_in_is_told_of_next_to_where_it_does(run: Any) -> None:
    say(run, {2: dict.fromkeys(range(0, 5))})
    (doubt,) = found(run)
    assert (doubt.start, doubt.stop, doubt.worst) == (1, 5, 4)
    assert "where it comes in is a guess" in doubt.why


def test_what_a_reviewer_found_right_is_beyond_doubt(run: Any) -> None:
    poor = {index: dict.fromkeys(range(2, 9), (0.2, 0.1)) for index in (1, 2)}
    say(run, poor, sources={1: "reviewed"})
    assert [doubt.index for doubt in found(run)] == [2]
    before = run.suggest(budget=3)
    say(run, poor)
    after = run.suggest(budget=3)
    assert {reason.object_id for frame in after for reason in frame.reasons} == {1, 2}
    assert before.predicted_j > after.predicted_j
    assert before.below_target == after.below_target / 2


def test_a_job_is_told_of_its_own_frames_by_the_numbers_of_cvat(run: Any) -> None:
    say(run, {2: dict.fromkeys(range(3, 9), (0.3, 0.1))})
    job = JobRecord(segment=0, positions=[0, 2, 4, 6, 8, 10], start_frame=100)
    (doubt,) = found(run, job=job)
    assert (doubt.start, doubt.stop, doubt.worst) == (4, 9, 4)
    assert "on frames 102 to 104" in doubt.why
    assert "from frames 100 and 105" in doubt.why or "nearest exemplar" in doubt.why or "confidence" in doubt.why
    short = JobRecord(segment=0, positions=[4, 5], start_frame=0)
    (doubt,) = found(run, job=short)
    assert (doubt.start, doubt.stop) == (4, 6)


def test_stretches_that_only_a_job_brings_together_are_two_doubts(run: Any) -> None:
    say(run, {2: dict.fromkeys([2, 3, 7, 8], (0.3, 0.1))})
    job = JobRecord(segment=0, positions=[0, 1, 2, 3, 7, 8, 9, 10])
    assert sorted((doubt.start, doubt.stop) for doubt in found(run, job=job)) == [(2, 4), (7, 9)]
    say(run, {2: dict.fromkeys([3, 9], (0.3, 0.1))})
    job = JobRecord(segment=0, positions=[0, 3, 6, 9, 12])
    assert [(doubt.start, doubt.stop) for doubt in found(run, job=job)] == [(3, 10)]


def test_what_was_measured_is_believed(run: Any) -> None:
    say(run, {2: dict.fromkeys(range(3, 9), (0.8, 0.7))})
    assert found(run) == []
    fill = run.ledger.sequences[key_of(run)].segments[0].fill("objects")
    fill.measured = [
        MeasuredRecord(round=2, index=2, position=5, confidence=0.8, agreement=0.7, distance=5, quality=0.1)
    ] * 30
    assert {doubt.index for doubt in found(run)} == {1, 2}


def test_boxes_are_judged_as_boxes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    say(run, {2: dict.fromkeys(range(3, 9), (0.3, 0.1))})
    (as_mask,), masks = found(run), run.suggest()
    assert evidence.drawn_kinds(run.config) == {"objects": PromptKind.MASK}
    monkeypatch.setitem(evidence._KINDS, "mask", PromptKind.BOX)
    (as_box,), boxes = found(run), run.suggest()
    assert as_box.confidence > as_mask.confidence + 0.1
    assert boxes.worst_j > masks.worst_j + 0.1
    # An engine that draws boxes around its masks knows as much of them.
    run.ledger.sequences[key_of(run)].segments[0].fill("objects").engine = "sam2"
    assert found(run) == [as_mask]


def test_frames_in_doubt_come_with_frames_to_compare_with(run: Any) -> None:
    say(run, {2: dict.fromkeys(range(13, 15), (0.2, 0.1))})
    assert uncertain_positions(run, key_of(run), 0) == [10, 12, 13, 14, 15, 20]
    say(run, {2: dict.fromkeys(range(16, 20), (0.2, 0.1))})
    assert uncertain_positions(run, key_of(run), 0) == [10, 15, 16, 17, 18, 19, 20]


def test_a_target_is_an_iou(run: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"got 75"):
        found(run, target=75)


def test_reviewers_find_doubts_as_issues_at_the_place_of_their_objects(run: Any) -> None:
    """The last one: from here on the run is under review."""
    say(run, {1: dict.fromkeys(range(13, 17)), 2: dict.fromkeys(range(3, 7), (0.3, 0.1))})
    assert run.request_review() == 2
    job = run.ledger.rounds[-1].tasks[0].jobs[0]
    height, width = SIZE
    poor, lost = run.connect_to_api().issues(job.id)
    assert (poor.frame, poor.comments[0].message[:6]) == (5, "car 2:")
    assert poor.position == pytest.approx((0.2 * width, 0.05 * height, 0.4 * width, 0.35 * height), abs=0.01)
    assert (lost.frame, lost.comments[0].message[:9]) == (13, "person 1:")
    # Where it was right before.
    assert lost.position == pytest.approx((0.1 * width, 0.12 * height, 0.3 * width, 0.42 * height), abs=0.01)
    row = run.get_status()[-1]
    assert [doubt["message"] for doubt in row["doubts"]] == [issue.message for issue in job.issues]
    by_index = {doubt["index"]: doubt["url"] for doubt in row["doubts"]}
    assert "&type=shape&serverID=" in by_index[2]
    assert by_index[1].endswith("?frame=13")
    assert run.suggest().why.startswith("Everything that was propagated is with reviewers")
