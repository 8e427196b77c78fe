"""The scripted reviewer against the embedded server: it mends what is wrong, as CVAT's web page would save it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from labelprop_cvat.backend.cvat import (
    AttributeSpec,
    Credentials,
    CVATClient,
    LabelMissing,
    LabelSpec,
    UploadFile,
    mask_to_points,
    points_to_mask,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import (
    JobPage,
    ReviewerCounts,
    ScriptedReviewer,
    Sloppiness,
    TruthObject,
)
from labelprop_cvat.backend.local_cvat.annotator.reviewer import clicks_to_draw
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.effort import Actions
from labelprop_cvat.propagation.metrics import box_iou, jaccard
from labelprop_cvat.propagation.types import ObjectMask, rasterize

WIDTH, HEIGHT, FRAMES = 160, 90, 41
SIZE = (HEIGHT, WIDTH)
VERDICTS = ("unreviewed", "satisfactory", "fix", "reject")
ATTRIBUTES = (
    AttributeSpec("index", False, "number", ("0", "100000", "1"), "0"),
    AttributeSpec("verdict", False, "select", VERDICTS, "unreviewed"),
    AttributeSpec("confidence", False, "number", ("0", "100", "1"), "0"),
)
USERS = {"admin": "admin-password", "rita": "rita-password"}

Box = tuple[float, float, float, float]


def box(number: int, frame: int) -> Box:
    """Where object 1, 2, ... truly is."""
    x, y = 4.0 + 2 * frame, 6.0 + 26 * (number - 1)
    return x, y, x + 30, y + 20


def blob(number: int, frame: int) -> ObjectMask:
    x1, y1, x2, y2 = (int(p) for p in box(number, frame))
    full = np.zeros(SIZE, np.uint8)
    cv2.ellipse(full, ((x1 + x2) // 2, (y1 + y2) // 2), (15, 10), 0, 0, 360, 1, -1)
    found = ObjectMask.from_full(full > 0)
    assert found is not None
    return found


def truth_of(*numbers: int, masks: bool = False, seen: Callable[[int, int], bool] = lambda number, frame: True) -> Any:
    """The truth of some objects: object 2 is a dog, the others are cars."""

    def truth(task: str, name: str) -> list[TruthObject]:
        frame = int(name.removesuffix(".png"))
        return [
            TruthObject(
                number,
                "dog" if number == 2 else "car",
                mask=blob(number, frame) if masks else None,
                box=None if masks else box(number, frame),
            )
            for number in numbers
            if seen(number, frame)
        ]

    return truth


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users=USERS, anonymous_rate=None) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LocalCVAT) -> Iterator[CVATClient]:
    with CVATClient(server.url, Credentials("admin", USERS["admin"])) as client:
        yield client


@pytest.fixture(scope="module")
def task(client: CVATClient, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Two jobs, of one frame and of 40: what is looked at is counted within a job."""
    path = tmp_path_factory.mktemp("frames") / "any.png"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    files = [UploadFile(f"{number:03d}.png", path) for number in range(FRAMES)]
    task = client.create_task("reviewed", [LabelSpec("car", ATTRIBUTES), LabelSpec("dog", ATTRIBUTES)])
    names = [file.name for file in files]
    client.upload_images(task.id, files, jobs=[names[:1], names[1:]])
    return task.id


@pytest.fixture
def page(client: CVATClient, task: int) -> JobPage:
    """The second job, empty, as a review job: frames 1..40."""
    job = client.jobs(task)[1]
    client.delete_annotations(client.annotations(job_id=job.id), job_id=job.id)
    client.set_deleted_frames([], job_id=job.id)
    for issue in client.issues(job.id):
        client.resolve_issue(issue.id)
    client.update_job(job.id, stage="validation", state="new", assignee_id=None)
    return JobPage(client, job.id)


def track(
    page: JobPage, number: int, frames: Sequence[int], shift: float = 0.0, wrong: Sequence[int] = (), **more: Any
) -> dict[str, Any]:
    """A propagated track of boxes with keyframes on ``frames``; those on ``wrong`` are 25 px off."""
    label = more.get("label", "dog" if number == 2 else "car")
    made = page.draw_track(label, frames[0], box(number, frames[0]), index=more.get("index", number))
    for frame in frames:
        x1, y1, x2, y2 = box(number, frame)
        off = shift + (25 if frame in wrong else 0)
        page.move_box(made, frame, (x1 + off, y1, x2 + off, y2))
    made["source"] = "auto"
    return made


