"""Overviews as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labelprop_cvat.workflow._overview import Overview

_MOST_SEQUENCES, _MOST_PLACES = 30, 10


def print_overview(found: Overview) -> None:
    """Prints a table of the sequences, one of the worst places, and the next step."""
    from labelprop_cvat.backend.status import console, fitting_table, shown
    from labelprop_cvat.workflow._overview import FrameState

    out = console()
    states = (FrameState.ANNOTATED, FrameState.SENT, FrameState.PROPAGATED, FrameState.REVIEWED)
    headings = ["sequence", "frames", "segments", "exemplars", *(state.name.lower() for state in states)]
    rows = [
        [
            shown(sequence.name),
            str(len(sequence)),
            str(len(sequence.segments)),
            str(int(sequence.exemplars.sum())),
            *(str(sequence.count(state)) for state in states),
        ]
        for sequence in found.sequences[:_MOST_SEQUENCES]
    ]
    out.print(fitting_table(out, found.dataset, headings, rows, numbers=headings[1:], spared=("sent", "segments")))
    if len(found.sequences) > _MOST_SEQUENCES:
        out.print(f"and {len(found.sequences) - _MOST_SEQUENCES} more sequences")
    if found.worst:
        headings = ["sequence", "segment", "frame", "object", "value", "why"]
        places = [
            [
                shown(frame.sequence_name),
                shown(frame.segment),
                shown(frame.frame),
                shown(f"{frame.label} {'' if frame.index is None else frame.index}".strip()),
                f"{frame.measure} {frame.value:.2f}",
                shown(frame.why),
            ]
            for frame in found.worst[:_MOST_PLACES]
        ]
        out.print(fitting_table(out, "Worst first", headings, places, spared=("segment", "why")))
    for note in found.notes:
        out.print(shown(note))
    out.print(shown(f"Next: {found.step.step.value}. {found.step.why}"))


__all__ = ["print_overview"]
