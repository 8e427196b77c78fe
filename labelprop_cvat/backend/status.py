"""How far people are with a run: its jobs, what reviewers said about them, and waiting for them."""

from __future__ import annotations

import logging
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from labelprop_cvat.backend.cvat import CVATClient, CVATTransportError, Issue, Job, ServerFailure, Throttled
from labelprop_cvat.backend.ledger import (
    NO_POSITION,
    REVIEW,
    IssueRecord,
    JobRecord,
    Ledger,
    SequenceRecord,
    TaskRecord,
)
from labelprop_cvat.backend.rounds import finishing_states, is_finished
from labelprop_cvat.errors import ConfigurationError, DataError

logger = logging.getLogger(__name__)

#: The state of a job that CVAT has not, or hides from this login.
GONE = "gone"

#: What a job's state may be in CVAT.
JOB_STATES = ("new", "in progress", "completed", "rejected")

#: What a job's stage may be in CVAT.
JOB_STAGES = ("annotation", "validation", "acceptance")

_WIDTH_WITHOUT_TERMINAL = 160
_LONGEST_WAIT_S = 60.0
_BUSIEST_S = 300.0
_SLOWER = 1.5
_SHOWN_DOUBTS = 5
_LONGEST_NAME = 24
_ANY_WIDTH = 10_000
_HEADINGS = (
    "sequence",
    "segment",
    "task",
    "job",
    "stage",
    "state",
    "assignee",
    "frames",
    "objects",
    "issues",
    "propagated",
)
# What a narrow terminal does without, in this order; the links hold the tasks.
_SPARED = ("stage", "task", "assignee", "objects", "propagated", "frames", "issues")

#: A cell of a table: a text, or several that stand one below the other where there is no room.
Cell = str | Text | Sequence[str]


def checked_states(states: str | Sequence[str]) -> list[str]:
    """One job state, or several, as a list.

    Raises:
        ConfigurationError: CVAT has no such state
    """
    return _checked("job_states", states, JOB_STATES)


def checked_stages(stages: str | Sequence[str] | None) -> list[str]:
    """One job stage, or several, as a list; all of them for None.

    Raises:
        ConfigurationError: CVAT has no such stage
    """
    return list(JOB_STAGES) if stages is None else _checked("job_stages", stages, JOB_STAGES)


def _checked(name: str, values: str | Sequence[str], choices: Sequence[str]) -> list[str]:
    found = [values] if isinstance(values, str) else list(values)
    wrong = [value for value in found if value not in choices]
    if wrong or not found:
        shown = repr(wrong[0]) if wrong else "none"
        raise ConfigurationError(f"{name} is one or several of {', '.join(map(repr, choices))}, got {shown}.")
    return found


@dataclass(frozen=True)
class Outlook:
    """What CVAT says about the tasks of a run right now.

    Args:
        jobs: jobs by their number
        issues: issues by the number of their job; None when nobody asked
    """

    jobs: Mapping[int, Job] = field(default_factory=dict)
    issues: Mapping[int, Sequence[Issue]] | None = None


def look(client: CVATClient, tasks: Iterable[TaskRecord], *, issues: bool = True) -> Outlook:
    """Asks the server about every job of some tasks. Changes nothing, there or here.

    A task that is gone has no jobs here; that is no error, so that the others can be told about.

    Args:
        client: connection to the server
        tasks: the tasks; those that are still on their way there are left out
        issues: whether to read what reviewers said, too
    """
    jobs: dict[int, Job] = {}
    found: dict[int, list[Issue]] = {}
    for task in tasks:
        if task.step != "ready":
            continue
        # Of a task that is not there, or hidden from this login, CVAT lists no jobs.
        there = client.jobs(task.server_id)
        if not there:
            logger.warning("Task %s (%s) is gone from CVAT, or hidden from this login.", task.id, task.name)
            continue
        jobs.update({job.id: job for job in there})
        for issue in client.task_issues(task.server_id) if issues else ():
            found.setdefault(issue.job_id, []).append(issue)
    return Outlook(jobs, found if issues else None)