def review(client: CVATClient, page: JobPage, truth: Any, **options: Any) -> ReviewerCounts:
    page.save()
    return ScriptedReviewer(client, **options).review(page.job.id, truth)


def verdicts(page: JobPage) -> dict[int, str]:
    """The verdict of each object that has one."""
    found = {}
    for item in (*page.tracks, *page.shapes):
        verdict = page.value_of(item, "verdict")
        if verdict != "unreviewed":
            assert found.setdefault(page.index_of(item), verdict) == verdict
    return found


def iou(page: JobPage, item: dict[str, Any], number: int, frame: int) -> float:
    there = page.seen(item, frame)
    return 0.0 if there is None else box_iou(tuple(there["points"]), box(number, frame))


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_good_objects_are_satisfactory_and_bad_ones_are_mended(client: CVATClient, page: JobPage) -> None:
    good = track(page, 1, [1, 40])
    bad = track(page, 2, [1, 21, 40], wrong=[21])
    counts = review(client, page, truth_of(1, 2))
    after = JobPage(client, page.job.id)
    assert client.job(page.job.id).state == "completed"
    assert client.job(page.job.id).stage == "validation"
    assert verdicts(after) == {1: "satisfactory", 2: "fix"}
    # Frames 1, 11, 21 and 31; the keyframe on 21 drags frames 11 and 31 with it.
    assert [after.index_of(item) for item in after.tracks] == [1, 2]
    assert [item["id"] for item in after.tracks] == [good["id"], bad["id"]]
    mended = after.track(2)
    assert [shape["frame"] for shape in mended["shapes"]] == [1, 11, 21, 40]
    assert [iou(after, mended, 2, frame) for frame in (1, 11, 21)] == [1.0] * 3
    assert iou(after, mended, 2, 31) == 1.0, "mending a keyframe mends what hangs on it"
    assert (after.track(1)["source"], mended["source"]) == ("auto", "semi-auto")
    assert after.track(1)["shapes"] == good["shapes"]
    assert counts == ReviewerCounts(
        jobs=1,
        frames=4,
        looks=8,
        good=6,
        fixed=2,
        clicks=4,
        actions=Actions(examined=4, edited=2, located=2, clicks=2, attributes=2),
        verdicts={"fix": 1, "satisfactory": 1},
    )


def test_the_threshold_is_an_iou(client: CVATClient, page: JobPage) -> None:
    # 30 px wide boxes that are 4 px off: IoU 26 / 34.
    track(page, 1, [1, 40], shift=4.0)
    page.save()
    limit = 26 / 34
    first = ScriptedReviewer(client, threshold=limit - 0.01).review(page.job.id, truth_of(1))
    assert (first.good, first.fixed) == (4, 0)
    client.update_job(page.job.id, state="new")
    second = ScriptedReviewer(client, threshold=limit + 0.01).review(page.job.id, truth_of(1))
    assert second.fixed > 0


def test_it_looks_at_every_so_many_frames_and_at_issues(client: CVATClient, page: JobPage) -> None:
    seen: list[str] = []
    truth = truth_of(1)

    def watched(task: str, name: str) -> Any:
        seen.append(f"{task}/{name}")
        return truth(task, name)

    item = track(page, 1, [1, 17, 18, 19, 40], wrong=[18])
    page.delete_frame(3)
    page.save()
    issue = client.create_issue(page.job.id, 18, (10, 10, 20, 20), "expected IoU 0.3")
    client.create_issue(page.job.id, 3, (10, 10), "on a deleted frame")
    counts = ScriptedReviewer(client, every=15, first=2).review(page.job.id, watched)
    # Frames 1, 2, 4, ... are left: the third is 4, then 19 and 34.
    assert (counts.frames, counts.looks, counts.fixed, counts.resolved) == (4, 4, 1, 1)
    assert counts.clicks == 3, "one drag, one verdict, one issue"
    assert "reviewed/003.png" not in seen
    assert [entry.id for entry in client.issues(page.job.id) if entry.resolved][-1] == issue.id
    assert [entry.frame for entry in client.issues(page.job.id) if not entry.resolved] == [3]
    after = JobPage(client, page.job.id)
    assert iou(after, after.track(1), 1, 18) == 1.0
    assert after.deleted_frames == {3}
    assert [shape["frame"] for shape in after.track(1)["shapes"]] == [shape["frame"] for shape in item["shapes"]]


