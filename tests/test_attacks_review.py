"""Attacks on the review loop: what people do to reviews, and to what is reviewed, when nobody expects it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, write_images

from labelprop_cvat import workflow
from labelprop_cvat.backend.ledger import JobRecord
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator.edits import JobPage

FRAMES = 7
FIELDS = ("objects", "objects_propagated", "objects_conflicts")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


def send(server: LocalCVAT, samples: Any, **options: Any) -> Any:
    asked = {"label_field": "objects", "label_type": "detections", "classes": ["person", "car"], "review": True,
             "engine": "interpolate", "segmentation": "none", "exemplars": f"every:{FRAMES - 1}",
             "sort_field": "number", **options}  # fmt: skip
    return samples.annotate("run", backend="labelprop", **asked, **login(server))


def out_for_review(
    server: LocalCVAT, dataset: fo.Dataset, shape: str = "rectangle", **options: Any
) -> tuple[Any, JobRecord]:
    """A run whose first round is loaded, and the job of its review."""
    annotate_by_script(server, send(server, dataset, **options), shape=shape)
    results = load(dataset)
    return results, results.ledger.rounds[-1].tasks[0].jobs[0]


def load(dataset: fo.Dataset) -> Any:
    dataset.load_annotations("run")
    dataset.reload()
    return dataset.load_annotation_results("run")


def edit(server: LocalCVAT, job: JobRecord, *edits: Callable[[JobPage], Any]) -> None:
    with client_of(server) as client, JobPage(client, job.id or 0) as page:
        for change in edits:
            change(page)
        page.finish()


def held(dataset: fo.Dataset, *fields: str) -> dict[tuple[str, int, str], str]:
    """Every label by field, frame and id."""
    return {
        (field, sample["number"], label.id): label.to_json()
        for sample in dataset.iter_samples()
        for field in fields or FIELDS
        if sample.has_field(field) and sample[field] is not None
        for label in getattr(sample[field], "detections", None) or getattr(sample[field], "polylines", [])
    }


def sources(dataset: fo.Dataset, index: int) -> dict[int, str]:
    """Where the propagated labels of an object come from, by frame."""
    found = {place: json.loads(text) for place, text in held(dataset, "objects_propagated").items()}
    return {place[1]: label["source"] for place, label in found.items() if label["index"] == index}


def verdicts_in(server: LocalCVAT, job: JobRecord) -> dict[int, str | None]:
    with client_of(server) as client:
        page = JobPage(client, job.id or 0)
        return {page.index_of(track): page.value_of(track, "verdict") for track in page.tracks}


def test_a_segment_that_is_named_twice_is_sent_once(server: LocalCVAT, paths: list[Path]) -> None:
    results, _ = out_for_review(server, image_dataset(paths), review=False)
    (segment,) = next(iter(results.ledger.sequences.values())).segments
    assert results.request_review([segment.label, segment.label]) == 2
    (task,) = results.ledger.rounds[-1].tasks
    assert [job.positions for job in task.jobs] == [[*range(FRAMES)]]


def test_a_review_that_is_forgotten_before_it_is_loaded_can_be_asked_for_again(
    server: LocalCVAT, paths: list[Path]
) -> None:
    results, _ = out_for_review(server, image_dataset(paths), review=False)
    assert results.request_review() == 2
    assert results.request_review() is None
    results.delete_tasks([results.ledger.rounds[-1].tasks[0].server_id])
    assert results.request_review() == 3


def test_an_annotator_s_change_after_a_reviewer_was_satisfied_is_nothing_that_anybody_reviewed(
    server: LocalCVAT, paths: list[Path]
) -> None:
    dataset = image_dataset(paths)
    results, job = out_for_review(server, dataset)
    edit(server, job, *(lambda page, i=i: page.set_verdict(page.track(i), "satisfactory") for i in (1, 2)))
    (exemplars,) = results.ledger.rounds[0].tasks[0].jobs
    edit(server, exemplars, lambda page: page.move_box(page.track(2), 1, (70, 40, 100, 66)))
    results = load(dataset)
    assert set(sources(dataset, 1).values()) == {"manual", "reviewed"}
    assert set(sources(dataset, 2).values()) == {"manual", "propagated"}
    assert len(results.ledger.rounds) == 3
    assert verdicts_in(server, results.ledger.rounds[-1].tasks[0].jobs[0]) == {1: "satisfactory", 2: "unreviewed"}


def test_a_reviewer_who_mends_an_object_and_is_satisfied_ends_the_loop(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    _, job = out_for_review(server, dataset)
    edit(
        server,
        job,
        lambda page: page.move_box(page.track(1), 3, (1, 2, 40, 60)),
        *(lambda page, i=i: page.set_verdict(page.track(i), "satisfactory") for i in (1, 2)),
    )
    results = load(dataset)
    assert sources(dataset, 1)[3] == "manual"
    assert len(results.ledger.rounds) == 2
    # Somebody else's change is nobody's last word.
    (exemplars,) = results.ledger.rounds[0].tasks[0].jobs
    edit(server, exemplars, lambda page: page.move_box(page.track(2), 1, (70, 40, 100, 66)))
    assert len(load(dataset).ledger.rounds) == 3


def test_a_class_whose_field_holds_other_shapes_deletes_nothing(
    server: LocalCVAT, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(paths)
    schema = {
        "objects": {"type": "detections", "classes": ["person"]},
        "outlines": {"type": "polygons", "classes": ["car"]},
    }
    first = send(server, dataset, label_field=None, label_type=None, classes=None, label_schema=schema,
                 output_field={"objects": "objects_propagated"})  # fmt: skip
    (exemplars,) = first.ledger.rounds[0].tasks[0].jobs
    edit(server, exemplars, lambda page: page.draw_track("person", 0, (10, 10, 40, 50)))
    results = load(dataset)
    job = results.ledger.rounds[-1].tasks[0].jobs[0]
    before = held(dataset)
    assert before
    edit(server, job, lambda page: page.relabel(page.track(1), "car"))
    with caplog.at_level(logging.WARNING):
        load(dataset)
    assert held(dataset) == before
    assert "which 'outlines' does not hold. Its labels in 'objects' stay" in caplog.text
    # With its own class and number again it is the object that it was.
    edit(
        server,
        job,
        lambda page: page.relabel(page.tracks[0], "person"),
        lambda page: page.set_index(page.tracks[0], 1),
        lambda page: page.move_box(page.track(1), 3, (12, 12, 42, 52)),
    )
    load(dataset)
    assert {json.loads(text)["index"] for text in held(dataset, "objects").values()} == {1}
    assert sources(dataset, 1)[3] == "manual"


def test_boxes_among_masks_are_outlines_in_reviews_of_polygons(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    _, job = out_for_review(server, dataset, "mask", label_type="instances", engine="hold", review_as="polygons")
    edit(server, job, lambda page: page.draw_track("car", 4, (5, 5, 20, 25), index=3))
    results = load(dataset)
    with client_of(server) as client:
        track = JobPage(client, results.ledger.rounds[-1].tasks[0].jobs[0].id or 0).track(3)
    shown = next(keyframe for keyframe in track["shapes"] if keyframe["frame"] == 4)
    xs, ys = shown["points"][::2], shown["points"][1::2]
    assert shown["type"] == "polygon"
    assert [min(xs), min(ys), max(xs), max(ys)] == pytest.approx([5, 5, 20, 25], abs=1)


def test_a_number_beyond_the_largest_is_not_taken_over(
    server: LocalCVAT, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(paths)
    _, job = out_for_review(server, dataset)
    edit(
        server,
        job,
        lambda page: page.set_index(page.track(1), 2**31),
        lambda page: page.move_box(page.track(2), 3, (70, 40, 100, 66)),
    )
    with caplog.at_level(logging.WARNING):
        results = load(dataset)
    assert {json.loads(text)["index"] for text in held(dataset).values()} == {1, 2}
    assert "beyond the largest" in caplog.text
    assert len(results.ledger.rounds) == 3
    assert results.ledger.uploaded


def test_an_attribute_of_the_user_s_called_verdict_is_none(server: LocalCVAT, paths: list[Path]) -> None:
    dataset = image_dataset(paths)
    attribute = {"type": "select", "values": ["reject", "keep"], "default": "reject", "mutable": False}
    _, job = out_for_review(server, dataset, attributes={"verdict": attribute})
    before = held(dataset)
    edit(server, job)
    results = load(dataset)
    assert held(dataset) == before
    assert len(results.ledger.rounds) == 2
    assert {json.loads(text)["verdict"] for text in before.values()} == {"reject"}


@pytest.mark.parametrize("shape", ["rectangle", "mask"])
def test_a_number_that_an_annotator_changed_under_review_is_that_of_what_reviewers_change(
    server: LocalCVAT, paths: list[Path], shape: str
) -> None:
    dataset = image_dataset(paths)
    kind = {"rectangle": "detections", "mask": "instances"}[shape]
    results, job = out_for_review(server, dataset, shape, label_type=kind, engine="hold")
    (exemplars,) = results.ledger.rounds[0].tasks[0].jobs
    edit(server, exemplars, lambda page: [page.set_index(e, 7) for e in _all_of(page, 1)])
    if shape == "mask":
        edit(server, job, lambda page: page.brush_mask(page.shape(1, 3), page.shape(2, 3)["points"]))
    else:
        edit(server, job, lambda page: page.move_box(page.track(1), 3, (1, 2, 40, 60)))
    load(dataset)
    assert sources(dataset, 1) == {}
    assert sources(dataset, 7) == {n: "manual" if n % 3 == 0 else "propagated" for n in range(FRAMES)}


def _all_of(page: JobPage, index: int) -> list[Any]:
    return [entry for entry in (*page.tracks, *page.shapes) if page.index_of(entry) == index]


def test_a_review_that_nobody_began_is_not_loaded_whatever_states_are(server: LocalCVAT, paths: list[Path]) -> None:
    source = image_dataset(paths)
    annotated = send(server, source, review=False)
    annotate_by_script(server, annotated, shape="rectangle")
    dataset = image_dataset(paths)
    # Runs over tasks of others take them in whatever state they are.
    workflow.adopt(dataset, "run", task_ids=annotated.ledger.rounds[0].tasks[0].server_id, label_field="objects",
                   label_type="detections", engine="interpolate", segmentation="none", sort_field="number",
                   review=True, **login(server))  # fmt: skip
    load(dataset)
    results = load(dataset)
    job = results.ledger.rounds[-1].tasks[0].jobs[0]
    assert not job.collected
    with client_of(server) as client, JobPage(client, job.id or 0) as page:
        page.move_box(page.track(1), 3, (1, 2, 40, 60))
    results = load(dataset)
    assert not results.ledger.rounds[-1].tasks[0].jobs[0].collected
    assert not results.wait(timeout=0)
    edit(server, job)
    load(dataset)
    assert sources(dataset, 1)[3] == "manual"


def test_a_verdict_that_was_not_loaded_is_not_cleaned_up(server: LocalCVAT, paths: list[Path]) -> None:
    results, job = out_for_review(server, image_dataset(paths))
    with client_of(server) as client, JobPage(client, job.id or 0) as page:
        page.set_verdict(page.track(1), "reject")
    results.cleanup()
    assert [task.jobs[0].id for task in results.ledger.tasks()] == [job.id]
    with client_of(server) as client, JobPage(client, job.id or 0) as page:
        page.set_verdict(page.track(1), "unreviewed")
    results.cleanup()
    assert not list(results.ledger.tasks())


def test_what_somebody_set_in_fiftyone_under_review_is_kept_beside_the_reviewer_s_version(
    server: LocalCVAT, paths: list[Path]
) -> None:
    dataset = image_dataset(paths)
    _, job = out_for_review(server, dataset)
    sample = dataset.match(fo.ViewField("number") == 3).first()
    mine = fo.Detection(label="person", index=1, bounding_box=[0.5, 0.5, 0.1, 0.1], keyframe=True)
    sample["objects"] = fo.Detections(detections=[mine])
    sample.save()
    edit(server, job, lambda page: page.move_box(page.track(1), 3, (0, 0, 64, 36)))
    load(dataset)
    load(dataset)
    boxes = {place[:2]: json.loads(text)["bounding_box"] for place, text in held(dataset).items()}
    assert boxes["objects", 3] == pytest.approx([0, 0, 0.5, 0.5])
    assert boxes["objects_conflicts", 3] == [0.5, 0.5, 0.1, 0.1]
    assert [place[0] for place in held(dataset)].count("objects_conflicts") == 1


def test_reviews_whose_corrections_would_be_refused_say_so(
    server: LocalCVAT, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = image_dataset(paths)
    for sample in dataset.iter_samples(autosave=True):
        if sample["number"] % (FRAMES - 1) == 0:
            box = fo.Detection(label="person", index=1, bounding_box=[0.2, 0.2, 0.3, 0.3], keyframe=True)
            sample["objects"] = fo.Detections(detections=[box])
    results = send(server, dataset, allow_additions=False)
    edit(server, results.ledger.rounds[0].tasks[0].jobs[0])
    with caplog.at_level(logging.WARNING):
        load(dataset)
    assert "What reviewers correct on frames without a label of objects" in caplog.text
