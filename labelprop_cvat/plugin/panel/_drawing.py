"""How the panel looks: everything is drawn from its state, nothing is computed here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from labelprop_cvat.plugin.panel._summary import OF_RUNS, STEPS

if TYPE_CHECKING:
    from labelprop_cvat.plugin.panel._panel import Context, LabelPropagationPanel

_POLL_MILLISECONDS = 1500

_PICKER_LABELS = {
    "sort_field": "Sort field",
    "segments_field": "Temporal segments",
    "input_field": "Input field",
    "output_field": "Output field",
    "anno_key": "Run",
}

_WELCOME = """
Cut the sequence into shots, choose a few exemplar frames, and send them to CVAT, where people annotate them.
Load what they drew: the frames between are filled in, each label with a confidence.
What is in doubt goes back to people until nothing is left to correct; labels that are there already can be propagated
without CVAT.
"""

_FLAT = {"container": {"sx": {"p": 0}}}
_CARDS = {"grid": {"sx": {"display": "grid", "gridTemplateColumns": "repeat(auto-fit, minmax(150px, 1fr))", "gap": 1}}}
_ROW = {"grid": {"sx": {"display": "flex", "flexWrap": "wrap", "gap": 1, "alignItems": "center"}}}
# What stands in a row takes no more room than it needs.
_IN_ROW = {"item": {"sx": {"width": "auto"}}}
# Wide content scrolls or wraps in its own place, and the rest keeps to the panel.
_COLUMN = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
_TABLE = {
    # The App's own is at least 650 px wide, and so is then everything in the panel.
    "table": {"sx": {"minWidth": 0}, "size": "small"},
    "tableHeadCell": {"sx": {"fontSize": "0.8rem", "px": 1, "py": 0.5}},
    "tableBodyCell": {"sx": {"fontSize": "0.8rem", "px": 1, "py": 0.5}},
}

_LINKED_TABLE = {
    "container": {
        "sx": {
            "& td, & th": {"padding": "4px 8px !important", "fontSize": "0.8rem"},
            "& p": {"margin": 0, "fontSize": "0.8rem"},
        }
    }
}


def draw(panel: LabelPropagationPanel, ctx: Context) -> types.Property:
    """The panel as its state says it is."""
    root = types.Object()
    state = ctx.panel.get_state
    summary: Mapping[str, Any] = state("summary") or {}
    if ctx.dataset is None:
        root.md("Open a dataset of images or videos to begin.", name="nothing")
    elif state("trouble"):
        root.view("trouble", types.AlertView(severity="warning", label=str(state("trouble"))))
    if ctx.dataset is not None and summary:
        _pickers(root, panel, summary)
        _headline(root, panel, summary, state)
        _steps(root, panel, summary)
        _activity(root, panel, state)
        _timeline(root, panel, summary, state)
        _rounds(root, panel, summary)
        _worst(root, panel, summary)
        _evaluation(root, summary, state)
    activity = state("activity") or {}
    if activity.get("is_running") or (state("expecting") or 0) > time.time():
        root.view("timer", types.TimerView(interval=_POLL_MILLISECONDS, on_interval=panel.on_poll))
    return types.Property(root, view=types.GridView(orientation="vertical", gap=2, pad=2, componentsProps=_COLUMN))


def _pickers(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any]) -> None:
    box = types.Object()
    offered, picked = summary["choices"], summary["picked"]
    for name, label in _PICKER_LABELS.items():
        choices: Sequence[str] = offered.get(name) or ()
        if not choices or (name == "sort_field" and summary["is_empty"]):
            continue
        view = types.DropdownView(label=label, placeholder="none")
        for value in choices:
            view.add_choice(value, label=value)
        box.str(name, default=picked.get(name), view=view, on_change=panel.on_pick)
    if box.properties:
        root.define_property("pickers", box, view=types.GridView(gap=1, componentsProps=_CARDS))


def _headline(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any], state: Any) -> None:
    row = types.Object()
    row.md(summary["headline"] or "Nothing here yet", name="headline", componentsProps=_IN_ROW)
    row.btn(
        "refresh",
        label="Refresh",
        icon="refresh",
        on_click=panel.on_refresh,
        variant="outlined",
        componentsProps=_IN_ROW,
    )
    if state("opened"):
        row.btn(
            "back",
            label="Back to the whole view",
            icon="arrow_back",
            on_click=panel.on_back,
            variant="contained",
            componentsProps=_IN_ROW,
        )
    root.define_property("top", row, view=types.GridView(gap=1, componentsProps=_ROW))
    if summary["is_new"]:
        root.md(_WELCOME, name="welcome")
    for number, note in enumerate(summary["notes"]):
        root.view(f"note_{number}", types.AlertView(severity="warning", label=note))


def _steps(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any]) -> None:
    root.md(f"**Next: {STEPS_BY_VALUE[summary['step']]}.** {summary['why']}", name="next_step")
    row = types.Object()
    for step, (label, _) in STEPS.items():
        if step in OF_RUNS and not summary["run"]:
            continue
        is_next = step.value == summary["step"]
        row.btn(
            step.value,
            label=label,
            on_click=panel.on_step,
            params={"step": step.value},
            variant="contained" if is_next else "outlined",
            disabled=summary["is_empty"],
            componentsProps=_IN_ROW,
        )
    root.define_property("steps", row, view=types.GridView(gap=1, componentsProps=_ROW))


def _activity(root: types.Object, panel: LabelPropagationPanel, state: Any) -> None:
    activity = state("activity")
    if not activity or not activity["is_running"]:
        if activity and activity["state"] in ("failed", "stopped") and activity["message"]:
            severity = "error" if activity["state"] == "failed" else "warning"
            root.view("ended", types.AlertView(severity=severity, label=f"{activity['label']}: {activity['message']}"))
        return
    box = types.Object()
    said = activity["description"] or "begins"
    where = " in another process" if activity["delegated"] else ""
    box.float(
        "progress",
        default=activity["progress"] or 0.0,
        view=types.ProgressView(label=f"{activity['label']}{where}: {said}"),
    )
    box.btn(
        "stop",
        label="Stopping" if activity["is_stopping"] else "Stop",
        icon="stop",
        on_click=panel.on_stop,
        disabled=activity["is_stopping"],
        variant="outlined",
    )
    root.define_property("running", box, view=types.GridView(orientation="vertical", gap=1, variant="outline"))


def _timeline(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any], state: Any) -> None:
    if summary["is_empty"]:
        return
    part = types.Object()
    layout = state("timeline_layout") or {}
    part.plot(
        "timeline",
        layout=layout,
        config={"displayModeBar": False, "scrollZoom": False},
        on_click=panel.on_timeline,
        height=f"{layout.get('height', 0)}px",
    )
    first, shown, total = summary["first"], summary["shown"], summary["sequences"]
    if total > shown:
        row = types.Object()
        row.btn(
            "previous",
            label="Previous",
            icon="chevron_left",
            variant="outlined",
            on_click=panel.on_previous,
            disabled=first == 0,
            componentsProps=_IN_ROW,
        )
        row.md(f"Sequences {first + 1} to {first + shown} of {total}", name="page", componentsProps=_IN_ROW)
        row.btn(
            "next",
            label="Next",
            icon="chevron_right",
            variant="outlined",
            on_click=panel.on_next,
            disabled=first + shown >= total,
            componentsProps=_IN_ROW,
        )
        part.define_property("pages", row, view=types.GridView(gap=1, componentsProps=_ROW))
    root.define_property(
        "timeline_part", part, view=types.GridView(orientation="vertical", gap=1, componentsProps=_COLUMN)
    )


def _rounds(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any]) -> None:
    if not summary["run"]:
        return
    part = types.Object()
    seen = "as CVAT says now" if summary["asked"] else "as last seen; Refresh asks CVAT"
    part.md(f"{summary['run']} ({seen})", name="line")
    part.md(summary["jobs"], name="jobs", componentsProps=_LINKED_TABLE)
    root.define_property("run_part", part, view=_section(f"Rounds of {summary['picked']['anno_key']}"))


def _worst(root: types.Object, panel: LabelPropagationPanel, summary: Mapping[str, Any]) -> None:
    if not summary["worst"]:
        return
    part = types.Object()
    table = types.TableView(componentsProps=_TABLE, on_click_row=panel.on_worst)
    for key, label in (("frame", "Frame"), ("object", "Object"), ("value", "How good"), ("why", "Why")):
        table.add_column(key, label=label)
    part.list("frames", types.Object(), view=table)
    root.define_property("worst_part", part, view=_section("Worst frames first (click to open)"))


def _evaluation(root: types.Object, summary: Mapping[str, Any], state: Any) -> None:
    if not summary["evaluation"]:
        return
    part = types.Object()
    part.md(summary["evaluation"], name="line")
    plots = types.Object()
    for name in ("objects", "segments", "calibration"):
        layout = state(f"{name}_layout")
        if layout and (name != "calibration" or summary["has_calibration"]):
            plots.plot(name, layout=layout, config={"displayModeBar": False, "scrollZoom": False}, height="210px")
    cards = {"grid": {"sx": {"display": "grid", "gridTemplateColumns": "repeat(auto-fit, minmax(260px, 1fr))"}}}
    part.define_property("plots", plots, view=types.GridView(gap=1, componentsProps=cards))
    root.define_property("evaluation_part", part, view=_section("Evaluation"))


def _section(title: str) -> types.View:
    return types.ObjectView(label=title, collapsible=True, default_expanded=True, componentsProps=_FLAT)


STEPS_BY_VALUE = {step.value: label for step, (label, _) in STEPS.items()}

__all__ = ["draw"]
