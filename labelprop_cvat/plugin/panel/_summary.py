"""What the panel keeps of an overview between two events: small, and plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labelprop_cvat.plugin.panel._figures import SEQUENCES
from labelprop_cvat.wording import counted
from labelprop_cvat.workflow import Overview, Step, run_keys
from labelprop_cvat.workflow._guessing import SEGMENTS_FIELD, is_video, label_fields, segments_fields, sort_fields

#: The steps in the order of their buttons: what people call them, and the operator.
STEPS: dict[Step, tuple[str, str]] = {
    Step.SEGMENT: ("Segment", "temporal_segmentation"),
    Step.SELECT: ("Choose exemplars", "select_exemplars"),
    Step.SEND: ("Send to CVAT", "request_annotations"),
    Step.PROPAGATE: ("Propagate", "propagate_labels"),
    Step.LOAD: ("Load", "load_annotations"),
    Step.SUGGEST: ("Suggest frames", "suggest_frames"),
    Step.REVIEW: ("Review", "request_review"),
    Step.EVALUATE: ("Evaluate", "evaluate_propagation"),
    Step.STATUS: ("Status", "run_status"),
    Step.CLEANUP: ("Clean up", "cleanup_run"),
}

#: Those that need a run.
OF_RUNS = (Step.LOAD, Step.SUGGEST, Step.REVIEW, Step.STATUS, Step.CLEANUP)

PICKERS = ("sort_field", "segments_field", "input_field", "output_field", "anno_key")

#: Under which the panel has evaluations kept.
EVALUATION_KEY = "propagation"

_MOST_JOBS = 60
_MARKS = frozenset("\\`*_{}[]()<>#+!|~&")

Json = dict[str, Any]


def summary_of(samples: Any, found: Overview) -> Json:
    """What is drawn besides the plots.

    Args:
        samples: what the overview is of
        found: the overview
    """
    totals = found.totals
    return {
        "step": found.step.step.value,
        "why": found.step.why,
        "notes": list(found.notes),
        "headline": headline(found),
        "is_new": not (totals.segments or totals.annotated or totals.propagated or found.run),
        "is_empty": not totals.frames,
        "choices": choices(samples),
        "picked": {name: getattr(found.fields, name) for name in PICKERS},
        "sequences": len(found.sequences),
        "run": None if found.run is None else run_line(found),
        "asked": bool(found.run and found.run.asked),
        "worst": [[frame.sequence, frame.position, frame.sample_id, frame.frame_number] for frame in found.worst],
        "evaluation": None if found.evaluation is None else evaluation_line(found),
        "judged": None
        if found.evaluation is None
        else {"eval_key": found.evaluation.eval_key, "gt_field": found.evaluation.gt_field},
        "has_calibration": bool(found.evaluation and found.evaluation.summary.get("confidence")),
    }


def choices(samples: Any) -> dict[str, list[str]]:
    """What each picker offers."""
    labels = label_fields(samples)
    known = segments_fields(samples)
    return {
        "sort_field": [] if is_video(samples) else sort_fields(samples),
        "segments_field": known or [SEGMENTS_FIELD],
        "input_field": labels,
        "output_field": labels,
        "anno_key": list(reversed(run_keys(samples._root_dataset))),
    }


def headline(found: Overview) -> str:
    """How much of everything there is, in one line."""
    totals = found.totals
    parts = [
        counted(totals.sequences, "sequence") if totals.sequences != 1 else "",
        counted(totals.frames, "frame"),
        counted(totals.segments, "segment") if totals.segments else "",
        *(
            f"{count} {name}"
            for count, name in (
                (totals.annotated, "annotated"),
                (totals.sent, "in CVAT"),
                (totals.propagated, "propagated"),
                (totals.reviewed, "reviewed"),
            )
            if count
        ),
    ]
    return " · ".join(part for part in parts if part)


def run_line(found: Overview) -> str:
    """What there is to say of the run in a line."""
    run = found.run
    if run is None:
        return ""
    minutes = 0.0 if run.history is None else run.history.minutes
    parts = [
        counted(run.rounds, "round"),
        f"{sum(job.collected for job in run.jobs)} of {counted(len(run.jobs), 'job')} loaded",
        f"about {minutes:.1f} minutes of work so far" if minutes else "",
    ]
    return ", ".join(part for part in parts if part)


def jobs_table(found: Overview) -> str:
    """The jobs as a table in Markdown, which alone can hold links: the newest round first, and what is open."""
    run = found.run
    if run is None or not run.jobs:
        return "Nothing of the run is in CVAT."
    lines = ["| Round | Segment | State | Who | Frames | Doubts | CVAT |", "|---|---|---|---|---|---|---|"]
    jobs = sorted(run.jobs, key=lambda job: (-job.round, job.collected))
    for job in jobs[:_MOST_JOBS]:
        state = "loaded" if job.collected else f"{job.stage}: {job.state}"
        if job.finished and not job.collected:
            state = f"**{job.state}**, to be loaded"
        name = f"job {job.job_id}" if job.job_id else f"task {job.task_id}"
        cells = [
            f"{job.round} {job.kind}",
            _plain(f"{job.sequence} {job.segment}" if len(found.sequences) > 1 else job.segment),
            state,
            _plain(job.assignee or ""),
            str(job.frames),
            _doubts(job.doubts, job.issues),
            f"[{name}]({job.url})" if job.url else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if len(jobs) > _MOST_JOBS:
        lines += ["", f"and {len(jobs) - _MOST_JOBS} more"]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text of people without what Markdown would take for its own."""
    return "".join(f"\\{c}" if c in _MARKS else " " if c.isspace() else c for c in text)


