"""What people did in CVAT, counted from what comes back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, video_dataset, write_images
from fixtures_roundtrip import write_video as write_scene

from labelprop_cvat.backend.cvat import points_to_mask
from labelprop_cvat.backend.effort import count_actions, efforts
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.results import LabelPropResults
from labelprop_cvat.backend.rounds import collect_round
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.sequences import FrameRef

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


def sent(dataset: fo.Dataset, server: LocalCVAT, label_type: str, field: str = "objects", **options: Any) -> Any:
    options = {"exemplars": "every:2", "segmentation": "none", "engine": "interpolate", **options}
    if dataset.media_type != "video":
        options["sort_field"] = "number"
    return dataset.annotate(
        "run",
        backend="labelprop",
        label_field=field,
        label_type=label_type,
        classes=["person", "car"],
        **options,
        **login(server),
    )


def counted(results: Any, missing: str = "unknown") -> Actions:
    """What a load would count now; nothing is merged."""
    ledger, schema = results.ledger, results.config.schema()
    before = copy.deepcopy(ledger.to_dict())
    collected = collect_round(
        results.connect_to_api(),
        results.dataset,
        ledger,
        schema,
        job_states=["completed"],
        job_stages=["annotation", "validation", "acceptance"],
        missing=missing,
    )
    counts = count_actions(results.dataset, ledger, collected, schema, missing=missing)
    after = ledger.to_dict()
    for values in (before, after):
        for round_ in values["rounds"]:
            for task in round_["tasks"]:
                for job in task["jobs"]:
                    job.pop("state")
    assert before == after
    return counts.total(ledger.rounds[-1].number)


def edit(server: LocalCVAT, results: Any, change: Edit) -> None:
    """Changes, as the web UI does, what ``change`` changes in the annotations of the last task."""
    task = list(results.ledger.tasks())[-1]
    with client_of(server) as client:
        there = client.annotations(task_id=task.server_id)
        wanted = copy.deepcopy(there)
        change(wanted)
        for kind in ("shapes", "tracks", "tags"):
            kept = {item["id"] for item in wanted[kind] if "id" in item}
            changed = [item for item in wanted[kind] if "id" in item and item not in there[kind]]
            gone = [item for item in there[kind] if item["id"] not in kept]
            new = [item for item in wanted[kind] if "id" not in item]
            for do, items in (
                (client.delete_annotations, gone),
                (client.update_annotations, changed),
                (client.create_annotations, new),
            ):
                if items:
                    do({"version": 0, "tags": [], "shapes": [], "tracks": [], kind: items}, task_id=task.server_id)
        for job in client.jobs(task.server_id):
            client.update_job(job.id, state="completed")


def test_masks_drawn_then_one_is_mended_one_deleted_one_renamed(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, 5))
    results = sent(dataset, server, "instances")
    assert counted(results) == Actions()
    annotate_by_script(server, results)
    assert counted(results) == Actions(masks=6, examined=3)
    dataset.load_annotations("run")
    assert counted(results) == Actions()

    def change(there: dict[str, Any]) -> None:
        first, second, third = sorted(there["shapes"], key=lambda shape: (shape["frame"], shape["id"]))[:3]
        left, top, mask = points_to_mask(first["points"])
        assert (left, top) == tuple(first["points"][-4:-2])
        half = mask.copy()
        half[:, mask.shape[1] // 2 :] = False
        first["points"] = [*runs(half), *first["points"][-4:]]
        second["label_id"] = third["label_id"]
        second["attributes"] = [{"spec_id": third["attributes"][0]["spec_id"], "value": "2"}]
        there["shapes"].remove(third)

    edit(server, results, change)
    found = counted(results)
    assert found.redrawn == pytest.approx(0.5, abs=0.06)
    rest = Actions(edited=1, attributes=1, deleted=1, located=3, examined=2, redrawn=found.redrawn)
    assert found == rest


def runs(mask: Any) -> list[int]:
    """CVAT's run lengths of a mask, beginning with the background."""
    lengths, value = [0], False
    for pixel in mask.ravel():
        if bool(pixel) != value:
            lengths.append(0)
            value = not value
        lengths[-1] += 1
    return lengths


