"""The ledger survives the database and deleted samples."""

from __future__ import annotations

import json

from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    JobRecord,
    LabelRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SegmentRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)


def ledger() -> Ledger:
    sequence = SequenceRecord(
        key="s",
        name="street",
        media_type="image",
        size=[4, 6],
        sample_ids=list("abcdef"),
        frame_numbers=[],
        segments=[
            SegmentRecord(0, 3, "one", [0, 2], signature="x", absences=[[1, 2]]),
            SegmentRecord(3, 6, "two", [3], signature="y"),
        ],
        label_ids={"1:0": "l0", "1:2": "l2", "2:3": "l3"},
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
        objects={"track:7": ObjectRecord(1, 1, {"0": SightingRecord("l0", "f"), "2": SightingRecord("l2", "g")})},
    )
    return Ledger(url="u", sequences={"s": sequence}, rounds=[RoundRecord(1, "exemplars", "now", [task])])


def test_it_comes_back_from_json_as_it_was() -> None:
    assert Ledger.from_dict(json.loads(json.dumps(ledger().to_dict()))) == ledger()


def test_deleted_images_leave_their_place_in_the_job_and_nowhere_else() -> None:
    changed = ledger()
    changed.forget_frames("s", [1, 2])
    record = changed.sequences["s"]
    (task,) = changed.tasks()
    assert record.sample_ids == list("adef")
    assert [(s.start, s.stop, s.exemplars, s.absences) for s in record.segments] == [(0, 1, [0], []), (1, 4, [1], [])]
    assert record.label_ids == {"1:0": "l0", "2:1": "l3"}
    assert [job.positions for job in task.jobs] == [[0, NO_POSITION], [1]]
    assert task.objects["track:7"].sightings == {"0": SightingRecord("l0", "f")}


def test_a_deleted_video_takes_its_tasks_along() -> None:
    changed = ledger()
    changed.forget_sequence("s")
    assert not changed.sequences
    assert not list(changed.tasks())