def test_issues_may_be_left_alone(client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 17, 18, 19, 40], wrong=[18])
    page.save()
    client.create_issue(page.job.id, 18, (10, 10), "look")
    counts = ScriptedReviewer(client, look_at_issues=False).review(page.job.id, truth_of(1))
    assert (counts.frames, counts.fixed, counts.resolved) == (4, 0, 0)
    assert [entry.frame for entry in client.issues(page.job.id) if not entry.resolved] == [18]


def test_what_is_not_there_is_hidden_and_what_is_there_is_shown(client: CVATClient, page: JobPage) -> None:
    # Object 1 leaves after frame 15, object 2 comes on frame 10 and CVAT has it from 31.
    track(page, 1, [1, 40])
    track(page, 2, [31, 40])
    counts = review(client, page, truth_of(1, 2, seen=lambda number, frame: (frame <= 15) is (number == 1)))
    after = JobPage(client, page.job.id)
    first, second = after.track(1), after.track(2)
    assert [(s["frame"], s["outside"]) for s in first["shapes"]] == [(1, False), (21, True), (40, False)]
    assert after.seen(first, 31) is None
    assert [(s["frame"], s["outside"]) for s in second["shapes"]] == [(21, False), (31, False), (40, False)]
    assert iou(after, second, 2, 25) == 1.0
    assert (counts.hidden, counts.drawn, counts.added) == (1, 1, 0)
    assert counts.actions == Actions(examined=4, absent=1, located=1, boxes=1, attributes=2)
    assert counts.verdicts == {"fix": 2}


@pytest.mark.parametrize(
    ("off", "clicks"), [((9, 5, 9, 5), 1), ((0, 0, 20, 15), 1), ((-15, 0, 0, 9), 1), ((-8, 0, 8, 0), 2)]
)
def test_a_box_takes_one_drag_or_two(client: CVATClient, page: JobPage, off: Sequence[int], clicks: int) -> None:
    # The whole box, one corner, another corner, both sides.
    item = track(page, 1, [1, 2])
    x1, y1, x2, y2 = (edge + d for edge, d in zip(box(1, 1), off, strict=True))
    page.move_box(item, 1, (x1, y1, x2, y2))
    counts = review(client, page, truth_of(1, seen=lambda number, frame: frame == 1), every=40)
    assert (counts.fixed, counts.actions.clicks) == (1, clicks)


def test_an_object_that_nobody_found_becomes_one_track(client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 40])
    counts = review(client, page, truth_of(1, 3, seen=lambda number, frame: number == 1 or 10 <= frame < 25))
    after = JobPage(client, page.job.id)
    (_, new) = after.tracks
    assert (after.index_of(new), new["source"], new["label_id"]) == (0, "manual", after.labels.label("car").id)
    assert [(s["frame"], s["outside"]) for s in new["shapes"]] == [(11, False), (21, False), (31, True)]
    assert [iou(after, new, 3, frame) for frame in (11, 21)] == [1.0, 1.0]
    assert (counts.added, counts.drawn, counts.fixed, counts.hidden) == (1, 1, 1, 1)
    assert verdicts(after) == {1: "satisfactory"}, "what has no number has no verdict"


# --- masks and polygons ----------------------------------------------------------------------------------------------


def put_mask(page: JobPage, number: int, frame: int, shift: int = 0, index: int | None = None) -> dict[str, Any]:
    mask = blob(number, frame)
    label = "dog" if number == 2 else "car"
    points = mask_to_points(mask.x + shift, mask.y, mask.crop)
    return page.draw_mask(label, frame, points, number if index is None else index)


def pixels(shape: dict[str, Any]) -> ObjectMask:
    found = ObjectMask.from_crop(*points_to_mask(shape["points"]))
    assert found is not None
    return found


