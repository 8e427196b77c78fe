"""What an evaluation found, as tables for a terminal. Made from the JSON, so that stored ones can be shown too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLUMNS = {"j": "J", "f": "F", "jf": "J&F", "miou": "mIoU", "box_iou": "box", "idf1": "IDF1"}


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints an evaluation.

    Args:
        summary: what :meth:`~labelprop_cvat.evaluation.Evaluation.to_dict` gave
        console: where to; by default the terminal
    """
    console = console or Console()
    console.print(_scores_table(summary))
    effort = summary["effort"]
    console.print(
        Text(
            f"{effort['annotated_frames']} of {effort['frames']} frames annotated by people, about "
            f"{effort['minutes']:.1f} minutes; {summary['overall']['frames']} frames scored, "
            f"{summary['overall']['bad']} of {summary['overall']['object_frames']} object-frames below an IoU of 0.75."
        )
    )
    for name in ("confidence", "agreement"):
        if summary[name] is not None:
            console.print(Text(_calibration_line(name, summary[name])))
    if summary["curves"]:
        console.print()
        console.print(_curves_table(summary["curves"]))
    for note in summary["notes"]:
        console.print(Text(f"Note: {note}", style="yellow"))


def _scores_table(summary: Mapping[str, Any]) -> Table:
    table = Table(
        title=Text(f"{summary['pred_field']} judged by {summary['gt_field']}, of {summary['dataset']}"),
        title_justify="left",
        caption="box: IoU of boxes. IDsw: identity switches. miss, extra: object-frames only true, only predicted.",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("sequence", no_wrap=True, overflow="ellipsis", max_width=20)
    for heading in (*_COLUMNS.values(), "IDsw", "miss", "extra", "frames"):
        table.add_column(heading, justify="right", no_wrap=True)
    for sequence in summary["sequences"]:
        table.add_row(Text(sequence["name"]), *_cells(sequence["scores"]))
        if len(sequence["objects"]) > 1:
            for entry in sequence["objects"]:
                name = Text(f"  {entry['index']} {entry['label'] or ''}", style="dim")
                table.add_row(name, *_cells(entry["scores"]), style="dim")
    table.add_section()
    table.add_row("all", *_cells(summary["overall"]), style="bold")
    return table


def _cells(scores: Mapping[str, Any]) -> list[str]:
    counts = ("identity_switches", "missed", "extra", "frames")
    return [_shown(scores[name]) for name in _COLUMNS] + [str(scores[name]) for name in counts]


def _curves_table(curves: list[Mapping[str, Any]]) -> Table:
    table = Table(
        title="Quality of the other frames by annotated frames a segment", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("engine, how frames are chosen")
    budgets = [point["budget"] for point in curves[0]["points"]]
    minutes = {point["budget"]: point["minutes"] for point in curves[0]["points"]}
    for budget in budgets:
        table.add_column(f"{budget}\n{minutes[budget]:.1f} min", justify="right")
    for curve in curves:
        found = {point["budget"]: point["j"] for point in curve["points"]}
        table.add_row(f"{curve['engine']}, {curve['method']}", *[_shown(found.get(budget)) for budget in budgets])
    return table


def _calibration_line(name: str, found: Mapping[str, Any]) -> str:
    # An agreement promises nothing, it only tells good from bad.
    error = _shown(found["expected_calibration_error"])
    honesty = f"expected calibration error {error}, " if name == "confidence" else ""
    return (
        f"{name} of {found['count']} labels: mean {found['mean']:.3f} against a mean quality of "
        f"{found['mean_quality']:.3f}; {honesty}AUROC of bad ones {_shown(found['auroc'])}, "
        f"Spearman {_shown(found['spearman'])}."
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


__all__ = ["print_summary"]
