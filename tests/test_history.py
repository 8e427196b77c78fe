"""The history of a run: what each round sent, brought back and cost, and how good its labels were by the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import first_round, image_dataset, scene_masks, write_images
from rich.console import Console

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.history import history_of, mean_truth
from labelprop_cvat.backend.ledger import (
    EXEMPLARS,
    NO_POSITION,
    REVIEW,
    IssueRecord,
    JobRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.effort import Actions, EffortModel

FRAMES = 5


def task(number: int, *jobs: JobRecord, objects: dict[str, ObjectRecord] | None = None) -> TaskRecord:
    return TaskRecord("clip", f"task {number}", f"m{number}", list(jobs), [], "ready", number, objects=objects or {})


def seen(index: int) -> ObjectRecord:
    return ObjectRecord("objects", index, index, sightings={"0": SightingRecord("a" * 24)})


def ledger() -> Ledger:
    """A round of exemplars that came back, a review half of which did, and another one that is out."""
    first = JobRecord(segment=0, positions=[0, 10, NO_POSITION], collected=True)
    back = JobRecord(
        segment=0,
        positions=list(range(20)),
        collected=True,
        verdicts={"objects": {"1": "satisfactory", "2": "fix"}, "signs": {"1": "satisfactory"}},
        issues=[IssueRecord("objects", 2, 4, 3, 6, "?", id=1, resolved=True), IssueRecord("objects", 1, 9, 8, 10, "?")],
    )
    out = JobRecord(segment=1, positions=list(range(20, 30)))
    two = {"track:1": seen(1), "track:2": seen(2), "shape:3": seen(2), "track:9": ObjectRecord("objects", 7, 7)}
    return Ledger(
        "http://cvat",
        rounds=[
            RoundRecord(1, EXEMPLARS, "2030-01-01T00:00:00", [task(1, first)], Actions(masks=3, examined=2).to_dict()),
            RoundRecord(
                2,
                REVIEW,
                "2030-01-02T00:00:00",
                [task(2, back, out, objects=two)],
                Actions(edited=2, located=2, redrawn=0.5, examined=20).to_dict(),
                edits={"redrawn": 2, "deleted": 1, "split": 0, "verdicts": 3},
                truth=0.875,
            ),
            RoundRecord(3, REVIEW, "2030-01-03T00:00:00", [task(3, JobRecord(segment=0, positions=[1, 2]))]),
        ],
    )


def test_a_row_says_what_a_round_was() -> None:
    first, review, out = history_of(ledger())
    assert (first.round, first.kind, first.jobs, first.collected, first.sent, first.seen) == (
        1,
        "exemplars",
        1,
        1,
        2,
        2,
    )
    assert first.edits == first.verdicts == {}
    assert first.truth is None
    assert (review.jobs, review.collected, review.sent, review.seen, review.objects) == (2, 1, 30, 20, 2)
    assert review.edits == {"deleted": 1, "redrawn": 2, "verdicts": 3}
    assert (first.changes, review.changes, out.changes) == ({"drawn": 3}, {"deleted": 1, "redrawn": 2}, {})
    assert review.verdicts == {"fix": 1, "satisfactory": 2}
    assert (review.open_issues, review.resolved_issues, review.truth) == (1, 1, 0.875)
    assert first.minutes == pytest.approx((3 * 80 + 0.2) / 60)
    assert review.minutes == pytest.approx((2 * 1 + 2 * 1 + 0.5 * 80 + 20 * 0.1) / 60)
    assert review.total_minutes == out.total_minutes == pytest.approx(first.minutes + review.minutes)
    assert (out.seen, out.minutes, out.actions) == (0, 0.0, Actions())


def test_a_history_is_over_when_nothing_is_with_people() -> None:
    found = ledger()
    assert not history_of(found).is_over
    for _, job in found.jobs():
        job.collected = True
    history = history_of(found, EffortModel(mask=10))
    assert history.is_over
    assert not history_of(Ledger("http://cvat")).is_over
    assert (len(history), history[-1].round, history.truth) == (3, 3, 0.875)
    assert history.minutes == pytest.approx((30.2 + 4 + 5 + 2) / 60)


def test_it_is_shown_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    history = history_of(ledger(), anno_key="street")
    history.print()
    told = capsys.readouterr().out
    for words in (
        "Run street",
        "1 deleted, 2 redrawn ",
        "1 fix, 2 satisfactory",
        "20 of 30",
        "1 open of 2",
        "0.875",
        "3 drawn",
    ):
        assert words in told
    document = json.loads(json.dumps(history.to_dict()))
    assert [row["kind"] for row in document["rounds"]] == ["exemplars", "review", "review"]
    assert document["rounds"][1]["actions"]["redrawn"] == 0.5
    assert document["truth"] == 0.875


@pytest.mark.parametrize("columns", [70, 80, 100, 120])
def test_no_word_of_it_is_cut_in_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Console(width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr("labelprop_cvat.backend.history.console", lambda: out)
    history_of(ledger(), anno_key="street").print()
    told = capsys.readouterr().out
    for words in (
        "1 exemplars",
        "2 review",
        "3 drawn",
        "1 deleted",
        "2 redrawn",
        "2 satisfactory",
        "20 of 30",
        "0.875",
    ):
        assert words in told
    assert max(map(len, told.splitlines())) <= columns
    assert ("1 open of 2" in told) is (columns >= 100)


def test_it_is_drawn(tmp_path: Path) -> None:
    found = ledger()
    figure = history_of(found, anno_key="$1").plot(tmp_path / "new" / "loop.svg")
    assert (tmp_path / "new" / "loop.svg").read_text(encoding="utf-8").startswith("<?xml")
    curve, bars = figure.axes
    (line,) = curve.lines
    assert list(line.get_ydata()) == [0.875]
    assert sum(patch.get_height() for patch in bars.patches) == 3 + 3
    for round_ in found.rounds:
        round_.truth = None
    assert len(history_of(found).plot().axes) == 1
    with pytest.raises(ConfigurationError, match=r"\.png or \.svg, got 'loop\.gif'"):
        history_of(found).plot(tmp_path / "loop.gif")
    with pytest.raises(ConfigurationError, match="no rounds"):
        history_of(Ledger("http://cvat")).plot()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        history_of(found).plot(tmp_path / "file" / "loop.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A loaded run whose dataset holds the truth, under other numbers than the run gave."""
    dataset = image_dataset(write_images(tmp_path_factory.mktemp("frames"), FRAMES))
    with LocalCVAT(anonymous_rate=None) as server:
        first_round(server, dataset, exemplars="every:4")
        truth = [
            fo.Detections(
                detections=[
                    fo.Detection.from_mask(mask, label=str(10 - index), index=10 - index)
                    for index, mask in scene_masks(number).items()
                ]
            )
            for number in range(FRAMES)
        ]
        dataset.sort_by("number").set_values("truth", truth, progress=False)
        yield dataset.load_annotation_results("run")