def test_masks_are_redrawn_deleted_and_drawn(client: CVATClient, page: JobPage) -> None:
    kept = put_mask(page, 1, 1)
    wrong = put_mask(page, 1, 11, shift=12)
    put_mask(page, 1, 31)
    gone = put_mask(page, 2, 21)
    unseen = put_mask(page, 1, 12, shift=25)
    counts = review(client, page, truth_of(1, 3, masks=True, seen=lambda number, frame: number == 1 or frame > 20))
    after = JobPage(client, page.job.id)
    redrawn = after.shape(1, 11)
    assert redrawn["id"] == wrong["id"]
    assert jaccard(pixels(redrawn), blob(1, 11)) == 1.0
    assert jaccard(pixels(after.shape(1, 21)), blob(1, 21)) == 1.0, "drawn where nothing was, with its number"
    assert after.shape(1, 12)["points"] == unseen["points"], "nobody looked there"
    assert after.shape(1, 1)["points"] == kept["points"]
    assert gone["id"] not in {shape["id"] for shape in after.shapes}
    added = [shape for shape in after.shapes if after.index_of(shape) == 0]
    assert [shape["frame"] for shape in added] == [21], "without a number a second mask would be a second object"
    assert (counts.fixed, counts.drawn, counts.added, counts.deleted) == (1, 2, 1, 1)
    assert verdicts(after) == {1: "fix"}
    share = 1 - jaccard(ObjectMask.from_crop(blob(1, 11).x + 12, blob(1, 11).y, blob(1, 11).crop), blob(1, 11))
    corners = clicks_to_draw("mask", TruthObject(1, "car", mask=blob(1, 11)))
    assert counts.actions.redrawn == pytest.approx(share)
    assert (counts.actions.masks, counts.actions.deleted, counts.actions.clicks) == (2, 1, 0)
    # Two drawn, a share of one drawn anew, one deleted, one verdict.
    assert counts.clicks == 2 * corners + round(share * corners) + 2


def test_a_satisfactory_object_of_masks_says_so_once(client: CVATClient, page: JobPage) -> None:
    for frame in range(1, 41, 5):
        put_mask(page, 1, frame)
    counts = review(client, page, truth_of(1, masks=True))
    after = JobPage(client, page.job.id)
    assert [after.value_of(s, "verdict") for s in after.shapes].count("satisfactory") == 1
    assert (counts.clicks, counts.verdicts) == (1, {"satisfactory": 1})


def test_outlines_are_redrawn_so_that_cvat_moves_them_smoothly(client: CVATClient, page: JobPage) -> None:
    def ring(frame: int, shift: float = 0.0) -> list[float]:
        """The outline from another corner and the other way round than the one that a script would draw."""
        corners = TruthObject(1, "car", mask=blob(1, frame)).corners[::-1]
        turned = [*corners[5:], *corners[:5]]
        return [value for x, y in turned for value in (x + shift, y)]

    item = page.draw_track("car", 1, ring(1), "polygon", index=1)
    page.redraw(item, ring(21, 18.0), 21)
    page.redraw(item, ring(40), 40)
    counts = review(client, page, truth_of(1, masks=True))
    after = JobPage(client, page.job.id)
    for frame in range(1, 41):
        there = after.seen(after.track(1), frame)
        assert there is not None
        flat = there["points"]
        drawn = rasterize((tuple(zip(flat[::2], flat[1::2], strict=True)),), SIZE)
        assert jaccard(drawn, blob(1, frame)) > (0.85 if frame > 1 else 0.9)
    assert counts.fixed == 2
    assert counts.actions.clicks >= 2 * 10, "every corner moved"
    assert verdicts(after) == {1: "fix"}


# --- who is who ------------------------------------------------------------------------------------------------------


def test_objects_without_a_usable_number_are_known_by_their_place(client: CVATClient, page: JobPage) -> None:
    first = track(page, 1, [1, 40], index=0)
    second = track(page, 3, [1, 21, 40], wrong=[21], index=9)
    counts = review(client, page, truth_of(1, 3))
    after = JobPage(client, page.job.id)
    assert [item["id"] for item in after.tracks] == [first["id"], second["id"]]
    assert [after.index_of(item) for item in after.tracks] == [0, 9], "numbers are not a reviewer's to give"
    assert [iou(after, after.track(9), 3, frame) for frame in (1, 11, 21, 31)] == [1.0] * 4
    assert (counts.added, counts.fixed, counts.deleted, counts.hidden) == (0, 2, 0, 0)


def test_a_wrong_label_is_mended_and_the_number_stays(client: CVATClient, page: JobPage) -> None:
    item = track(page, 2, [1, 40], label="car")
    counts = review(client, page, truth_of(2))
    after = JobPage(client, page.job.id)
    assert [(entry["id"], after.label_of(entry).name) for entry in after.tracks] == [(item["id"], "dog")]
    assert after.index_of(after.tracks[0]) == 2
    assert (counts.relabelled, counts.verdicts) == (1, {"fix": 1})


