"""How far a run is: its jobs and what reviewers said, which of them come back, and waiting for them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, write_images, write_video
from rich.console import Console

from labelprop_cvat.backend import status
from labelprop_cvat.backend.cvat import Credentials, CVATClient, Issue, RetryPolicy, Unreachable
from labelprop_cvat.backend.cvat import session as cvat_session
from labelprop_cvat.backend.cvat.models import Comment
from labelprop_cvat.backend.ledger import (
    EXEMPLARS,
    REVIEW,
    IssueRecord,
    JobRecord,
    Ledger,
    ObjectRecord,
    RoundRecord,
    SegmentRecord,
    SequenceRecord,
    SightingRecord,
    TaskRecord,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, DataError

OPTIONS: dict[str, Any] = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:4",
    "exemplars": "every:2",
    "engine": "hold",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    users = {"lead": "pw-lead", "ann": "pw-ann"}
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), users=users, anonymous_rate=None) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults(server: LocalCVAT) -> Iterator[None]:
    yield
    server.faults.clear()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture
def run(server: LocalCVAT, frames: list[Path]) -> Any:
    """A run of two jobs of two frames each."""
    return image_dataset(frames).annotate("run", **OPTIONS, **login(server), job_assignees=["ann"])


@contextmanager
def calls_to(server: LocalCVAT) -> Iterator[list[tuple[str, str]]]:
    """Every request that reaches the server, as method and path."""
    seen: list[tuple[str, str]] = []
    following = server.faults.next

    def note(method: str, path: str) -> Any:
        seen.append((method, path))
        return following(method, path)

    server.faults.next = note  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del server.faults.next


@contextmanager
def as_user(server: LocalCVAT, name: str) -> Iterator[CVATClient]:
    with CVATClient(server.url, Credentials(name, f"pw-{name}")) as client:
        yield client


def finish(server: LocalCVAT, *job_ids: int, **changes: str) -> None:
    with client_of(server) as client:
        for job_id in job_ids:
            client.update_job(job_id, **(changes or {"state": "completed"}))


def jobs_of(run: Any) -> list[int]:
    return [job.id for _, job in run.ledger.jobs()]


def reviewed(collected: bool = False) -> Ledger:
    """A run with a round of exemplars, and a review of a track and a mask, about which there are doubts."""
    names = [f"{number:02d}.png" for number in range(4)]
    annotated = JobRecord(segment=0, positions=[2], id=5, collected=True)
    doubts = [
        IssueRecord("objects", 1, 4, 4, 6, "car 1: expected IoU 0.30", id=31),
        IssueRecord("masks", 2, 3, 3, 4, "person 2: expected IoU 0.50", id=32),
        IssueRecord("objects", 1, 2, 2, 3, "car 1: not shown", id=33),
        IssueRecord("masks", 2, 5, 5, 6, "person 2: closed", id=34, resolved=True),
    ]
    job = JobRecord(segment=0, positions=[2, 3, 4, 5], start_frame=10, id=6, stage="validation", issues=doubts)
    job.collected, job.verdicts = collected, {"objects": {"1": "fix"}, "masks": {"2": "satisfactory", "3": "fix"}}
    objects = {
        "track:71": ObjectRecord(
            "objects", 1, 1, sightings={"2": SightingRecord(""), "3": SightingRecord("", machine=True)}
        ),
        "track:72": ObjectRecord("objects", 2, 2, sightings={"2": SightingRecord("", machine=True)}),
        "shape:81": ObjectRecord("masks", 2, 2, sightings={"2": SightingRecord("", machine=True)}),
        "shape:82": ObjectRecord("masks", 2, 2, sightings={"3": SightingRecord("a" * 24)}),
    }
    sequence = SequenceRecord("clip", "street", "image", [8, 8], [f"{n:024d}" for n in range(6)], [], [])
    sequence.segments = [SegmentRecord(2, 6, "shot 2", [2])]
    return Ledger(
        "http://cvat",
        sequences={"clip": sequence},
        rounds=[
            RoundRecord(1, EXEMPLARS, "", [TaskRecord("clip", "street", "m1", [annotated], ["02.png"], "ready", 3)]),
            RoundRecord(
                2, REVIEW, "", [TaskRecord("clip", "street review 2", "m2", [job], names, "ready", 4, objects=objects)]
            ),
        ],
    )


def rows_of(ledger: Ledger, outlook: status.Outlook | None = None) -> list[dict[str, Any]]:
    return status.status_rows(
        ledger, outlook, url="http://cvat/", job_states=["completed"], job_stages=status.JOB_STAGES
    )


def test_a_review_has_links_to_what_is_doubted(capsys: pytest.CaptureFixture[str]) -> None:
    first, review = rows_of(reviewed())
    assert (first["kind"], first["verdicts"], first["doubts"]) == ("exemplars", None, None)
    assert (review["kind"], review["verdicts"]) == ("review", None)
    assert [doubt["frame"] for doubt in review["doubts"]] == [12, 11, 10]
    track, mask, hidden = (doubt["url"] for doubt in review["doubts"])
    assert track == "http://cvat/tasks/4/jobs/6?frame=12&type=track&serverID=71"
    assert mask == "http://cvat/tasks/4/jobs/6?frame=11&type=shape&serverID=82"
    # Nothing can be selected where the object is not shown.
    assert hidden == "http://cvat/tasks/4/jobs/6?frame=10"
    status.print_rows("Run", [first, review])
    told = capsys.readouterr().out
    assert "2 review" in told
    assert "Look first, in job 6 (street shot 2):" in told
    assert told.index("expected IoU 0.30") < told.index(track) < told.index("expected IoU 0.50")
    assert "closed" not in told
    assert "not filled anew before that is loaded: street shot 2" in told


def test_a_review_that_came_back_has_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(reviewed(collected=True))
    assert rows[1]["verdicts"] == {"fix": 2, "satisfactory": 1}
    json.dumps(rows)
    status.print_rows("Run", rows)
    told = capsys.readouterr().out
    assert "2 fix, 1 satisfactory" in told
    assert "Out for review" not in told


@pytest.mark.parametrize("columns", [80, 120])
def test_no_word_of_it_is_cut_in_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Console(width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr(status, "console", lambda: out)
    status.print_rows("Run", rows_of(reviewed(collected=True)))
    told = capsys.readouterr().out
    for words in ("2 review", "street", "shot 2", "2 fix", "1 satisfactory"):
        assert words in told
    lines = told[: told.index("1 satisfactory")].splitlines()
    assert max(map(len, lines)) <= columns
    assert ("propagated" in told) is (columns == 120)


def test_doubts_that_a_reviewer_closed_are_gone_and_many_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = reviewed()
    (_, job) = list(ledger.jobs())[1]
    message = {"id": 1, "issue": 32, "created_date": None, "owner": None}
    issue = Issue.from_json({"id": 31, "job": 6, "frame": 12, "position": [1, 2], "resolved": True, "owner": None})
    other = Issue.from_json(
        {"id": 32, "job": 6, "frame": 11, "position": [1, 2], "resolved": False, "owner": None},
        [Comment.from_json({**message, "message": "person 2: expected IoU 0.50"})],
    )
    rows = rows_of(ledger, status.Outlook({}, {6: [issue, other]}))
    assert [doubt["index"] for doubt in rows[1]["doubts"]] == [2, 1]
    assert rows[1]["open_issues"] == 1
    status.print_rows("Run", rows)
    # Not told twice, as a doubt and as what a reviewer wrote.
    assert capsys.readouterr().out.count("person 2: expected IoU 0.50") == 1
    job.issues = [IssueRecord("objects", 1, 4, 4, 6, f"doubt {number}") for number in range(9)]
    status.print_rows("Run", rows_of(ledger))
    told = capsys.readouterr().out
    assert "doubt 4" in told
    assert "doubt 5" not in told
    assert "and 4 more, as issues in CVAT" in told


# --- what it says --------------------------------------------------------------------------------------------------


def test_a_row_says_how_far_a_job_is_and_where(server: LocalCVAT, run: Any) -> None:
    first, second = jobs_of(run)
    finish(server, first, stage="validation", state="completed")
    one, other = run.get_status()
    assert (one["stage"], one["state"], one["finished"], one["assignee"]) == ("validation", "completed", True, "ann")
    assert (other["stage"], other["state"], other["finished"], other["job_id"]) == ("annotation", "new", False, second)
    assert one["url"] == f"{server.url}/tasks/{one['task_id']}/jobs/{first}"
    assert (one["frames"], one["objects"], one["collected"], one["propagated"]) == (2, None, False, False)
    assert (one["open_issues"], one["resolved_issues"], one["issues"]) == (0, 0, [])
    json.dumps(one)


def test_without_asking_the_server(server: LocalCVAT, run: Any) -> None:
    finish(server, *jobs_of(run))
    with calls_to(server) as calls:
        rows = run.get_status(refresh=False)
    assert calls == []
    assert {row["state"] for row in rows} == {"new"}
    assert {row["issues"] for row in rows} == {None}


def test_what_reviewers_said(server: LocalCVAT, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    second = jobs_of(run)[1]
    with client_of(server) as lead, as_user(server, "ann") as ann:
        issue = lead.create_issue(second, 3, [4, 5, 60, 40], "the :car: is [bold]not[/] tight")
        ann._session.json("POST", "/api/comments", json={"issue": issue.id, "message": "which side?\x1b[2J"})
        done = lead.create_issue(second, 2, [1, 1], "no such thing")
        lead.resolve_issue(done.id)
    one, other = run.get_status()
    assert one["issues"] == []
    assert (other["open_issues"], other["resolved_issues"]) == (1, 1)
    found, resolved = other["issues"]
    assert (found["resolved"], resolved["resolved"]) == (False, True)
    assert (found["who"], found["message"], found["frame"]) == ("lead", "the :car: is [bold]not[/] tight", 3)
    assert [(comment["who"], comment["message"]) for comment in found["comments"]] == [("ann", "which side?\x1b[2J")]
    assert found["position"] == [4, 5, 60, 40]
    assert found["url"] == f"{server.url}/tasks/{other['task_id']}/jobs/{second}?frame=3"
    # The fourth frame in CVAT is the seventh image: every second one was sent.
    assert found["sample_id"] == run.dataset.values("id")[6]
    assert (found["file"], found["frame_number"]) == ("0006.png", None)
    run.print_status()
    shown = capsys.readouterr().out
    assert "the :car: is [bold]not[/] tight" in shown
    assert "which side?\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "\x1b" not in shown
    assert found["url"] in shown
    assert "no such thing" not in shown
    assert "1 open of 2" in shown


def test_an_issue_on_a_video_frame(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(str(write_video(tmp_path / "clip.mp4", 6))))
    options = {**OPTIONS, "label_field": "frames.objects", "sort_field": None, "segmentation": "none"}
    results = dataset.annotate("run", **options, **login(server))
    (job_id,) = jobs_of(results)
    with client_of(server) as client:
        client.create_issue(job_id, 1, [1, 1], "here")
    (row,) = results.get_status()
    assert row["issues"][0]["sample_id"] == dataset.first().id
    assert row["issues"][0]["frame_number"] == 3


def test_a_task_that_is_gone_hides_no_other(
    server: LocalCVAT, frames: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    results = image_dataset(frames).annotate("run", **OPTIONS, **login(server), task_size=2)
    gone, left = [task.server_id for task in results.ledger.tasks()]
    with client_of(server) as client:
        client.delete_task(gone)
    one, other = results.get_status()
    assert (one["state"], one["finished"], other["state"]) == ("gone", False, "new")
    assert f"Task {gone} " in caplog.text
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url, **kwargs: opened.append(url))
    results.launch_editor()
    assert opened == [other["url"]]
    with pytest.raises(DataError, match=f"forget_task\\({gone}\\)"):
        results.wait(timeout=0)
    assert left == other["task_id"]


# --- which jobs come back ------------------------------------------------------------------------------------------


def collected(run: Any) -> list[bool]:
    run.dataset.load_annotations("run")
    return [row["collected"] for row in run.get_status(refresh=False)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True]),
        ({"job_stages": "acceptance"}, [False, True]),
        ({"job_stages": ["annotation", "validation"]}, [True, False]),
        ({"job_states": ["new"], "job_stages": "annotation"}, [False, False]),
        ({"job_states": ["completed", "new"], "job_stages": "acceptance"}, [False, True]),
    ],
)
def test_states_and_stages_choose_jobs(
    server: LocalCVAT, frames: list[Path], options: dict[str, Any], expected: list[bool]
) -> None:
    run = image_dataset(frames).annotate("run", **OPTIONS, **login(server), **options)
    first, second = jobs_of(run)
    finish(server, first, stage="validation", state="completed")
    finish(server, second, stage="acceptance")
    assert [row["finished"] for row in run.get_status()] == expected
    assert collected(run) == expected


def test_one_load_may_take_other_jobs(server: LocalCVAT, frames: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    dataset = image_dataset(frames)
    run = dataset.annotate("run", **OPTIONS, **login(server))
    dataset.load_annotations("run")
    assert "job_states=" in caplog.text
    with pytest.raises(ConfigurationError, match="job_states is one or several of"):
        dataset.load_annotations("run", job_states="finished")
    dataset.load_annotations("run", job_states="new")
    assert [job.collected for _, job in run.ledger.jobs()] == [True, True]
    assert run.config.job_states == ["completed"]


def test_rejected_jobs_stay(server: LocalCVAT, run: Any) -> None:
    first, second = jobs_of(run)
    finish(server, first, state="rejected")
    finish(server, second)
    assert collected(run) == [False, True]


@pytest.mark.parametrize("options", [{"job_stages": "review"}, {"job_states": []}, {"job_states": "done"}])
def test_stages_and_states_that_are_none(server: LocalCVAT, frames: list[Path], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} is one or several of"):
        image_dataset(frames).annotate("run", **OPTIONS, **login(server), **options)


def test_ground_truth_jobs_are_nobodys_labels(server: LocalCVAT, run: Any) -> None:
    first, second = jobs_of(run)
    (task,) = run.ledger.tasks()
    with client_of(server) as client:
        truth = client._session.json(
            "POST",
            "/api/jobs",
            json={
                "task_id": task.server_id,
                "type": "ground_truth",
                "frame_selection_method": "manual",
                "frames": [0],
            },
        )
        label = client.labels(task.server_id)[0].id
        box = {"type": "rectangle", "frame": 0, "points": [1, 1, 50, 50], "label_id": label}
        client._session.json(
            "PATCH",
            f"/api/jobs/{truth['id']}/annotations?action=create",
            json={"version": 0, "tags": [], "shapes": [box], "tracks": []},
        )
        client.update_job(truth["id"], state="completed")
    finish(server, first, second)
    assert [row["job_id"] for row in run.get_status()] == [first, second]
    run.dataset.load_annotations("run")
    assert run.dataset.count("objects.detections") == 0


def test_frames_deleted_in_cvat_are_not_looked_at(server: LocalCVAT, run: Any) -> None:
    annotate_by_script(server, run)
    (task,) = run.ledger.tasks()
    with client_of(server) as client:
        client._session.json("PATCH", f"/api/tasks/{task.server_id}/data/meta", json={"deleted_frames": [1]})
    run.dataset.load_annotations("run")
    counts = run.dataset.sort_by("number").values(fo.ViewField("objects.detections").length())
    assert [bool(count) for count in counts] == [True, False, False, False, True, False, True, False]
    assert run.dataset.count("objects_propagated.detections") > 0


# --- waiting -------------------------------------------------------------------------------------------------------


@contextmanager
def meanwhile(act: Callable[[], Any], after: float = 0.3) -> Iterator[None]:
    timer = threading.Timer(after, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_waiting_ends_when_all_are_finished(server: LocalCVAT, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "labelprop_cvat")
    first, second = jobs_of(run)
    finish(server, first)
    with meanwhile(lambda: finish(server, second)):
        assert run.wait(timeout=30, interval=0.1) is True
    told = [record.message for record in caplog.records if "finished" in record.message]
    assert "1 of 2 jobs are finished (1 annotation completed, 1 annotation new)" in told[0]
    assert "all 2 jobs are finished" in told[-1]
    # A line for news only.
    assert len(told) == 2


def test_waiting_ends_with_the_time(server: LocalCVAT, run: Any) -> None:
    started = time.monotonic()
    assert run.wait(timeout=0.4, interval=0.1) is False
    assert 0.4 <= time.monotonic() - started < 5
    assert run.wait(timeout=0) is False
    finish(server, *jobs_of(run))
    assert run.wait(timeout=0) is True


def test_waiting_for_other_states(server: LocalCVAT, run: Any) -> None:
    first, second = jobs_of(run)
    finish(server, first, state="in progress")
    finish(server, second, state="completed")
    assert run.wait(timeout=0) is False
    assert run.wait(timeout=0, states=["in progress", "completed"]) is True
    assert run.wait(timeout=0, states=["in progress", "completed"], stages="validation") is False
    with pytest.raises(ConfigurationError, match="job_states is one or several of"):
        run.wait(timeout=0, states="done")


def test_waiting_asks_little_and_never_logs_in_again(server: LocalCVAT, run: Any) -> None:
    with calls_to(server) as calls:
        run.wait(timeout=0.6, interval=0.1)
    assert ("POST", "/api/auth/login") not in calls
    assert {path for _, path in calls} == {"/api/jobs"}
    # After 0, 0.1, 0.25, 0.475 seconds and at the end, each time a little later than that.
    assert len(calls) <= 5


def test_pauses_grow_to_a_minute_and_news_begin_anew() -> None:
    pace = status.Pace(None, 10)
    pauses = [pace.pause(news=False) for _ in range(8)]
    assert pauses == [10, 15, 22.5, 33.75, 50.625, 60, 60, 60]
    assert pace.pause(news=True) == 10
    assert pace.pause(news=False) == 15
    assert status.Pace(None, 300).pause(news=False) == 300
    assert status.Pace(5, 10).pause(news=False) <= 5


def test_pauses_heed_how_busy_the_server_is() -> None:
    assert status.Pace(None, 5).pause(news=True, took=20) == 180
    assert status.Pace(None, 5).pause(news=True, took=100) == 300
    assert status.Pace(None, 5).pause(news=False, asked=600) == 600
    assert status.Pace(60, 5).pause(news=False, asked=600) <= 60


def test_tasks_that_are_done_are_asked_about_at_the_end_only(server: LocalCVAT, frames: list[Path]) -> None:
    run = image_dataset(frames).annotate("run", **OPTIONS, **login(server), task_size=2)
    first, second = jobs_of(run)
    finish(server, first)
    asked: list[int] = []
    jobs = run.connect_to_api().jobs
    run.connect_to_api().jobs = lambda task_id: asked.append(task_id) or jobs(task_id)
    done, left = run.task_ids

    def reopen() -> None:
        # Opened again while the other one is waited for.
        finish(server, first, state="in progress")
        finish(server, second)

    with meanwhile(reopen, 0.5), meanwhile(lambda: finish(server, first), 2.5):
        assert run.wait(timeout=30, interval=0.2) is True
    assert asked[:3] == [done, left, left]
    assert asked[-2:] == [done, left]
    assert asked.count(done) > 2


def test_a_server_that_wants_to_be_left_alone_for_long_is(
    server: LocalCVAT, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    pause = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            pause(seconds)
            return
        slept.append(seconds)
        server.faults.add("GET", "/api/jobs$", 429, times=1, retry_after=900)
        if len(slept) > 1:
            server.faults.clear()
            finish(server, *jobs_of(run))

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert run.wait(interval=1) is True
    assert [round(seconds) for seconds in slept[:2]] == [1, 900]


@pytest.mark.parametrize("wrong", [{"timeout": -1}, {"interval": 0}, {"timeout": float("nan")}])
def test_times_that_are_none(run: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="timeout of at least 0 seconds"):
        run.wait(**wrong)


def test_a_server_that_is_away_for_a_while_is_waited_for(
    server: LocalCVAT, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run.connect_to_api()._session.retry = RetryPolicy(attempts=1)

    def break_down() -> None:
        finish(server, *jobs_of(run))
        server.faults.add("GET", "/api/jobs$", "close", times=2)
        server.faults.add("GET", "/api/jobs$", 503, times=1)

    with meanwhile(break_down):
        assert run.wait(timeout=30, interval=0.2) is True
    assert caplog.text.count("CVAT does not answer") == 3


def test_a_server_that_is_not_there_at_first_is_an_error(server: LocalCVAT, frames: list[Path]) -> None:
    with LocalCVAT(anonymous_rate=None) as other:
        results = image_dataset(frames).annotate("run", **OPTIONS, **login(other))
        results.connect_to_api()._session.retry = RetryPolicy(attempts=1)
    with pytest.raises(Unreachable):
        results.wait(timeout=5, interval=0.1)


def test_waiting_takes_as_long_as_the_server_asks(server: LocalCVAT, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(cvat_session, "sleep", slept.append)
    server.faults.add("GET", "/api/jobs$", 429, times=1, retry_after=7)
    assert run.wait(timeout=0) is False
    assert [round(seconds) for seconds in slept] == [7]


def test_ctrl_c_leaves_everything_as_it_was(server: LocalCVAT, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    before = run.ledger.to_dict()
    monkeypatch.setattr(status.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    monkeypatch.undo()
    assert run.ledger.to_dict() == before
    finish(server, *jobs_of(run))
    assert run.wait(timeout=0) is True


def test_there_is_nothing_to_wait_for(server: LocalCVAT, run: Any) -> None:
    run.cleanup()
    with pytest.raises(DataError, match="has nothing in CVAT"):
        run.wait(timeout=0)


# --- on the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def configured(server: LocalCVAT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", "lead")
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", "pw-lead")


@pytest.mark.usefixtures("configured")
def test_status_as_json_and_as_a_table(server: LocalCVAT, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with client_of(server) as client:
        client.create_issue(jobs_of(run)[0], 0, [1, 1], "look here")
    capsys.readouterr()
    name = run.dataset.name
    assert main(["status", name, "run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["jobs"]
    assert [row["open_issues"] for row in rows] == [1, 0]
    assert rows[0]["issues"][0]["message"] == "look here"
    assert main(["status", name, "run"]) == 0
    shown = capsys.readouterr().out
    assert "look here" in shown
    assert f"{rows[0]['url']}?frame=0" in shown


@pytest.mark.usefixtures("configured")
def test_load_waits_for_people(server: LocalCVAT, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = jobs_of(run)
    finish(server, first)
    words = ["load", run.dataset.name, "run", "--wait"]
    assert main([*words, "0"]) == 3
    captured = capsys.readouterr()
    assert "1 of 2 jobs are finished" in captured.out
    assert "the wait is over" in captured.err
    with meanwhile(lambda: finish(server, second)):
        assert main([*words, "0.5"]) == 0
    assert "2 of 2 jobs are finished" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([*words, "-1"])
    assert exit_.value.code == 2