def test_boxes_that_are_there_are_dragged(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, 3))
    for sample in dataset:
        label = fo.Detection(label="person", bounding_box=[0.25, 0.25, 0.25, 0.5], index=1)
        sample["objects"] = fo.Detections(detections=[label])
        sample.save()
    results = sent(dataset, server, "detections", exemplars="every:1")

    def change(there: dict[str, Any]) -> None:
        (track,) = there["tracks"]
        one, other, _ = sorted(track["shapes"], key=lambda shape: shape["frame"])
        one["points"] = [p + 8 for p in one["points"]]
        x1, y1, x2, y2 = other["points"]
        other["points"] = [x1 - 4, y1, x2 + 4, y2]

    edit(server, results, change)
    assert counted(results) == Actions(edited=2, clicks=1 + 2, located=2, examined=3)


def test_a_new_track_is_one_box_and_then_edits_and_an_end_is_an_answer(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_scene(tmp_path / "scene.mp4", 5))
    results = sent(dataset, server, "detections", field="frames.objects")
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    assert counted(results) == Actions(boxes=2, edited=4, clicks=12, located=4, examined=3)
    dataset.load_annotations("run")

    def change(there: dict[str, Any]) -> None:
        track = there["tracks"][0]
        max(track["shapes"], key=lambda shape: shape["frame"])["outside"] = True

    edit(server, results, change)
    assert counted(results) == counted(results, "absent") == Actions(absent=1, located=1, examined=1)


def test_undone_deletions_cost_nothing(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, 1))
    results = sent(dataset, server, "instances", exemplars="every:1")
    annotate_by_script(server, results)
    dataset.load_annotations("run")

    def change(there: dict[str, Any]) -> None:
        del there["shapes"][0]["id"]

    edit(server, results, change)
    assert counted(results) == Actions()


def test_polygons_count_their_corners_and_points(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, 1))
    ring = [(0.25, 0.25), (0.5, 0.25), (0.5, 0.75), (0.25, 0.75)]
    for sample in dataset:
        label = fo.Polyline(label="car", points=[ring], closed=True, filled=True, index=1)
        sample["objects"] = fo.Polylines(polylines=[label])
        sample.save()
    results = sent(dataset, server, "polygons", exemplars="every:1")

    def change(there: dict[str, Any]) -> None:
        (track,) = there["tracks"]
        track["shapes"][0]["points"][:2] = [20.0, 10.0]
        triangle = copy.deepcopy(track)
        for item in (triangle, *triangle["shapes"]):
            item.pop("id")
        triangle["shapes"][0]["points"] = [5.0, 5.0, 25.0, 5.0, 5.0, 25.0]
        triangle["attributes"] = [{**a, "value": "2"} for a in triangle["attributes"] if a["value"] == "1"]
        there["tracks"].append(triangle)

    edit(server, results, change)
    assert counted(results) == Actions(polygons=1, points=3, edited=1, clicks=1, located=1, examined=1)


def test_the_cost_of_rounds() -> None:
    counts = {0: Actions(masks=3, examined=3).to_dict(), 2: Actions(clicks=4).to_dict()}
    first, second = efforts(counts, EffortModel(mask=60.0), {2: 1.5})
    assert (first.round, first.measured_minutes) == (0, None)
    assert first.modelled_minutes == pytest.approx(3 + 0.3 / 60)
    assert (second.round, second.modelled_minutes, second.measured_minutes) == (2, pytest.approx(0.1), 1.5)


