"""Operators of runs: what people did comes home, goes out for review, goes on, is looked at, and ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import fiftyone as fo
from fiftyone.operators import types

from labelprop_cvat.backend.cvat import CVATError
from labelprop_cvat.backend.rounds.review import checked_frames
from labelprop_cvat.backend.status import GONE, checked_states
from labelprop_cvat.backend.suggesting import DEFAULT_TARGET, Suggestions
from labelprop_cvat.errors import ConfigurationError, DataError, LabelPropError
from labelprop_cvat.plugin import _fields
from labelprop_cvat.plugin._login import SECRET, check_login, login_of, secret_params
from labelprop_cvat.plugin._steps import Context, Problem, Step, value_of
from labelprop_cvat.wording import counted
from labelprop_cvat.workflow import cleanup, load, review, run_keys, run_results, suggest

#: Stands for what a run was asked for when it was made.
OWN = "as the run was made"

_SHOWN_LINKS = 20
_SHOWN_JOBS = 60
_SHOWN_REASONS = 3


class RunStep(Step):
    """A step of one run, which has it as its first input, and how to connect as its last ones."""

    undeclared: ClassVar[tuple[str, ...]] = (*SECRET, "engine_options", "propagation_method")

    def form(self, ctx: Context, inputs: types.Object) -> None:
        keys = run_keys(ctx.dataset)
        if not keys:
            raise DataError(
                f"The dataset {ctx.dataset.name!r} has no run yet: nothing of it was sent to CVAT. Begin with Request "
                f"Annotations."
            )
        inputs.str(
            "anno_key",
            default=keys[-1],
            required=True,
            label="Run",
            description="What was sent to CVAT under this name",
            view=_fields.choices({key: _told(ctx.dataset, key) for key in reversed(keys)}),
        )
        key = str(value_of(ctx, "anno_key", keys[-1]))
        if key not in keys:
            return
        results = run_results(ctx.dataset, key)
        results.refresh()
        self.settings(ctx, inputs, results)
        inputs.bool("more_settings", default=False, label="More settings", view=types.SwitchView())
        if value_of(ctx, "more_settings"):
            self.more(inputs, results)
        add_connection(ctx, inputs, results.ledger.url)

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        """Declares the inputs beside the run, of which ``results`` are the results as they are stored now."""

    def more(self, inputs: types.Object, results: Any) -> None:
        """Declares further inputs, for those who ask for more settings."""

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        try:
            results = run_results(ctx.dataset, str(params.get("anno_key") or ""))
        except LabelPropError as error:
            return [Problem("anno_key", str(error))]
        return [*secret_problems(params), *self.wrong(params, results)]

    def wrong(self, params: Mapping[str, Any], results: Any) -> Iterable[Problem]:
        """Says what is wrong with the inputs beside the run."""
        return ()

    def login(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        """How to connect to the server of the run.

        Raises:
            ConfigurationError: no login is to be found
        """
        url, username = params.get("url") or None, params.get("username") or None
        run_url = run_results(ctx.dataset, str(params["anno_key"])).ledger.url
        check_login(ctx, url, username, run_url=run_url)
        return login_of(ctx, url or run_url, username)


class LoadAnnotations(RunStep):
    """Brings home what people finished, and fills the other frames."""

    name = "load_annotations"
    label = "Load Annotations"
    description = "Bring finished jobs of a run home from CVAT, and propagate what changed"
    undeclared = (*RunStep.undeclared, "job_states")
    numbers = (
        ("finished_jobs", "Jobs that are finished"),
        ("jobs", "Jobs of the run"),
        ("labels", "Labels in finished jobs"),
        ("engine", "Filled by"),
        ("review_round", "Round that went out for review"),
    )

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        _add_jobs(inputs, results)
        if results.config.propagates:
            _fields.add_engine(ctx, inputs)
            engine = inputs.properties["engine"]
            engine.default = OWN
            engine.view.description = "What fills the other frames, this once"
            engine.view.add_choice(OWN, label=OWN, description=str(results.config.engine))
            engine.view.add_choice("none", label="none", description="leave the frames for later")

    def more(self, inputs: types.Object, results: Any) -> None:
        inputs.str(
            "job_states",
            default=", ".join(results.config.job_states),
            label="Jobs that count as finished",
            description="States, with commas: new, in progress, completed, rejected",
        )

    def wrong(self, params: Mapping[str, Any], results: Any) -> Iterable[Problem]:
        try:
            checked_states(_states(params) or results.config.job_states)
        except ConfigurationError as error:
            yield Problem("job_states", str(error))
        if _engine(params) not in (None, "none"):
            problem = _fields.engine_problem(params)
            if problem is not None:
                yield problem

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        engine = _engine(params)
        results = load(
            ctx.dataset,
            str(params["anno_key"]),
            engine=engine,
            engine_options=_fields.engine_options_of(params) or None,
            job_states=_states(params),
            **self.login(ctx, params),
        )
        rows = results.get_status(refresh=False)
        told: dict[str, Any] = {
            "message": results.summary,
            "output_fields": list(results.config.outputs().values()),
            "samples_processed": sum(row["frames"] for row in rows if row["collected"]),
        }
        loaded = results.loaded
        if loaded is not None:
            told |= {
                "jobs": loaded.jobs,
                "finished_jobs": loaded.finished,
                "labels": loaded.labels,
                "segments_filled": list(loaded.filled),
                "engine": loaded.engine,
                "review_round": loaded.review_round,
                "links": links_of([row for row in rows if row["round"] == loaded.review_round]),
            }
        return told

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        return with_links(super()._shown(result, state), result)


class RequestReview(RunStep):
    """Sends propagated labels to reviewers."""

    name = "request_review"
    label = "Request Review"
    description = "Send what was propagated in a run to CVAT, where people look through it"
    numbers = (("round", "Round"), ("jobs", "Jobs"), ("samples_processed", "Frames"), ("doubts", "Doubts, as issues"))

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        inputs.str(
            "frames",
            default=results.config.review_frames,
            label="Frames that reviewers see",
            description="Or another every:n",
            view=_fields.choices(
                {
                    "all": "every frame of a segment",
                    "uncertain": "those where something is doubted, with others to compare",
                    "every:5": "each fifth, and those that people annotated",
                },
                free=True,
            ),
        )
        if results.config.review_as is None:
            inputs.bool(
                "as_polygons",
                default=False,
                label="Masks as polygons",
                description="Their corners can be dragged; less exact",
            )
        filled = _filled_segments(results)
        if len(filled) > 1:
            inputs.list(
                "segments",
                types.String(),
                label="Temporal segments",
                description="None: all that are filled, not out for review, and new or changed since their last one",
                view=_fields.choices(filled, free=True),
            )

    def wrong(self, params: Mapping[str, Any], results: Any) -> Iterable[Problem]:
        key = params["anno_key"]
        if not results.config.outputs():
            yield Problem("anno_key", f"The run {key!r} fills no frames, so there is nothing to review. Take another.")
        elif not _filled_segments(results):
            yield Problem(
                "anno_key", f"No segment of {key!r} is filled yet. When jobs are completed, run Load Annotations."
            )
        try:
            checked_frames(str(params.get("frames") or "all"))
        except ConfigurationError as error:
            yield Problem("frames", str(error))

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        key = str(params["anno_key"])
        number = review(
            ctx.dataset,
            key,
            segments=_texts(params.get("segments")) or None,
            frames=str(params.get("frames") or "") or None,
            review_as="polygons" if params.get("as_polygons") else None,
            **self.login(ctx, params),
        )
        if number is None:
            why = "every segment that is filled is under review, in no doubt, or unchanged since its last review"
            return {"message": f"Nothing to review: {why}.", "round": None, "jobs": 0, "samples_processed": 0}
        rows = [row for row in run_results(ctx.dataset, key).get_status(refresh=False) if row["round"] == number]
        frames, doubts = sum(row["frames"] for row in rows), sum(len(row["doubts"]) for row in rows)
        return {
            "message": f"Round {number} is in CVAT for review: {counted(frames, 'frame')} in "
            f"{counted(len(rows), 'job')}, with {counted(doubts, 'doubt') if doubts else 'no doubts'} as issues. "
            f"When people are done, run Load Annotations.",
            "round": number,
            "jobs": len(rows),
            "doubts": doubts,
            "links": links_of(rows),
            "samples_processed": frames,
        }

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        return with_links(super()._shown(result, state), result)


class SuggestFrames(RunStep):
    """Says which frames to annotate next."""

    name = "suggest_frames"
    label = "Suggest Frames"
    description = "Say which frames of a run people should annotate next, why, and when to stop"
    numbers = (
        ("predicted_j", "Mean J to expect as it is"),
        ("worst_j", "Lowest J to expect"),
        ("minutes", "Minutes of work on these frames"),
        ("round", "Round in CVAT"),
    )

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        inputs.int("budget", default=5, min=1, label="Frames at most", view=types.FieldView())
        inputs.float(
            "target",
            default=DEFAULT_TARGET,
            label="Wanted J",
            description="IoU that every object shall reach on every frame; above 0 and at most 1",
            view=types.FieldView(),
        )
        inputs.float(
            "least_gain",
            label="Least gain",
            description="Leave out frames that gain less J a minute, over all objects and frames. Empty: none",
            view=types.FieldView(),
        )
        inputs.bool(
            "send",
            default=False,
            label="Send them to CVAT",
            description="As the next round of the run, with the propagated labels to be corrected",
        )
        inputs.bool("show", default=True, label="Show them", description="Make them the view of the App")

    def wrong(self, params: Mapping[str, Any], results: Any) -> Iterable[Problem]:
        if not results.config.outputs():
            yield Problem(
                "anno_key",
                f"The run {params['anno_key']!r} fills no frames, so nothing can be said about them. Take another.",
            )
        target = params.get("target")
        if target is not None and not 0.0 < target <= 1.0:
            yield Problem("target", f"The wanted J is above 0 and at most 1, got {target!r}.")
        least = params.get("least_gain")
        if least is not None and not least > 0.0:
            yield Problem("least_gain", f"The least gain is above 0, or nothing, got {least!r}.")

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        sends = bool(params.get("send"))
        suggestions = suggest(
            ctx.dataset,
            str(params["anno_key"]),
            int(params.get("budget") or 5),
            target=float(params.get("target") or DEFAULT_TARGET),
            least_gain=params.get("least_gain"),
            **(self.login(ctx, params) if sends else {}),
        )
        number = suggestions.send() if sends and suggestions.frames else None
        sent = f" They are in CVAT as round {number}." if number is not None else ""
        return {
            **suggestions.to_dict(),
            "message": suggestions.why + sent,
            "round": number,
            "rows": _suggested_rows(suggestions),
            "view": suggestions.view()._serialize() if suggestions.frames and params.get("show") else None,
            "samples_processed": len(suggestions.frames),
        }

    def afterwards(self, ctx: Context, result: Mapping[str, Any]) -> Iterable[Any]:
        if result.get("view"):
            yield ctx.ops.set_view(view=fo.DatasetView._build(ctx.dataset, result["view"]))

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        columns = {
            "sequence": "Sequence",
            "segment": "Segment",
            "frame": "Frame",
            "minutes": "Minutes",
            "gain": "Gain",
            "why": "Why",
        }
        return with_table(super()._shown(result, state), result, columns)


class RunStatus(RunStep):
    """Says how far people are."""

    name = "run_status"
    label = "Run Status"
    description = "Say how far people and propagation are with a run, job by job"
    changes_dataset = False
    is_long = False
    risk = types.RiskLevel.LOW
    numbers = (("jobs", "Jobs"), ("finished_jobs", "Finished"), ("open_issues", "Open issues"))

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        inputs.bool(
            "ask", default=True, label="Ask CVAT", description="Otherwise: as it was when it was last looked at"
        )

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        key = str(params["anno_key"])
        said = ""
        if params.get("ask") is False:
            results = run_results(ctx.dataset, key)
            rows = results.get_status(refresh=False)
        else:
            results = run_results(ctx.dataset, key, **self.login(ctx, params))
            try:
                rows = results.get_status()
            except CVATError as error:
                rows = results.get_status(refresh=False)
                said = f" That is what was last seen, as CVAT was not to be had: {error}"
        finished = sum(row["finished"] for row in rows)
        gone = sum(row["state"] == GONE for row in rows)
        message = (
            f"Run {key!r}: {finished} of {len(rows)} jobs finished" if rows else f"Run {key!r} has nothing in CVAT"
        )
        return {
            "message": f"{message}{f', {gone} gone from CVAT' if gone else ''}.{said}",
            "jobs": len(rows),
            "finished_jobs": finished,
            "open_issues": sum(row["open_issues"] or 0 for row in rows),
            "loaded": results.ledger.loaded,
            "outputs": results.config.outputs(),
            "rows": rows,
            "doubts": _doubts(rows),
            "table": _job_table(rows),
            "samples_processed": sum(row["frames"] for row in rows if row["finished"]),
        }

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        shown = super()._shown(result, state)
        if result.get("table"):
            shown.type.str("table", view=types.MarkdownView(read_only=True))
        if result.get("doubts"):
            shown.type.view("doubts_told", types.Notice(label="Look first", description=result["doubts"]))
        return shown


class CleanupRun(RunStep):
    """Deletes the tasks of a run from CVAT."""

    name = "cleanup_run"
    label = "Clean Up Run"
    description = "Delete the tasks of a run from CVAT; what is in FiftyOne stays"
    is_long = False
    risk = types.RiskLevel.HIGH

    def settings(self, ctx: Context, inputs: types.Object, results: Any) -> None:
        tasks = len(results.task_ids)
        inputs.view(
            "told",
            types.Notice(
                label=f"{counted(tasks, 'task')} in CVAT; {_loaded(results)}",
                description="Labels in FiftyOne stay as they are, and the run keeps its history.",
            ),
        )
        inputs.bool(
            "force",
            default=False,
            label="Also work that nobody loaded",
            description="Otherwise tasks stay in which somebody did something since the last load",
        )
        if value_of(ctx, "force"):
            inputs.view("warned", types.Warning(label="What people drew since the last load will be lost."))

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        key = str(params["anno_key"])
        login = self.login(ctx, params)
        tasks = list(run_results(ctx.dataset, key).ledger.tasks())
        adopted = sorted(task.id for task in tasks if task.adopted and task.id is not None)
        own = {task.id for task in tasks if not task.adopted and task.id is not None}
        results = cleanup(ctx.dataset, key, force=bool(params.get("force")), **login)
        rows = results.get_status(refresh=False)
        kept = sorted({row["task_id"] for row in rows if row["task_id"] is not None})
        if kept:
            names = ", ".join(map(str, kept))
            message = (
                f"Kept in CVAT, because somebody worked there and it was not loaded: {counted(len(kept), 'task')} "
                f"({names}). Have the jobs completed and run Load Annotations, or clean up with force."
            )
        elif adopted:
            names = ", ".join(map(str, adopted))
            message = f"The run {key!r} has let go of the tasks that it adopted; they are in CVAT: {names}."
        else:
            message = f"Everything of {key!r} is gone from CVAT. What is in FiftyOne stays."
        return {
            "message": message,
            "kept": kept,
            "deleted": len(own.difference(kept)),
            "links": links_of(rows),
            "samples_processed": 0,
        }

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        return with_links(super()._shown(result, state), result)


# --- what their forms share ------------------------------------------------------------------------------------------


def add_connection(ctx: Context, inputs: types.Object, run_url: str | None = None) -> None:
    """``url`` and ``username``, where more settings are asked for, and what is missing to log in.

    Args:
        ctx: the context
        inputs: the form
        run_url: the address that the run was sent to; None of a new one
    """
    if value_of(ctx, "more_settings"):
        inputs.str(
            "url",
            label="CVAT address",
            description=f"Empty: {run_url or 'as configured'}. Is stored with scheduled steps",
        )
        inputs.str("username", label="CVAT user", description="Empty: as configured. Is stored with scheduled steps")
    try:
        check_login(ctx, value_of(ctx, "url") or None, value_of(ctx, "username") or None, run_url=run_url)
    except ConfigurationError as error:
        # The process that works on a scheduled step may know more than this one.
        inputs.view("no_login", types.Warning(label="CVAT is not configured here", description=str(error)))


def secret_problems(params: Mapping[str, Any]) -> list[Problem]:
    """A refusal of secrets among the parameters: those of scheduled steps are stored."""
    in_address = (
        "The address holds a login, and parameters of scheduled steps are stored in FiftyOne's database. Give the "
        "address alone, and set FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD where FiftyOne runs."
    )
    found = [Problem("url", in_address)] if "@" in str(params.get("url") or "") else []
    return found + [
        Problem(
            None,
            f"{name} is no parameter of an operator, because those of scheduled steps are stored in FiftyOne's "
            f"database. Set FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD where FiftyOne runs.",
        )
        for name in secret_params(params)
    ]


def links_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The jobs of some rows of a status as links, in Markdown."""
    shown = [row for row in rows if row["url"]][:_SHOWN_LINKS]
    lines = [
        f"- [job {row['job_id']}]({row['url']}) {_plain(row['sequence'])} {_plain(row['segment'])}" for row in shown
    ]
    more = len(rows) - len(shown)
    return "\n".join([*lines, *([f"- and {more} more"] if shown and more > 0 else [])])