def status_rows(
    ledger: Ledger,
    outlook: Outlook | None,
    *,
    url: str,
    job_states: Collection[str],
    job_stages: Collection[str],
) -> list[dict[str, Any]]:
    """One row for each job; see :meth:`~labelprop_cvat.backend.results.LabelPropResults.get_status`.

    Args:
        ledger: the run
        outlook: what the server says; None: what was last seen
        url: address of the server, for links
        job_states: states in which a job counts as finished
        job_stages: stages in which it does
    """
    rows = []
    rounds = {id(task): round_ for round_ in ledger.rounds for task in round_.tasks}
    for task, job in ledger.jobs():
        record, round_ = ledger.sequences[task.sequence], rounds[id(task)]
        segment = record.segments[job.segment]
        stage, state, assignee = _as_seen(task, job, outlook)
        asked = None if outlook is None else outlook.issues
        issues = None if asked is None else _issue_rows(url, record, task, job, asked.get(job.id or 0, ()))
        verdicts = Counter(verdict for said in job.verdicts.values() for verdict in said.values())
        rows.append(
            {
                "round": round_.number,
                "kind": round_.kind,
                "sequence": record.name,
                "segment": segment.label,
                "task_id": task.id,
                "task_name": task.name,
                "job_id": job.id,
                "url": job_url(url, task, job.id),
                "stage": stage,
                "state": state,
                "assignee": assignee,
                "finished": task.step == "ready"
                and is_finished(stage, state, finishing_states(ledger, round_, task, job_states), job_stages),
                "frames": len(job.positions),
                "objects": job.objects if job.collected else None,
                "collected": job.collected,
                "propagated": any(fill.signature is not None for fill in segment.fills.values()),
                "engine": next(
                    (f.engine for f in segment.fills.values() if f.signature is not None and f.engine), None
                ),
                "open_issues": None if issues is None else sum(not issue["resolved"] for issue in issues),
                "resolved_issues": None if issues is None else sum(issue["resolved"] for issue in issues),
                "issues": issues,
                "verdicts": dict(sorted(verdicts.items())) if round_.is_review and job.collected else None,
                "doubts": _doubt_rows(url, task, job, issues) if round_.is_review else None,
            }
        )
    return rows