@pytest.mark.parametrize("strays", ["hide", "delete", "reject"])
def test_what_is_no_object_at_all(client: CVATClient, page: JobPage, strays: Any) -> None:
    track(page, 1, [1, 40])
    stray = track(page, 3, [1, 40])
    counts = review(client, page, truth_of(1), strays=strays)
    after = JobPage(client, page.job.id)
    there = {item["id"]: item for item in after.tracks}
    if strays == "hide":
        assert [after.seen(there[stray["id"]], frame) for frame in (1, 11, 21, 31)] == [None] * 4
        assert (counts.hidden, verdicts(after)) == (1, {1: "satisfactory", 3: "fix"})
    elif strays == "delete":
        assert stray["id"] not in there
        assert (counts.deleted, counts.actions.deleted) == (1, 1)
    else:
        assert there[stray["id"]]["shapes"] == stray["shapes"]
        assert verdicts(after) == {1: "satisfactory", 3: "reject"}


def test_rejected_objects_and_mere_verdicts(client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 40], wrong=[40])
    track(page, 2, [1, 21, 40], wrong=[21])
    counts = review(client, page, truth_of(1, 2, 3), fix="verdict", reject=[1])
    after = JobPage(client, page.job.id)
    assert verdicts(after) == {1: "reject", 2: "fix"}
    assert counts.edits == 0
    assert [item["shapes"] for item in after.tracks] == [item["shapes"] for item in page.tracks]


def test_only_the_labels_that_it_is_given(client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 40], shift=20)
    track(page, 2, [1, 40], shift=20)
    counts = review(client, page, truth_of(1, 2), labels=["dog"])
    assert verdicts(JobPage(client, page.job.id)) == {2: "fix"}
    assert counts.looks == 4


# --- again, carelessly, as somebody else -----------------------------------------------------------------------------


def test_a_finished_job_is_left_alone(client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 40], shift=20)
    review(client, page, truth_of(1))
    there = client.annotations(job_id=page.job.id)
    assert ScriptedReviewer(client).review(page.job.id, truth_of(1)) == ReviewerCounts()
    client.update_job(page.job.id, state="in progress")
    again = ScriptedReviewer(client).review(page.job.id, truth_of(1), complete=False)
    assert (again.edits, again.good, again.clicks) == (0, 4, 1)
    assert again.verdicts == {"satisfactory": 1}
    assert client.job(page.job.id).state == "in progress"
    shapes = [item["shapes"] for item in client.annotations(job_id=page.job.id)["tracks"]]
    assert shapes == [item["shapes"] for item in there["tracks"]]


def test_the_same_seed_is_careless_in_the_same_places(client: CVATClient, page: JobPage) -> None:
    careless = Sloppiness(box_jitter_px=2.0, missed=0.5)

    def once(seed: int) -> tuple[ReviewerCounts, Any]:
        fresh = JobPage(client, page.job.id)
        for item in fresh.tracks:
            fresh.delete(item)
        track(fresh, 1, range(1, 41), wrong=range(1, 41))
        fresh.save()
        client.update_job(page.job.id, state="in progress")
        counts = ScriptedReviewer(client, every=3, sloppiness=careless, seed=seed).review(page.job.id, truth_of(1))
        points = [shape["points"] for shape in client.annotations(job_id=page.job.id)["tracks"][0]["shapes"]]
        return counts, points

    first, second, third = once(1), once(1), once(2)
    assert first == second
    assert first != third
    assert 0 < first[0].missed < 14
    assert first[0].missed + first[0].fixed == first[0].looks == 14


def test_an_assignee_reviews_without_seeing_the_task(server: LocalCVAT, client: CVATClient, page: JobPage) -> None:
    track(page, 1, [1, 40], shift=20)
    page.save()
    issue = client.create_issue(page.job.id, 5, (10, 10), "look")
    client.update_job(page.job.id, assignee_id=client.find_user("rita").id)
    with CVATClient(server.url, Credentials("rita", USERS["rita"])) as rita:
        counts = ScriptedReviewer(rita).review(page.job.id, truth_of(1))
    assert (counts.fixed, counts.resolved) == (4, 1)
    assert client.job(page.job.id).state == "completed"
    assert next(entry for entry in client.issues(page.job.id) if entry.id == issue.id).resolved


def test_wrong_habits_and_labels_are_told(client: CVATClient, page: JobPage) -> None:
    for habits, said in (
        ({"every": 0}, "every=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"first": -1}, "first=-1"),
        ({"fix": "all"}, '"shape", "verdict", got'),
        ({"strays": "keep"}, '"hide", "delete", "reject", got'),
    ):
        with pytest.raises(ConfigurationError, match=said):
            ScriptedReviewer(client, **habits)  # type: ignore[arg-type]
    with pytest.raises(LabelMissing, match="cat"):
        ScriptedReviewer(client).review(page.job.id, lambda task, name: [TruthObject(1, "cat", box=(0, 0, 9, 9))])