def with_links(shown: types.Property, result: Mapping[str, Any]) -> types.Property:
    """What is shown of a result, with the links to CVAT that it has."""
    if result.get("links"):
        shown.type.view("links_told", types.Notice(label="In CVAT", description=result["links"]))
    return shown


def with_table(shown: types.Property, result: Mapping[str, Any], columns: Mapping[str, str]) -> types.Property:
    """What is shown of a result, with its ``rows`` as a table.

    Args:
        shown: what is shown of it so far
        result: the result
        columns: keys of the rows and what people call them
    """
    if result.get("rows"):
        # Built to be wider than a dialog.
        table = types.TableView(componentsProps={"table": {"sx": {"minWidth": 0}}})
        for key, label in columns.items():
            table.add_column(key, label=label)
        shown.type.list("rows", types.Object(), view=table)
    return shown


def _told(dataset: fo.Dataset, key: str) -> str:
    info = dataset.get_annotation_info(key)
    return f"{', '.join(info.config.label_schema or ())}, made {info.timestamp:%Y-%m-%d %H:%M} UTC"


def _add_jobs(inputs: types.Object, results: Any) -> None:
    rows = results.get_status(refresh=False)
    collected = sum(row["collected"] for row in rows)
    inputs.view("told", types.Notice(label=f"{collected} of {len(rows)} jobs are home; {_loaded(results)}"))