def test_how_good_the_labels_are_is_measured_by_the_truth(run: Any) -> None:
    run.config.gt_field = "truth"
    there = sorted([*run.dataset.get_field_schema(), *run.dataset.list_evaluations()])
    expected = []
    for sample in run.dataset.sort_by("number"):
        true = scene_masks(sample["number"])
        for label in sample["objects_propagated"].detections:
            held = label.to_segmentation(frame_size=(128, 72)).mask > 0
            expected.append((held & true[label.index]).sum() / (held | true[label.index]).sum())
    assert len(expected) == 2 * FRAMES
    assert min(expected) < 0.9 < max(expected) == 1
    assert mean_truth(run) == pytest.approx(sum(expected) / len(expected))
    assert sorted([*run.dataset.get_field_schema(), *run.dataset.list_evaluations()]) == there


def test_what_is_missing_or_too_much_counts_nothing(run: Any) -> None:
    run.config.gt_field = "truth"
    before = mean_truth(run)
    view = run.dataset.sort_by("number").limit(1)
    (held,) = view.values("truth")
    view.set_values("truth", [fo.Detections(detections=held.detections[:1])], progress=False)
    assert mean_truth(run) == pytest.approx(before - 1 / (2 * FRAMES))
    # What nobody annotated tells nothing.
    view.set_values("truth", [None], progress=False)
    assert mean_truth(run) == pytest.approx((before * 2 * FRAMES - 2) / (2 * FRAMES - 2))
    view.set_values("truth", [held], progress=False)
    assert mean_truth(run) == pytest.approx(before)


def test_a_truth_that_cannot_be_read_is_no_reason_to_fail(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    run.config.gt_field = None
    assert mean_truth(run) is None
    assert not caplog.records
    run.config.gt_field = "nothing"
    assert mean_truth(run) is None
    assert "has no field 'nothing'" in caplog.text