def _doubts(doubts: int, issues: int | None) -> str:
    if issues is None or issues == doubts:
        return str(doubts or "")
    return f"{doubts} ({issues} issue{'' if issues == 1 else 's'} open)"


def worst_rows(found: Overview) -> list[Json]:
    """The rows of the table of the worst frames."""
    several = len(found.sequences) > 1
    return [
        {
            "frame": f"{frame.sequence_name} {frame.frame}" if several else frame.frame,
            "object": f"{frame.label} {'' if frame.index is None else frame.index}".strip(),
            "value": f"{frame.measure} {frame.value:.2f}",
            "why": frame.why,
        }
        for frame in found.worst
    ]


def evaluation_line(found: Overview) -> str:
    """The scores of the evaluation in a line."""
    evaluation = found.evaluation
    if evaluation is None:
        return ""
    scores = evaluation.summary["overall"]
    names = {"j": "J", "f": "F", "box_iou": "box IoU", "idf1": "IDF1"}
    said = [f"{name} {scores[key]:.3f}" for key, name in names.items() if scores.get(key) is not None]
    switches = scores.get("identity_switches")
    said += [counted(switches, "identity switch", "identity switches")] if switches is not None else []
    return f"`{evaluation.pred_field}` judged by `{evaluation.gt_field}`: {', '.join(said)}"


def step_params(step: Step, summary: Json) -> Json:
    """What a step's form is filled in with.

    Args:
        step: the step
        summary: see :func:`summary_of`
    """
    picked = summary.get("picked") or {}
    judged = summary.get("judged") or {}
    segments = picked.get("segments_field")
    fields = {
        "sort_field": picked.get("sort_field"),
        "temporal_segments_field": segments or (SEGMENTS_FIELD if step is Step.SEGMENT else None),
        "input_annotation_field": picked.get("input_field"),
        "output_annotation_field": picked.get("output_field"),
        "anno_key": picked.get("anno_key"),
        "pred_field": picked.get("output_field"),
        "gt_field": judged.get("gt_field"),
        # Without a key nothing is kept that could be drawn.
        "eval_key": judged.get("eval_key") or EVALUATION_KEY,
        "label_field": picked.get("input_field"),
    }
    wanted = {
        Step.SEGMENT: ("temporal_segments_field", "sort_field"),
        Step.SELECT: ("temporal_segments_field", "sort_field"),
        Step.SEND: ("label_field", "sort_field", "temporal_segments_field"),
        Step.PROPAGATE: (
            "input_annotation_field",
            "output_annotation_field",
            "sort_field",
            "temporal_segments_field",
        ),
        Step.EVALUATE: ("pred_field", "gt_field", "eval_key", "sort_field", "temporal_segments_field"),
    }.get(step, ("anno_key",))
    return {name: fields[name] for name in wanted if fields[name]}


def page_of(found: Overview, first: int) -> tuple[int, Sequence[Any]]:
    """The sequences that are shown, and the number of the first one; the last page where there are not so many."""
    count = len(found.sequences)
    first = max(0, min(first, (count - 1) // SEQUENCES * SEQUENCES if count else 0))
    return first, found.sequences[first : first + SEQUENCES]


__all__ = [
    "OF_RUNS",
    "PICKERS",
    "STEPS",
    "choices",
    "jobs_table",
    "page_of",
    "step_params",
    "summary_of",
    "worst_rows",
]