def _loaded(results: Any) -> str:
    loaded = str(results.ledger.loaded or "")
    return f"last loaded {loaded[:16].replace('T', ' ')} UTC" if loaded else "never loaded"


def _states(params: Mapping[str, Any]) -> list[str] | None:
    """The job states that were asked for; None for the run's own."""
    return _texts(params.get("job_states")) or None


def _texts(value: Any) -> list[str]:
    """Texts from a list, or from one text with commas."""
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    return [text for text in (str(part).strip() for part in parts) if text]


def _engine(params: Mapping[str, Any]) -> str | None:
    """The engine that was asked for; None for the run's own."""
    if params.get("engine") in (None, "", OWN) and not params.get("propagation_method"):
        return None
    return "none" if params.get("engine") == "none" else _fields.engine_of(params)


def _filled_segments(results: Any) -> list[str]:
    return [
        segment.label
        for record in results.ledger.sequences.values()
        for segment in record.segments
        if any(fill.signature is not None for fill in segment.fills.values())
    ]


def _suggested_rows(suggestions: Suggestions) -> list[dict[str, Any]]:
    return [
        {
            "sequence": frame.sequence_name,
            "segment": frame.segment,
            "frame": frame.position + 1 if frame.frame_number is None else frame.frame_number,
            "minutes": round(frame.minutes, 1),
            "gain": round(frame.gain, 1),
            "why": "; ".join(f"{r.label or r.object_id}: {r.why}" for r in frame.reasons[:_SHOWN_REASONS]),
        }
        for frame in suggestions.frames
    ]


