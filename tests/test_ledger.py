"""The ledger survives the database and deleted samples."""

from __future__ import annotations

import json

import pytest

from labelprop_cvat.backend.ledger import (
    LEDGER_VERSION,
    NO_POSITION,
    FieldRecord,
    FillRecord,
    JobRecord,
    LabelRecord,
    Ledger,
    MeasuredRecord,
    ObjectRecord,
    RoundRecord,
    SegmentRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.errors import DataError


def ledger() -> Ledger:
    sequence = SequenceRecord(
        key="s",
        name="street",
        media_type="image",
        size=[4, 6],
        sample_ids=list("abcdef"),
        frame_numbers=[],
        segments=[
            SegmentRecord(0, 3, "one", [0, 2], {"objects": FillRecord("x", [[1, 2]])}),
            SegmentRecord(3, 6, "two", [3], {"objects": FillRecord("y")}),
        ],
        fields={"objects": FieldRecord(label_ids={"1:0": "l0", "1:2": "l2", "2:3": "l3"})},
        sizes=[[4, width] for width in range(6)],
    )
    task = TaskRecord(
        sequence="s",
        name="t",
        marker="m",
        jobs=[JobRecord(0, [0, 2], id=5), JobRecord(1, [3], start_frame=2, id=6)],
        file_names=["a", "c", "d"],
        step="ready",
        id=1,
        labels={"car": LabelRecord(3, {"index": 9})},
        objects={
            "track:7": ObjectRecord(
                "objects", 1, 1, 0, {"0": SightingRecord("l0", "f"), "2": SightingRecord("l2", "g")}
            )
        },
    )
    return Ledger(url="u", sequences={"s": sequence}, rounds=[RoundRecord(1, "exemplars", "now", [task])])


def test_it_comes_back_from_json_as_it_was() -> None:
    assert Ledger.from_dict(json.loads(json.dumps(ledger().to_dict()))) == ledger()


def test_what_later_rounds_add_comes_back_and_moves_along() -> None:
    changed = ledger()
    fill = changed.sequences["s"].segments[0].fill("objects")
    fill.measured = [MeasuredRecord(2, 1, 1, 0.5, None, 1, 0.25), MeasuredRecord(2, 1, 2, 0.5, 0.75, 1, 0.5)]
    (task,) = changed.tasks()
    task.offers = {"objects": "filled"}
    task.jobs[0].offered = {"objects": [[1, 0], [1, 2]]}
    changed.rounds[0].actions = {"masks": 3}
    assert Ledger.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    changed.forget_frames("s", [1])
    assert fill.measured == [MeasuredRecord(2, 1, 1, 0.5, 0.75, 1, 0.5)]
    assert task.jobs[0].offered == {"objects": [[1, 0], [1, 1]]}


def test_deleted_images_leave_their_place_in_the_job_and_nowhere_else() -> None:
    changed = ledger()
    changed.forget_frames("s", [1, 2])
    record = changed.sequences["s"]
    (task,) = changed.tasks()
    assert record.sample_ids == list("adef")
    assert [(s.start, s.stop, s.exemplars) for s in record.segments] == [(0, 1, [0]), (1, 4, [1])]
    assert [segment.fill("objects") for segment in record.segments] == [FillRecord(), FillRecord()]
    assert [record.size_at(position)[1] for position in range(4)] == [0, 3, 4, 5]
    assert record.identities("objects").label_ids == {"1:0": "l0", "2:1": "l3"}
    assert [job.positions for job in task.jobs] == [[0, NO_POSITION], [1]]
    assert task.objects["track:7"].sightings == {"0": SightingRecord("l0", "f")}


def test_a_deleted_video_takes_its_tasks_along() -> None:
    changed = ledger()
    changed.forget_sequence("s")
    assert not changed.sequences
    assert not list(changed.tasks())


def test_a_ledger_of_version_1_is_read_as_one_of_its_only_field() -> None:
    now = ledger()
    now.sequences["s"].sizes = []
    old = now.to_dict()
    sequence = old["sequences"]["s"]
    sequence.update(sequence.pop("fields")["objects"])
    for segment in sequence["segments"]:
        fill = segment.pop("fills")["objects"]
        segment.update({name: fill[name] for name in ("signature", "absences", "seconds")})
    for name in ("sizes", "independent"):
        del sequence[name]
    for entry in old["rounds"][0]["tasks"][0]["objects"].values():
        del entry["label_field"], entry["part"]
    del old["rounds"][0]["tasks"][0]["adopted"], old["asked"]
    assert Ledger.from_dict(json.loads(json.dumps({**old, "version": 1})), "objects") == now


def test_a_ledger_of_version_2_knows_of_one_round_only() -> None:
    now = ledger()
    old = now.to_dict()
    for segment in old["sequences"]["s"]["segments"]:
        del segment["fills"]["objects"]["measured"]
    (task,) = old["rounds"][0]["tasks"]
    del old["rounds"][0]["actions"], task["offers"]
    for job in task["jobs"]:
        del job["offered"]
    assert Ledger.from_dict(json.loads(json.dumps({**old, "version": 2}))) == now


def test_a_ledger_of_version_3_knows_of_no_reviews() -> None:
    now = ledger()
    old = now.to_dict()
    for segment in old["sequences"]["s"]["segments"]:
        fill = segment["fills"]["objects"]
        for name in ("prompts", "said_absent", "rejected", "satisfied", "reviewed", "made_with"):
            del fill[name]
    (round_,) = old["rounds"]
    for name in ("pending", "edits", "truth", "options"):
        del round_[name]
    (task,) = round_["tasks"]
    del task["video"]
    for job in task["jobs"]:
        del job["verdicts"], job["issues"], job["confirmed"]
    for entry in task["objects"].values():
        for seen in entry["sightings"].values():
            del seen["machine"]
    found = Ledger.from_dict(json.loads(json.dumps({**old, "version": 3})))
    assert found == now
    assert not found.under_review()
    assert len(list(found.annotation_jobs())) == 2


def test_a_ledger_of_a_later_version_is_refused() -> None:
    with pytest.raises(DataError, match="Update labelprop-cvat"):
        Ledger.from_dict({**ledger().to_dict(), "version": LEDGER_VERSION + 1})
