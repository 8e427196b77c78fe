"""The local server answers as the recorded CVAT 2.54.1 did.

Every recorded request is sent again, in the recorded order, and its answer compared: status, headers that matter, keys
and types at every depth, and all values but dates, colours and secrets. Cases that need no recording are in
``test_local_cvat.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_local_cvat_replay import PASSWORDS, Replay, load_records

from labelprop_cvat.backend.local_cvat import LocalCVAT

TRACES = Path(__file__).resolve().parents[2] / "shared" / "cvat-2.54.1" / "traces"

RECORDED = 952
# Edits and calls that happened to the recorded server between the recordings.
MADE_UP = 15
LEFT_OUT = {
    "dataset export, which no client of this project uses": 4,
    "the OpenAPI document, which was not kept in the recording": 2,
    "the audit log, which no client of this project reads": 1,
}
# Compared less strictly than the rest, and why.
RELAXED = {
    "progress of a request: of status and message only the end is compared": 29,
    "a list of jobs asked for while the upload was processed: only its keys are compared": 17,
    "a list of all tasks, some made outside the recordings: only its keys are compared": 4,
}


def test_every_recording_gets_the_recorded_answers() -> None:
    if not TRACES.is_dir():
        pytest.skip(f"the recordings of the real server are not there: {TRACES}")
    records = load_records(TRACES)
    clock = [0.0]
    with LocalCVAT(users=PASSWORDS, clock=lambda: clock[0]) as server:
        outcome = Replay(server.url, records, lambda moment: clock.__setitem__(0, moment)).run()

    assert outcome.mismatches == []
    assert len(records) == RECORDED
    assert dict(outcome.left_out) == LEFT_OUT
    assert dict(outcome.relaxed) == RELAXED
    assert outcome.replayed == RECORDED - sum(LEFT_OUT.values())
    assert outcome.made_up == MADE_UP