def test_what_went_into_another_field_is_counted_once(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = image_dataset(write_images(tmp_path, 1))
    results = sent(dataset, server, "instances", exemplars="every:1")
    annotate_by_script(server, results)
    assert counted(results) == Actions(masks=2, examined=1)
    dataset.load_annotations("run", dest_field="elsewhere")
    assert counted(results) == Actions()


class Killed(BaseException):
    """What happens to a process instead of the next step."""


def test_loads_that_are_killed_count_once_what_was_done(
    server: LocalCVAT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_dataset(write_images(tmp_path, 1))
    schema = {
        "objects": {"type": "instances", "classes": ["person", "car"]},
        "boxes": {"type": "detections", "classes": ["sign"]},
    }
    results = dataset.annotate(
        "run",
        backend="labelprop",
        label_schema=schema,
        sort_field="number",
        exemplars="every:1",
        segmentation="none",
        engine="interpolate",
        **login(server),
    )
    annotate_by_script(server, results)
    write = LabelPropResults.save
    left = [0, 0]

    def save(self: LabelPropResults) -> None:
        left[0] -= 1
        if left == [0, 0]:
            raise Killed
        write(self)
        if left == [0, 1]:
            raise Killed

    monkeypatch.setattr(LabelPropResults, "save", save)

    def cut(there: dict[str, Any]) -> None:
        mask = max(there["shapes"], key=lambda shape: len(shape["points"]))
        _, _, pixels = points_to_mask(mask["points"])
        filled = pixels.any(axis=1).nonzero()[0]
        pixels[: filled[0] + len(filled) // 8] = False
        mask["points"] = [*runs(pixels), *mask["points"][-4:]]

    total, kills = Actions(), 0
    for step in range(1, 5):
        for is_written in (0, 1):
            left[:] = [100, is_written]
            edit(server, results, cut)
            left[:] = [step, is_written]
            total += counted(results)
            with contextlib.suppress(Killed):
                dataset.load_annotations("run")
                kills -= 1
            kills += 1
            left[:] = [100, 0]
            dataset.load_annotations("run")
            (cost,) = dataset.load_annotation_results("run").effort()
            assert cost.actions.redrawn == pytest.approx(total.redrawn)
            assert replace(cost.actions, redrawn=0.0) == replace(total, redrawn=0.0)
    # Written down are what was found, the two fields, and the jobs.
    assert kills == 8
    assert total.redrawn > 0.5


def test_offered_labels_were_there_before(server: LocalCVAT, tmp_path: Path) -> None:
    """Of four masks that go along to be corrected one is mended, one taken away, and two are good."""
    dataset = image_dataset(write_images(tmp_path, 5))
    results = sent(dataset, server, "instances", exemplars="every:4", engine="hold")
    annotate_by_script(server, results)
    dataset.load_annotations("run")
    ids = dataset.sort_by("number").values("id")
    results.send_round([FrameRef(ids[1]), FrameRef(ids[2])])

    def change(there: dict[str, Any]) -> None:
        mended, gone = sorted(there["shapes"], key=lambda shape: (shape["frame"], shape["id"]))[:2]
        _, _, mask = points_to_mask(mended["points"])
        half = mask.copy()
        half[:, mask.shape[1] // 2 :] = False
        mended["points"] = [*runs(half), *mended["points"][-4:]]
        there["shapes"].remove(gone)

    edit(server, results, change)
    found = counted(results)
    assert found.redrawn == pytest.approx(0.5, abs=0.06)
    assert found == Actions(edited=1, deleted=1, located=2, examined=2, redrawn=found.redrawn)
    dataset.load_annotations("run")
    first, second = dataset.load_annotation_results("run").effort()
    assert first.actions == Actions(masks=4, examined=2)
    assert second.actions == found
    assert second.modelled_minutes == pytest.approx((1 + 2 + 1.5 + 0.2 + 80 * found.redrawn) / 60)


def test_offered_boxes_are_dragged_or_said_to_be_gone(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_scene(tmp_path / "scene.mp4", 5))
    results = sent(dataset, server, "detections", field="frames.objects", exemplars="every:4")
    annotate_by_script(server, results, shape="rectangle", first_number=1)
    dataset.load_annotations("run")
    results.send_round([FrameRef(dataset.first().id, 3)])

    def change(there: dict[str, Any]) -> None:
        moved, gone = there["tracks"]
        moved["shapes"][0]["points"] = [p + 3 for p in moved["shapes"][0]["points"]]
        gone["shapes"][0]["outside"] = True

    edit(server, results, change)
    found = counted(results)
    assert (found.edited, found.clicks, found.located, found.examined) == (1, 1, 2, 1)
    assert found.deleted + found.absent == 1
    assert found.drawn == 0