def _doubt_rows(
    url: str, task: TaskRecord, job: JobRecord, issues: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """What the package doubts in a review job and nobody has closed yet, the worst first, with links to the objects."""
    closed = {issue["id"] for issue in issues or () if issue["resolved"]}
    return [
        {
            "label_field": doubt.label_field,
            "index": doubt.index,
            "frame": job.start_frame + job.positions.index(doubt.position),
            "message": doubt.message,
            "url": object_url(url, task, job, doubt),
        }
        for doubt in job.issues
        if not doubt.resolved and doubt.id not in closed and doubt.position in job.positions
    ]


def object_url(url: str, task: TaskRecord, job: JobRecord, doubt: IssueRecord) -> str | None:
    """The address that opens a job with the object of a doubt selected, or just its frame where it is not shown.

    Args:
        url: address of the server
        task: the task
        job: one of its jobs
        doubt: one about a frame of the job
    """
    frame = job.start_frame + job.positions.index(doubt.position)
    address = job_url(url, task, job.id, frame)
    if address is None or job.id is None:
        return address
    shown_as = shown_object(task, job, doubt)
    if shown_as is None:
        return address
    kind, number = shown_as.split(":", 1)
    return f"{address}&type={kind}&serverID={number}"


def shown_object(task: TaskRecord, job: JobRecord, doubt: IssueRecord) -> str | None:
    """What shows the object of a doubt on its frame, by the last look: its key in the task, or None where nothing does.

    Args:
        task: the task
        job: one of its jobs
        doubt: one about a frame of the job
    """
    inside = {position for position in job.positions if position != NO_POSITION}
    for key, entry in sorted(task.objects.items()):
        kind, number = key.split(":", 1)
        if (entry.label_field, entry.index) != (doubt.label_field, doubt.index) or not number.isdigit():
            continue
        shown_at = {
            int(place): bool(seen.label_id) or seen.machine
            for place, seen in entry.sightings.items()
            if int(place) in inside
        }
        if kind == "track":
            # It is shown where the last keyframe before shows it.
            last = max((place for place in shown_at if place <= doubt.position), default=None)
            is_there = last is not None and shown_at[last]
        else:
            is_there = shown_at.get(doubt.position, False)
        if is_there:
            return key
    return None


def _as_seen(task: TaskRecord, job: JobRecord, outlook: Outlook | None) -> tuple[str, str, str | None]:
    if task.step != "ready":
        return job.stage, f"upload {task.step}", job.assignee
    if outlook is None:
        return job.stage, job.state, job.assignee
    now = outlook.jobs.get(job.id or 0)
    if now is None:
        return job.stage, GONE, None
    return now.stage, now.state, now.assignee.username if now.assignee else None


def job_url(url: str, task: TaskRecord, job_id: int | None, frame: int | None = None) -> str | None:
    """The address of a job in CVAT's web pages, of its task while it has no job, or None while there is no task.

    Args:
        url: address of the server
        task: the task
        job_id: the job
        frame: opens the job there; CVAT's 0-based number of the frame in its task
    """
    if task.id is None:
        return None
    base = f"{url.rstrip('/')}/tasks/{task.id}"
    if job_id is None:
        return base
    return f"{base}/jobs/{job_id}" if frame is None else f"{base}/jobs/{job_id}?frame={frame}"


def _issue_rows(
    url: str, record: SequenceRecord, task: TaskRecord, job: JobRecord, issues: Sequence[Issue]
) -> list[dict[str, Any]]:
    rows = []
    for issue in issues:
        first, *others = issue.comments or (None,)
        rows.append(
            {
                "id": issue.id,
                "resolved": issue.resolved,
                "frame": issue.frame,
                "file": task.file_names[issue.frame] if 0 <= issue.frame < len(task.file_names) else None,
                **_place(record, job.position_of(issue.frame)),
                "who": issue.owner.username if issue.owner else None,
                "when": _iso(issue.created_date),
                "message": first.message if first else "",
                "comments": [
                    {
                        "who": comment.owner.username if comment.owner else None,
                        "when": _iso(comment.created_date),
                        "message": comment.message,
                    }
                    for comment in others
                    if comment is not None
                ],
                "position": list(issue.position),
                "url": job_url(url, task, job.id, issue.frame),
            }
        )
    return rows


def _place(record: SequenceRecord, position: int | None) -> dict[str, Any]:
    """Where FiftyOne keeps a frame; None twice where it is no more."""
    if position is None:
        return {"sample_id": None, "frame_number": None}
    ref = record.ref(position)
    return {"sample_id": ref.sample_id, "frame_number": ref.frame_number}


def _iso(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


# --- shown ---------------------------------------------------------------------------------------------------------


def print_rows(
    title: str, rows: Sequence[Mapping[str, Any]], remarks: Sequence[str] = (), *, fills: bool = True
) -> None:
    """Prints a table of the rows of :func:`status_rows`, open issues and doubts below it, then some remarks.

    Args:
        title: above the table
        rows: one for each job
        remarks: lines below everything
        fills: whether the run propagates anything
    """
    has_rounds = any(row["round"] > 1 for row in rows)
    has_reviews = any(row["kind"] == REVIEW for row in rows)
    headings = [*(["round"] if has_rounds else []), *_HEADINGS, *(["verdicts"] if has_reviews else [])]
    table = [
        [
            *([_round_name(row)] if has_rounds else []),
            shown(row["sequence"]),
            shown(row["segment"]),
            str(row["task_id"] or "-"),
            # Terminals that know links open the job.
            Text(str(row["job_id"] or "-"), style=f"link {row['url']}" if row["url"] else ""),
            row["stage"],
            row["state"],
            shown(row["assignee"] or "-"),
            str(row["frames"]),
            "-" if row["objects"] is None else str(row["objects"]),
            _issue_count(row),
            (row["engine"] or "yes" if row["propagated"] else "no") if fills else "-",
            *([_verdict_count(row)] if has_reviews else []),
        ]
        for row in rows
    ]
    out = console()
    out.print(fitting_table(out, title, headings, table, spared=_SPARED))
    for row in rows:
        told = {doubt["message"] for doubt in row["doubts"] or ()}
        for issue in row["issues"] or ():
            if issue["resolved"] or (issue["message"] in told and not issue["comments"]):
                continue
            where = issue["file"] or f"frame {issue['frame']}"
            out.print(shown(f"Open issue in job {row['job_id']}, {where}, by {issue['who'] or 'somebody'}:"))
            out.print(shown(f"    {issue['message']}"))
            for comment in issue["comments"]:
                out.print(shown(f"    {comment['who'] or 'somebody'}: {comment['message']}"))
            # A link that a person follows must not be wrapped.
            out.print(shown(f"    {issue['url']}"), soft_wrap=True)
    for row in rows:
        if not row["finished"]:
            _print_doubts(out, row)
    out_now = [f"{row['sequence']} {row['segment']}".strip() for row in rows if _is_out_for_review(row)]
    if out_now:
        out.print(shown(f"Out for review, and not filled anew before that is loaded: {', '.join(out_now)}"))
    for remark in remarks:
        out.print(shown(remark))


def _print_doubts(out: Console, row: Mapping[str, Any]) -> None:
    doubts = row["doubts"] or ()
    if doubts:
        out.print(shown(f"Look first, in job {row['job_id']} ({row['sequence']} {row['segment']}):"))
    for doubt in doubts[:_SHOWN_DOUBTS]:
        out.print(shown(f"    {doubt['message']}"))
        out.print(shown(f"    {doubt['url']}"), soft_wrap=True)
    if len(doubts) > _SHOWN_DOUBTS:
        out.print(f"    and {len(doubts) - _SHOWN_DOUBTS} more, as issues in CVAT")


def _is_out_for_review(row: Mapping[str, Any]) -> bool:
    return row["kind"] == REVIEW and not row["collected"] and row["state"] != GONE


def _round_name(row: Mapping[str, Any]) -> str:
    return f"{row['round']} {row['kind']}" if row["kind"] == REVIEW else str(row["round"])


def _verdict_count(row: Mapping[str, Any]) -> list[str]:
    return [f"{count} {verdict}" for verdict, count in (row["verdicts"] or {}).items()] or ["-"]


def fitting_table(
    out: Console,
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    spared: Sequence[str] = (),
    numbers: Collection[str] = (),
) -> Table:
    """A table that fits where it is printed: with less of a frame, and without some columns, where there is no room.

    Args:
        out: where it is printed
        title: above it
        headings: of the columns, each one different
        rows: a cell for each heading; texts of people as :func:`shown` gives them
        spared: columns that a narrow table does without, those that are missed least first
        numbers: columns whose cells end at the same place
    """
    forms = [(False, headings), (True, headings)]
    for count in range(1, len(spared) + 1):
        forms.append((True, [heading for heading in headings if heading not in spared[:count]]))
    tables = (_table(title, kept, headings, rows, numbers, is_narrow) for is_narrow, kept in forms)
    for table in tables:
        if Measurement.get(out, out.options.update_width(_ANY_WIDTH), table).maximum <= out.width:
            break
    return table


def _table(
    title: str,
    kept: Sequence[str],
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numbers: Collection[str],
    is_narrow: bool,
) -> Table:
    frame: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)} if is_narrow else {}
    table = Table(title=shown(title), title_justify="left" if is_narrow else "center", **frame)
    for heading in kept:
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            max_width=_LONGEST_NAME if is_narrow else None,
            overflow="fold",
        )
    joint = "\n" if is_narrow else ", "
    places = [headings.index(heading) for heading in kept]
    for row in rows:
        cells = [row[place] for place in places]
        table.add_row(*(cell if isinstance(cell, (str, Text)) else joint.join(cell) for cell in cells))
    return table


