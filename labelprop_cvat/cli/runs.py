"""The commands that work on annotation runs: annotate, status, load, suggest, review, cleanup, adopt."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from labelprop_cvat.cli._answers import FAILED, NOTHING, OK, Answer, say
from labelprop_cvat.cli._engines import AUTO_HELP, add_engine, engine_options
from labelprop_cvat.cli._parser import (
    Commands,
    Parser,
    UsageError,
    add,
    add_connection,
    add_dataset,
    add_run,
    add_view,
    login,
)
from labelprop_cvat.cli._samples import check_run, dataset_of, results_of, samples_of, show_rows
from labelprop_cvat.wording import counted

_WHERE_IT_WAS_SENT = "where CVAT is by now; by default where the run was sent"
_AS_CONFIGURED = "where CVAT is; by default as configured"
_SHOWN_LINKS = 20


# --- annotate ------------------------------------------------------------------------------------------------------


def add_annotate(commands: Commands[Parser]) -> None:
    """Adds ``labelprop annotate``."""
    command = add(
        commands,
        "annotate",
        _annotate,
        summary="Send the exemplars of a dataset to CVAT to be annotated, as a new run.",
        usage="DATASET RUN --label-field FIELD",
        examples=[
            "labelprop annotate clips run1 --label-field frames.objects --label-type instances --classes person,car",
            "labelprop annotate clips run2 --label-field objects --label-type detections --classes person \\\n"
            "      --sort-field number --segments-field segments --exemplars coverage:5 --review",
        ],
        interrupted="What reached CVAT stays there; the same command goes on with it.",
    )
    add_dataset(command)
    add_run(command, "the key of the new run: letters, digits and underscores")
    _add_what_is_annotated(command)
    _add_which_frames(command)
    add_engine(command, default=None, what=f"{AUTO_HELP}; none fills nothing and sends every frame")
    command.add_argument("--output-field", metavar="FIELD", help="where what fills goes (<label field>_propagated)")
    review = command.add_argument_group("review of what was propagated")
    review.add_argument("--review", action="store_true", default=None, help="send it back to CVAT after each load")
    review.add_argument("--review-frames", metavar="WHICH", help="all, every:N, or uncertain (all)")
    review.add_argument("--review-as", choices=["polygons"], help="masks as polygons, whose corners can be dragged")
    review.add_argument("--max-rounds", type=int, metavar="N", help="how often a segment goes out at most (5)")
    review.add_argument("--gt-field", metavar="FIELD", help="ground truth, which each load compares with")
    _add_tasks(command)
    add_connection(command, _AS_CONFIGURED)
    command.add_argument("--open", action="store_true", help="open the first job in a browser")


def _add_what_is_annotated(command: Parser) -> None:
    group = command.add_argument_group("what is annotated")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--label-field", metavar="FIELD", help="the field, new or not; frames.FIELD on videos")
    which.add_argument(
        "--label-schema", type=_schema, metavar="FILE", help="several fields, as FiftyOne describes them, in JSON"
    )
    group.add_argument(
        "--label-type", metavar="TYPE", help="instances, detections, polygons, ...; by default what the field holds"
    )
    group.add_argument(
        "--classes", type=_names, metavar="A,B", help="names of the classes; by default those that the field holds"
    )
    group.add_argument("--no-attributes", action="store_true", help="leave out the attributes of existing labels")
    for what in ("additions", "deletions", "label-edits", "index-edits", "spatial-edits"):
        group.add_argument(f"--no-{what}", action="store_true", help=f"take no {what.replace('-', ' ')} home")
    group.add_argument("--occluded-attr", metavar="NAME", help="attribute that is CVAT's switch 'occluded'")
    group.add_argument("--group-id-attr", metavar="NAME", help="attribute that is CVAT's group")


def _add_which_frames(command: Parser) -> None:
    group = command.add_argument_group("which frames go to people")
    add_view(group)
    group.add_argument("--media-field", metavar="FIELD", help="the media's paths (filepath)")
    group.add_argument("--segments-field", metavar="FIELD", help="where segments are stored; computed by default")
    group.add_argument("--segmentation", metavar="METHOD", help="what computes them (auto)")
    group.add_argument(
        "--exemplars",
        metavar="METHOD",
        help="first, middle, uniform:K, every:N, all, diverse:K, coverage:K, coverage:J or scores; by default the "
        "stored scores, else every:10",
    )
    group.add_argument(
        "--missing", choices=["unknown", "absent"], help="what a missing object on an exemplar means (unknown)"
    )
    for name, what in (("start", "first"), ("stop", "end of the"), ("step", "distance of")):
        group.add_argument(
            f"--frame-{name}", type=int, metavar="N", help=f"{what} frames that may be exemplars, from 0"
        )


def _add_tasks(command: Parser) -> None:
    group = command.add_argument_group("tasks in CVAT")
    group.add_argument("--task-name", metavar="NAME", help="of the tasks; by default those of dataset and run")
    project = group.add_mutually_exclusive_group()
    project.add_argument("--project", dest="project_name", metavar="NAME", help="in this project, made where missing")
    project.add_argument("--project-id", type=int, metavar="N", help="in this project")
    group.add_argument("--organization", metavar="NAME", help="short name of the organization to work in")
    group.add_argument("--task-assignee", type=_names, metavar="USERS", help="who gets the tasks, in turn: ann,bob")
    group.add_argument("--job-assignees", type=_names, metavar="USERS", help="who annotates, in turn")
    group.add_argument("--job-reviewers", type=_names, metavar="USERS", help="who reviews, in turn")
    group.add_argument("--issue-tracker", metavar="URL", help="shown with the tasks")
    group.add_argument("--task-size", type=int, metavar="N", help="frames of a task at most")
    group.add_argument("--segment-size", type=int, metavar="N", help="frames of a job at most")
    group.add_argument("--image-quality", type=int, metavar="Q", help="of frames as people see them, 0 to 100 (75)")
    group.add_argument("--chunk-size", type=int, metavar="N", help="frames that the server packs together")
    group.add_argument("--no-cache", action="store_true", help="have the server prepare all frames at once")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds to wait for an answer (120)")
    _add_states(group)


def _add_states(group: Any) -> None:
    group.add_argument("--job-states", type=_names, metavar="A,B", help="states of finished jobs (completed)")
    group.add_argument("--job-stages", type=_names, metavar="A,B", help="stages of finished jobs; by default all")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"expected names like a,b, got {text!r}")
    return names


def _schema(text: str) -> Any:
    try:
        return json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"expected a JSON file with a label schema, got {text!r}: {error}") from error


# Options whose names are those of the parameters, taken where something was given.
_PARAMETERS = (
    *("label_field", "label_type", "label_schema", "classes", "occluded_attr", "group_id_attr"),
    *("media_field", "sort_field", "segments_field", "segmentation", "exemplars", "missing"),
    *("frame_start", "frame_stop", "frame_step", "engine", "output_field"),
    *("review", "review_frames", "review_as", "max_rounds", "gt_field"),
    *("task_name", "project_name", "project_id", "organization", "task_assignee", "job_assignees", "job_reviewers"),
    *("issue_tracker", "task_size", "segment_size", "image_quality", "chunk_size", "timeout"),
    *("job_states", "job_stages"),
)
_SWITCHED_OFF = {
    "attributes": "no_attributes",
    "use_cache": "no_cache",
    **{f"allow_{what}": f"no_{what}" for what in ("additions", "deletions")},
    **{f"allow_{what}": f"no_{what}" for what in ("label_edits", "index_edits", "spatial_edits")},
}


def _annotate(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    asked = {name: getattr(options, name) for name in _PARAMETERS} | login(options)
    asked["engine_options"] = engine_options(options) or None
    asked |= {name: False for name, switch in _SWITCHED_OFF.items() if getattr(options, switch)}
    results = workflow.annotate(
        samples_of(options), options.run_key, **{name: value for name, value in asked.items() if value is not None}
    )
    if options.open:
        results.launch_editor()
    rows = results.get_status(refresh=False)
    frames = sum(row["frames"] for row in rows)
    load = f"labelprop load {options.dataset} {options.run_key}"

    def show() -> None:
        columns = ("sequence", "segment", "task_id", "job_id", "assignee", "frames")
        show_rows(f"Run {options.run_key}", rows, columns, ("frames",))
        _show_links(rows)
        say(f"{counted(frames, 'frame')} in {counted(len(rows), 'job')} are in CVAT. When people are done: {load}")

    return Answer({**_run_of(options), "url": results.config.url, "frames": frames, "jobs": rows}, show)


def _show_links(rows: list[dict[str, Any]]) -> None:
    """Prints where to go, on lines that nothing wraps."""
    links = [row["url"] for row in rows if row["url"]]
    for link in links[:_SHOWN_LINKS]:
        say(link)
    if len(links) > _SHOWN_LINKS:
        say(f"... and {len(links) - _SHOWN_LINKS} more")


def _run_of(options: argparse.Namespace) -> dict[str, Any]:
    return {"dataset": options.dataset, "run": options.run_key}


# --- status --------------------------------------------------------------------------------------------------------


def _add_run_command(commands: Commands[Parser], name: str, run: Any, summary: str, **more: Any) -> Parser:
    more = {"usage": "DATASET RUN", "examples": [f"labelprop {name} clips run1"], **more}
    command = add(commands, name, run, summary=summary, **more)
    add_dataset(command)
    return command


def add_status(commands: Commands[Parser]) -> None:
    """Adds ``labelprop status``."""
    command = _add_run_command(
        commands,
        "status",
        _status,
        "Say how far people and propagation are with a run, job by job; without a run, which runs there are.",
        usage="DATASET [RUN]",
        examples=["labelprop status clips", "labelprop status clips run1 --wait 60"],
        codes="3 where --wait was given and people are not finished",
    )
    add_run(command, "an annotation run; by default all are listed, with what each waits for", is_needed=False)
    command.add_argument("--wait", type=_minutes, metavar="MINUTES", help="first wait until all jobs are finished")
    add_connection(command, _WHERE_IT_WAS_SENT)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"minutes are a number from 0, got {text}")
    return value


def _status(options: argparse.Namespace) -> Answer:
    if options.run_key is None:
        if options.wait is not None:
            raise UsageError(options.parser, "--wait waits for one run: name it")
        return _list_runs(options)
    results = results_of(options, **login(options))
    is_over = options.wait is None or results.wait(60 * options.wait)
    rows = results.get_status() if options.json else []
    document = {**_run_of(options), "all_finished": all(row["finished"] for row in rows), "jobs": rows}
    return Answer(document, results.print_status, OK if is_over else NOTHING)


def _list_runs(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    dataset = dataset_of(options)
    asked: dict[str, Any] = {"refresh": True, "worst": 0, **login(options)}
    keys = workflow.run_keys(dataset)
    seen = [workflow.overview(dataset, anno_key=key, **asked) for key in keys] or [workflow.overview(dataset, worst=0)]
    runs = [_run_document(overview) for overview in seen if overview.run is not None]
    last = seen[-1]

    def show() -> None:
        rows = [
            {
                "run": run["run"],
                "fields": run["label_fields"],
                "rounds": run["rounds"],
                "finished": f"{run['finished']} of {counted(run['jobs'], 'job')}",
                "next": f"{run['next']['step']}: {run['next']['why']}",
            }
            for run in runs
        ]
        show_rows(f"Runs of {options.dataset}", rows, ("run", "fields", "rounds", "finished", "next"))
        if not runs:
            say(f"{options.dataset} has no run yet. {last.step.why}")

    document = {"dataset": options.dataset, "runs": runs, "totals": vars(last.totals), "next": _step_document(last)}
    return Answer(document, show)


def _run_document(overview: Any) -> dict[str, Any]:
    run = overview.run
    return {
        "run": run.anno_key,
        "url": run.url,
        "label_fields": list(run.label_fields),
        "output_fields": list(run.outputs.values()),
        "rounds": run.rounds,
        "jobs": len(run.jobs),
        "finished": sum(job.finished for job in run.jobs),
        "collected": sum(job.collected for job in run.jobs),
        "asked_cvat": run.asked,
        "trouble": run.trouble,
        "next": _step_document(overview),
    }


def _step_document(overview: Any) -> dict[str, str]:
    return {"step": overview.step.step.value, "why": overview.step.why}


# --- load ----------------------------------------------------------------------------------------------------------


def add_load(commands: Commands[Parser]) -> None:
    """Adds ``labelprop load``."""
    command = _add_run_command(
        commands,
        "load",
        _load,
        "Bring finished annotations of a run to FiftyOne and propagate them.",
        examples=["labelprop load clips run1", "labelprop load clips run1 --wait 480 --engine sam2"],
        interrupted="What came home stays, and so do the segments that were filled; the same command goes on with the "
        "rest.",
        codes="0 where anything was new; 3 where nothing was, or the time of --wait was up before people were finished",
    )
    add_run(command)
    command.add_argument(
        "--wait",
        type=_minutes,
        metavar="MINUTES",
        help="first wait until all jobs are finished; when the time is up, load those that are, and exit with 3",
    )
    command.add_argument("--dest-field", metavar="FIELD", help="another field for what people drew, this once")
    command.add_argument(
        "--keep-unexpected", action="store_true", help="keep labels of other types, in their own field"
    )
    _add_states(command)
    add_engine(command, default=None, what="instead of the run's own, this once; none leaves the frames for later")
    add_connection(command, _WHERE_IT_WAS_SENT)


def _load(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    dataset = dataset_of(options)
    check_run(dataset, options.run_key)
    all_finished = True
    if options.wait is not None:
        waited = {"states": options.job_states, "stages": options.job_stages}
        all_finished = workflow.run_results(dataset, options.run_key, **login(options)).wait(
            60 * options.wait, **waited
        )
    results: Any = workflow.load(
        dataset,
        options.run_key,
        engine=options.engine,
        engine_options=engine_options(options) or None,
        unexpected="keep" if options.keep_unexpected else "ignore",
        dest_field=options.dest_field,
        job_states=options.job_states,
        job_stages=options.job_stages,
        **login(options),
    )
    done = results.loaded
    document = {
        **_run_of(options),
        "is_news": done.is_news,
        "jobs": done.jobs,
        "finished": done.finished,
        "labels": done.labels,
        "filled": list(done.filled),
        "output_fields": list(results.config.outputs().values()),
        "engine": done.engine,
        "review_round": done.review_round,
        "summary": results.summary,
    }

    def show() -> None:
        say(results.summary)
        if done.finished < done.jobs:
            say(f"{counted(done.jobs - done.finished, 'job')} to go: labelprop status {options.dataset} {results.key}")
        elif done.filled and done.review_round is None:
            words = f"{options.dataset} {results.key}"
            say(f"What to annotate next: labelprop suggest {words}   Have it reviewed: labelprop review {words}")

    return Answer(document, show, OK if done.is_news and all_finished else NOTHING)


# --- suggest -------------------------------------------------------------------------------------------------------


def add_suggest(commands: Commands[Parser]) -> None:
    """Adds ``labelprop suggest``."""
    command = _add_run_command(
        commands,
        "suggest",
        _suggest,
        "Say which frames of a run to annotate next, why, and when to stop.",
        examples=["labelprop suggest clips run1 --budget 10", "labelprop suggest clips run1 --send"],
        interrupted="What reached CVAT stays there; the next load goes on with the upload.",
        codes="3 where no frame is suggested: it is time to stop, or to wait for people",
    )
    add_run(command)
    command.add_argument("--budget", type=int, default=5, metavar="N", help="at most so many frames (5)")
    command.add_argument(
        "--target", type=float, default=0.9, metavar="J", help="IoU that every object shall reach (0.9)"
    )
    command.add_argument(
        "--least-gain", type=float, metavar="G", help="leave out frames that gain less IoU a minute, over all objects"
    )
    command.add_argument("--send", action="store_true", help="send them to CVAT as the next round")
    add_connection(command, _WHERE_IT_WAS_SENT)


def _suggest(options: argparse.Namespace) -> Answer:
    results = results_of(options, **login(options))
    suggestions = results.suggest(options.budget, target=options.target, least_gain=options.least_gain)
    number = suggestions.send() if options.send and suggestions.frames else None

    def show() -> None:
        suggestions.print()
        if number is not None:
            say(f"They are in CVAT as round {number}, with the propagated labels to be corrected.")
        elif suggestions.frames:
            say(f"Send them: labelprop suggest {options.dataset} {options.run_key} --send")

    document = {**_run_of(options), **suggestions.to_dict(), "round": number}
    return Answer(document, show, OK if suggestions.frames else NOTHING)


# --- review --------------------------------------------------------------------------------------------------------


def add_review(commands: Commands[Parser]) -> None:
    """Adds ``labelprop review``."""
    command = _add_run_command(
        commands,
        "review",
        _review,
        "Send what was propagated in a run to CVAT to be reviewed.",
        examples=["labelprop review clips run1 --frames uncertain", "labelprop review clips run1 --history"],
        interrupted="What reached CVAT stays there; the same command, or the next load, goes on with it.",
        codes="3 where there is nothing to review",
    )
    add_run(command)
    command.add_argument(
        "--frames",
        metavar="WHICH",
        help="which frames reviewers see: all, every:n, or uncertain (default: as the run was asked for, else all)",
    )
    command.add_argument(
        "--as",
        dest="review_as",
        choices=["polygons"],
        help="send masks as tracks of polygons: their corners can be dragged; less exact",
    )
    command.add_argument(
        "--segments", nargs="+", metavar="LABEL", help="only these temporal segments, reviewed before or not"
    )
    command.add_argument(
        "--history", action="store_true", help="send nothing; show what each round sent, changed, cost and came to"
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="with --history: draw it, too, as .png or .svg")
    add_connection(command, _WHERE_IT_WAS_SENT)


def _review(options: argparse.Namespace) -> Answer:
    if options.plot is not None and not options.history:
        raise UsageError(options.parser, "--plot draws the history: give --history with it")
    asked = {"--frames": options.frames, "--as": options.review_as, "--segments": options.segments}
    unused = [name for name, value in asked.items() if value is not None]
    if options.history and unused:
        raise UsageError(options.parser, f"--history sends nothing: leave out {', '.join(unused)}, or --history")
    results = results_of(options, **login(options))
    if options.history:
        history = results.history()
        if options.plot is not None:
            history.plot(options.plot)
        return Answer({**_run_of(options), **history.to_dict()}, history.print)
    number = results.request_review(options.segments, frames=options.frames, review_as=options.review_as)
    every = results.get_status(refresh=False)
    rows = [row for row in every if row["round"] == number]

    def show() -> None:
        if number is None:
            why = "every segment that is filled is under review, in no doubt, or unchanged since its last review."
            if not any(row["propagated"] for row in every):
                load = f"labelprop load {options.dataset} {options.run_key}"
                why = f"no segment is filled yet. When jobs are completed: {load}"
            say(f"Nothing to review: {why}")
            return
        doubts = sum(len(row["doubts"]) for row in rows)
        say(
            f"Round {number} is in CVAT for review: {counted(sum(row['frames'] for row in rows), 'frame')} in "
            f"{counted(len(rows), 'job')}, with {counted(doubts, 'doubt') if doubts else 'no doubts'} as issues."
        )
        _show_links(rows)

    return Answer({**_run_of(options), "round": number, "jobs": rows}, show, NOTHING if number is None else OK)


# --- cleanup -------------------------------------------------------------------------------------------------------


def add_cleanup(commands: Commands[Parser]) -> None:
    """Adds ``labelprop cleanup``."""
    command = _add_run_command(
        commands,
        "cleanup",
        _cleanup,
        "Delete a run's tasks from CVAT; what is in FiftyOne stays.",
        interrupted="What was deleted is gone from CVAT; the same command deletes the rest.",
        codes="1 where tasks were kept, because they hold work that nobody loaded",
    )
    add_run(command)
    command.add_argument("--force", action="store_true", help="also tasks that hold work nobody loaded")
    add_connection(command, _WHERE_IT_WAS_SENT)


def _cleanup(options: argparse.Namespace) -> Answer:
    results = results_of(options, **login(options))
    before = {task.id: task.adopted for task in results.ledger.tasks() if task.id is not None}
    results.cleanup(force=options.force)
    kept = sorted(results.task_ids)
    let_go = sorted(number for number, is_adopted in before.items() if is_adopted and number not in kept)
    deleted = sorted(number for number in before if number not in (*kept, *let_go))

    def show() -> None:
        if kept:
            words = f"{options.dataset} {options.run_key}"
            say(f"Kept in CVAT, with work that nobody loaded: {', '.join(map(str, kept))}.")
            say(f"Load it: labelprop load {words}   Delete it, too: labelprop cleanup {words} --force")
        elif let_go:
            numbers = ", ".join(map(str, let_go))
            say(f"{options.run_key!r} has let go of the tasks it adopted; they are in CVAT: {numbers}.")
        else:
            say(f"Everything of {options.run_key!r} is gone from CVAT.")

    document = {**_run_of(options), "deleted": deleted, "kept": kept, "let_go": let_go}
    return Answer(document, show, FAILED if results.get_status(refresh=False) else OK)


# --- adopt ---------------------------------------------------------------------------------------------------------


def add_adopt(commands: Commands[Parser]) -> None:
    """Adds ``labelprop adopt``."""
    command = add(
        commands,
        "adopt",
        _adopt,
        summary="Make a run of tasks that are in CVAT already, whoever made them; 'labelprop load' brings them home.",
        usage="DATASET RUN --task N",
        examples=["labelprop adopt clips old --task 12 --task 13 --label-field objects --sort-field filepath"],
        interrupted="Media that were downloaded stay; the same command goes on with the rest.",
    )
    add_dataset(command)
    add_run(command, "the key of the new run")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--task", type=int, action="append", metavar="N", help="a task; may be given several times")
    which.add_argument("--project", type=int, metavar="N", help="all tasks of a project")
    which.add_argument("--project-name", metavar="NAME", help="all tasks of the project of this name")
    command.add_argument("--label-field", metavar="FIELD", help="where labels go; by default a field for each kind")
    command.add_argument("--label-type", metavar="TYPE", help="of that field, such as detections; by default what fits")
    command.add_argument(
        "--data-path", type=Path, metavar="PATH", help="folder of the media, or JSON file: name to path"
    )
    command.add_argument("--download-media", action="store_true", help="download what is missing into --data-path")
    command.add_argument("--known-only", action="store_true", help="add no samples for media that are none yet")
    command.add_argument("--create", action="store_true", help="make the dataset if there is none of this name")
    add_view(command)
    command.add_argument("--segments-field", metavar="FIELD", help="where segments are stored; computed by default")
    add_engine(command, default=None, what=f"{AUTO_HELP}; none fills nothing")
    add_connection(command, _AS_CONFIGURED)
    command.add_argument("--organization", metavar="NAME", help="short name of the organization that the tasks are in")


def _adopt(options: argparse.Namespace) -> Answer:
    import fiftyone as fo

    from labelprop_cvat import workflow

    made = options.create and not fo.dataset_exists(options.dataset)
    dataset = fo.Dataset(options.dataset, persistent=True) if made else dataset_of(options)
    names = ("label_field", "label_type", "data_path", "sort_field", "segments_field", "engine", "organization")
    asked = {name: getattr(options, name) for name in names} | login(options)
    asked["engine_options"] = engine_options(options) or None
    try:
        results = workflow.adopt(
            samples_of(options),
            options.run_key,
            task_ids=options.task,
            project_id=options.project,
            project_name=options.project_name,
            download_media=options.download_media,
            insert_new=not options.known_only,
            **{name: value for name, value in asked.items() if value is not None},
        )
    except BaseException:
        if made and len(dataset) == 0:
            dataset.delete()
        raise
    rows = results.get_status(refresh=False)
    tasks = sorted({row["task_id"] for row in rows})
    fields = list(results.config.label_schema)
    frames = sum(row["frames"] for row in rows)

    def show() -> None:
        say(
            f"{len(tasks)} tasks with {len(rows)} jobs and {frames} frames are in the run {options.run_key!r} now, for "
            f"{', '.join(fields)}. Load them: labelprop load {options.dataset} {options.run_key}"
        )

    return Answer({**_run_of(options), "tasks": tasks, "label_fields": fields, "frames": frames, "jobs": rows}, show)