def _job_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The jobs of a status as a table in Markdown, which can hold links; what is open first, the newest round first."""
    if not rows:
        return ""
    several = len({row["sequence"] for row in rows}) > 1
    lines = [
        "| Round | Segment | State | Who | Frames | Issues | Filled by | CVAT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(rows, key=lambda row: (bool(row["finished"]), -row["round"]))
    for row in ordered[:_SHOWN_JOBS]:
        place = f"{row['sequence']} {row['segment']}" if several else row["segment"]
        cells = [
            f"{row['round']} {row['kind']}",
            _plain(place),
            f"{row['stage']}: {row['state']}{', loaded' if row['collected'] else ''}",
            _plain(row["assignee"]),
            str(row["frames"]),
            str(row["open_issues"] or ""),
            _plain(row["engine"]),
            f"[job {row['job_id']}]({row['url']})" if row["url"] else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    more = len(rows) - _SHOWN_JOBS
    return "\n".join([*lines, *([f"\nand {more} more"] if more > 0 else [])])


def _doubts(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is doubted in reviews that are going on, the worst first, in Markdown."""
    doubts = [doubt for row in rows if not row["finished"] for doubt in row["doubts"] or ()]
    return "\n".join(f"- [{_plain(doubt['message'])}]({doubt['url']})" for doubt in doubts[:_SHOWN_LINKS])


def _plain(text: Any) -> str:
    """A text of people, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~-])", r"\\\1", str(text or "")).replace("\n", " ")


OPERATORS = (LoadAnnotations, RequestReview, SuggestFrames, RunStatus, CleanupRun)

__all__ = [
    "OPERATORS",
    "OWN",
    "CleanupRun",
    "LoadAnnotations",
    "RequestReview",
    "RunStatus",
    "RunStep",
    "SuggestFrames",
    "add_connection",
    "links_of",
    "secret_problems",
    "with_links",
    "with_table",
]