def console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for links where there is none."""
    found = Console(emoji=False)
    return found if found.is_terminal else Console(emoji=False, width=_WIDTH_WITHOUT_TERMINAL)


def shown(text: str) -> str:
    """A text of people, which may hold markup and the control characters of terminals, to be printed as it is."""
    plain = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(plain)


def _issue_count(row: Mapping[str, Any]) -> str:
    if row["issues"] is None:
        return "-"
    return f"{row['open_issues']} open of {len(row['issues'])}" if row["issues"] else "none"


# --- waiting -------------------------------------------------------------------------------------------------------


class Pace:
    """How often a wait looks, and when it ends.

    Args:
        timeout: seconds until it is given up; None never does, 0 looks once
        interval: seconds to the second look. Each look without news waits half as long again, up to a minute; news
            begin anew

    Raises:
        DataError: a number is negative, or the interval is 0
    """

    def __init__(self, timeout: float | None, interval: float) -> None:
        if (timeout is not None and not timeout >= 0) or not interval > 0:
            raise DataError(
                f"Waiting takes a timeout of at least 0 seconds, or None for ever, and an interval above 0; got "
                f"timeout={timeout!r}, interval={interval!r}."
            )
        self._end = None if timeout is None else time.monotonic() + timeout
        self._interval = interval
        self._next = interval

    @property
    def is_over(self) -> bool:
        """Whether it is time to give up."""
        return self._end is not None and time.monotonic() >= self._end

    def pause(self, news: bool, took: float = 0.0, asked: float | None = None) -> float:
        """Seconds to wait now.

        Args:
            news: whether the last look found something else than the one before
            took: seconds that it kept the server busy; looking takes up to a tenth of the time
            asked: seconds that the server wants to be left alone
        """
        if news:
            self._next = self._interval
        wait = max(self._next, min(_BUSIEST_S, 9 * took), asked or 0.0)
        self._next = min(max(self._interval, _LONGEST_WAIT_S), self._next * _SLOWER)
        return wait if self._end is None else max(0.0, min(wait, self._end - time.monotonic()))


def wait_for_jobs(
    client: CVATClient,
    ledger: Ledger,
    key: str,
    *,
    job_states: Collection[str],
    job_stages: Collection[str],
    timeout: float | None = None,
    interval: float = 5.0,
) -> bool:
    """Looks until every job of a run is finished. Writes nothing anywhere, so it may be interrupted at any moment.

    A server that is away for a while, or asks for patience, is waited for; only the first look must succeed.

    Args:
        client: an open connection; its login is used again and again
        ledger: the run's jobs
        key: the run's name, for the log
        job_states: states in which a job counts as finished
        job_stages: stages in which it does
        timeout: see :class:`Pace`
        interval: see :class:`Pace`

    Returns:
        whether all are finished

    Raises:
        DataError: there is nothing to wait for, or a job is gone
        CVATError: the server cannot be reached at the first look, or refuses the login
    """
    if not ledger.uploaded:
        state = "is not uploaded yet; call annotate() with its key again" if ledger.rounds else "has nothing in CVAT"
        raise DataError(f"There is nothing to wait for: run {key!r} {state}.")
    pace = Pace(timeout, interval)
    jobs: dict[int, Job] = {}
    tasks = everything = list(ledger.tasks())
    last: str | None = None
    while True:
        started = time.monotonic()
        try:
            found = look(client, tasks, issues=False).jobs
        except (CVATTransportError, ServerFailure, Throttled) as error:
            if last is None:
                raise
            told, level = f"CVAT does not answer ({error})", logging.WARNING
            pause = pace.pause(news=False, asked=error.retry_after if isinstance(error, Throttled) else None)
        else:
            looked_at = {task.id for task in tasks}
            jobs = {**{number: job for number, job in jobs.items() if job.task_id not in looked_at}, **found}
            rows = status_rows(ledger, Outlook(jobs), url=client.url, job_states=job_states, job_stages=job_stages)
            _check_none_is_gone(rows)
            left = {row["task_id"] for row in rows if not row["finished"]}
            if not left and tasks is everything:
                logger.info("Run %r: all %d jobs are finished.", key, len(rows))
                return True
            # Tasks that are done are looked at once more at the end: people open jobs again.
            tasks = [task for task in everything if task.id in left] or everything
            if not left:
                continue
            told, news = _told(rows), _told(rows) != last
            last, level = told, logging.INFO if news else logging.DEBUG
            pause = pace.pause(news, time.monotonic() - started)
        if pace.is_over:
            logger.info("Run %r: the wait is over; %s.", key, told)
            return False
        logger.log(level, "Run %r: %s; looking again in %.0f s.", key, told, pause)
        time.sleep(pause)


def _check_none_is_gone(rows: Sequence[Mapping[str, Any]]) -> None:
    row = next((row for row in rows if row["state"] == GONE), None)
    if row is not None:
        raise DataError(
            f"Job {row['job_id']} of task {row['task_id']} ({row['task_name']}) is gone from CVAT, so it will never be "
            f"finished. Call results.forget_task({row['task_id']}) to go on without its task."
        )


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    states = Counter(f"{row['stage']} {row['state']}" for row in rows)
    shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{sum(row['finished'] for row in rows)} of {len(rows)} jobs are finished ({shown})"


__all__ = [
    "GONE",
    "JOB_STAGES",
    "JOB_STATES",
    "Outlook",
    "Pace",
    "checked_stages",
    "checked_states",
    "fitting_table",
    "job_url",
    "look",
    "object_url",
    "print_rows",
    "shown_object",
    "status_rows",
    "wait_for_jobs",
]
