"""The panel's plots, as Plotly takes them. Colours are such that they stand on dark and on light ground."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from labelprop_cvat.workflow import FrameState, SequenceOverview

#: So many sequences are shown at a time.
SEQUENCES = 4

_BAND_HEIGHT, _LOW_BAND_HEIGHT, _MARGINS = 150, 76, 96

STATE_NAMES = {
    FrameState.EMPTY: "nothing yet",
    FrameState.EXEMPLAR: "exemplar",
    FrameState.SENT: "in CVAT",
    FrameState.PROPAGATED: "propagated",
    FrameState.REVIEWED: "reviewed",
    FrameState.ANNOTATED: "annotated",
}
_STATE_COLOURS = {
    FrameState.EMPTY: "rgba(128,128,128,0.22)",
    FrameState.EXEMPLAR: "rgba(128,128,128,0.45)",
    FrameState.SENT: "#c9a227",
    FrameState.PROPAGATED: "#4a8fd9",
    FrameState.REVIEWED: "#3fa66a",
    FrameState.ANNOTATED: "#e8742c",
}
_SEGMENT_COLOURS = ("#6b7fa8", "#8a6fa3", "#5f8f87", "#a3805c", "#7a8a5a", "#a0697a")
_LOWEST, _MEAN, _QUALITY = "#d1495b", "#4a8fd9", "#3fa66a"
_GRID = "rgba(128,128,128,0.25)"

# More columns than pixels would show nothing more.
_MOST_COLUMNS = 600
_MOST_MARKS = 400
# Pixels of a letter, and of a timeline in a narrow panel.
_LETTER, _NARROW = 6.2, 420.0
_MOST_BARS = 40

# Places in a sequence's band: the curves below, the frames above them, the segments on top.
_STRIP, _BLOCKS, _NAME, _TOP = (1.14, 1.36), (1.43, 1.80), 2.0, 2.16

Figure = tuple[list[dict[str, Any]], dict[str, Any]]


def timeline(sequences: Sequence[SequenceOverview]) -> Figure:
    """Segments, frames and confidence of some sequences, one band below the other.

    Points have ids: ``"<start>|<stop>|<key>"`` of a segment, ``"<position>|<key>"`` of a frame.

    Returns:
        data and layout
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "margin": {"t": 30, "l": 34, "r": 10, "b": 36},
        "barmode": "overlay",
        "hovermode": "closest",
        "dragmode": "zoom",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}, "itemclick": False,
                   "itemdoubleclick": False, "tracegroupgap": 4},
        "annotations": [],
        "xaxis": {"showgrid": False, "zeroline": False, "title": {"text": "frame", "font": {"size": 12}},
                  "range": [0.5, max([len(s) for s in sequences], default=1) + 0.5]},
    }  # fmt: skip
    layout["xaxis"]["anchor"] = _axis(len(sequences) - 1)
    heights = [_BAND_HEIGHT if _has_curves(sequence) else _LOW_BAND_HEIGHT for sequence in sequences]
    layout["height"] = sum(heights) + _MARGINS
    above = 0
    for place, sequence in enumerate(sequences):
        top, above = 1 - above / sum(heights), above + heights[place]
        has_curves = _has_curves(sequence)
        layout[f"yaxis{'' if place == 0 else place + 1}"] = {
            "domain": [max(0.0, 1 - above / sum(heights)), top - 8 / sum(heights)],
            "range": [-0.06 if has_curves else _STRIP[0] - 0.06, _TOP],
            "fixedrange": True,
            "zeroline": False,
            "showgrid": has_curves,
            "gridcolor": _GRID,
            "tickvals": [0, 0.5, 1] if has_curves else [],
            "tickfont": {"size": 10},
            "color": "rgba(128,128,128,0.95)",
        }
        layout["annotations"].append(
            {
                "text": f"{_plain(sequence.name)}, {len(sequence)} frames",
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "yref": _axis(place),
                "y": _NAME,
                "yanchor": "middle",
                "showarrow": False,
                "font": {"size": 12},
            }
        )
        data += _band(sequence, _axis(place), max(map(len, sequences)))
    data += _legend(sequences)
    return data, layout


def column_position(sequence: SequenceOverview, column: int) -> int:
    """The 0-based position of the first frame of a column of the strip of frames."""
    return int(_edges(len(sequence))[max(0, min(column, _columns(len(sequence)) - 1))])


def _has_curves(sequence: SequenceOverview) -> bool:
    return not all(np.isnan(values).all() for values in (sequence.lowest, sequence.mean, sequence.quality))


def _band(sequence: SequenceOverview, axis: str, longest: int) -> Iterator[dict[str, Any]]:
    if not len(sequence):
        return
    if sequence.segments:
        yield _blocks(sequence, axis, longest)
    yield _strip(sequence, axis)
    yield from _marks(sequence, axis)
    yield from _curves(sequence, axis)


def _blocks(sequence: SequenceOverview, axis: str, longest: int) -> dict[str, Any]:
    segments = sequence.segments
    low, high = _BLOCKS
    # Names that do not fit would lie over each other.
    names = [
        _plain(segment.label) if len(segment.label) * _LETTER <= len(segment) / longest * _NARROW else ""
        for segment in segments
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"segments|{sequence.key}",
        "showlegend": False,
        "yaxis": axis,
        "y": [(low + high) / 2] * len(segments),
        "width": [high - low] * len(segments),
        "base": [segment.start + 0.5 for segment in segments],
        "x": [len(segment) for segment in segments],
        "ids": [f"{segment.start}|{segment.stop}|{sequence.key}" for segment in segments],
        "text": names,
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "none",
        "textfont": {"size": 11, "color": "#ffffff"},
        "hovertext": [
            f"{_plain(segment.label)}: frames {segment.start + 1} to {segment.stop}<br>click to open its view"
            for segment in segments
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "color": [_SEGMENT_COLOURS[place % len(_SEGMENT_COLOURS)] for place in range(len(segments))],
            "line": {"width": 1, "color": "rgba(255,255,255,0.55)"},
        },
    }


def _strip(sequence: SequenceOverview, axis: str) -> dict[str, Any]:
    edges = _edges(len(sequence))
    states, texts = [], []
    for start, stop in pairwise(edges):
        state = FrameState(int(np.bincount(sequence.states[start:stop]).argmax()))
        states.append(int(state))
        frames = sequence.frame_name(int(start))
        frames += f" to {sequence.frame_name(int(stop) - 1)}" if stop - start > 1 else ""
        texts.append(f"{_plain(frames)}: {STATE_NAMES[state]}")
    steps = len(FrameState)
    scale: list[list[Any]] = []
    for state, colour in _STATE_COLOURS.items():
        scale += [[int(state) / steps, colour], [(int(state) + 1) / steps, colour]]
    return {
        "type": "heatmap",
        "name": f"frames|{sequence.key}",
        "yaxis": axis,
        "x": [float(edge) + 0.5 for edge in edges],
        "y": list(_STRIP),
        "z": [states],
        "zmin": -0.5,
        "zmax": steps - 0.5,
        "colorscale": scale,
        "showscale": False,
        "text": [texts],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _marks(sequence: SequenceOverview, axis: str) -> Iterator[dict[str, Any]]:
    is_annotated = sequence.states == FrameState.ANNOTATED
    for there, symbol, what in (
        (is_annotated, "diamond", "annotated"),
        (sequence.exemplars & ~is_annotated, "diamond-open", "exemplar"),
    ):
        positions = [int(position) for position in np.flatnonzero(there)]
        if not positions or len(positions) > _MOST_MARKS:
            continue
        yield {
            "type": "scatter",
            "mode": "markers",
            "cliponaxis": False,
            "name": f"marks|{sequence.key}",
            "showlegend": False,
            "yaxis": axis,
            "x": [position + 1 for position in positions],
            "y": [sum(_STRIP) / 2] * len(positions),
            "ids": [f"{position}|{sequence.key}" for position in positions],
            "text": [f"{_plain(sequence.frame_name(position))}: {what}" for position in positions],
            "hovertemplate": "%{text}<br>click to open<extra></extra>",
            "marker": {
                "symbol": symbol,
                "size": 9,
                "color": _STATE_COLOURS[FrameState.ANNOTATED],
                "line": {"width": 1.5, "color": "#ffffff" if symbol == "diamond" else "#e8742c"},
            },
        }


def _curves(sequence: SequenceOverview, axis: str) -> Iterator[dict[str, Any]]:
    for values, colour, name, dash, is_lowest in (
        (sequence.mean, _MEAN, "mean confidence", "solid", False),
        (sequence.lowest, _LOWEST, "lowest confidence", "solid", True),
        (sequence.quality, _QUALITY, "J", "dot", True),
    ):
        if np.isnan(values).all():
            continue
        positions, points = _thinned(values, is_lowest)
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": f"curve|{sequence.key}",
            "showlegend": False,
            "yaxis": axis,
            "connectgaps": False,
            "x": [position + 1 for position in positions],
            "y": points,
            "ids": [f"{position}|{sequence.key}" for position in positions],
            "text": [_plain(sequence.frame_name(position)) for position in positions],
            "hovertemplate": f"%{{text}}: {name} %{{y:.2f}}<br>click to open<extra></extra>",
            "line": {"width": 1.6, "color": colour, "dash": dash},
        }


def _thinned(values: npt.NDArray[np.float64], is_lowest: bool) -> tuple[list[int], list[float | None]]:
    """A point for each column: its lowest value where that stands, or its mean."""
    positions: list[int] = []
    points: list[float | None] = []
    edges = _edges(len(values))
    for start, stop in pairwise(edges):
        part = values[start:stop]
        if np.isnan(part).all():
            positions.append(int(start))
            points.append(None)
        elif is_lowest:
            at = int(np.nanargmin(part))
            positions.append(int(start) + at)
            points.append(round(float(part[at]), 4))
        else:
            positions.append(int(start))
            points.append(round(float(np.nanmean(part)), 4))
    return positions, points


def _legend(sequences: Sequence[SequenceOverview]) -> Iterator[dict[str, Any]]:
    there = {FrameState(int(state)) for sequence in sequences for state in np.unique(sequence.states)}
    entries: list[tuple[str, dict[str, Any]]] = [
        (STATE_NAMES[state], {"mode": "markers", "marker": {"symbol": "square", "size": 10, "color": colour}})
        for state, colour in _STATE_COLOURS.items()
        if state in there and state not in (FrameState.EMPTY, FrameState.EXEMPLAR)
    ]
    if any((sequence.exemplars & (sequence.states != FrameState.ANNOTATED)).any() for sequence in sequences):
        mark = {"symbol": "diamond-open", "size": 9, "color": _STATE_COLOURS[FrameState.ANNOTATED]}
        entries.append(("exemplar", {"mode": "markers", "marker": mark}))
    for name, colour, dash in (
        ("lowest confidence", _LOWEST, "solid"),
        ("mean confidence", _MEAN, "solid"),
        ("J", _QUALITY, "dot"),
    ):
        held = {"lowest confidence": "lowest", "mean confidence": "mean", "J": "quality"}[name]
        if any(not np.isnan(getattr(sequence, held)).all() for sequence in sequences if len(sequence)):
            entries.append((name, {"mode": "lines", "line": {"color": colour, "dash": dash, "width": 2}}))
    for name, look in entries:
        yield {"type": "scatter", "name": name, "x": [None], "y": [None], "hoverinfo": "skip", **look}


def _columns(length: int) -> int:
    return min(length, _MOST_COLUMNS)


def _edges(length: int) -> npt.NDArray[np.int64]:
    """First positions of the columns, and the length."""
    edges: npt.NDArray[np.int64] = np.linspace(0, length, _columns(length) + 1).round().astype(np.int64)
    return edges


def objects(summary: Mapping[str, Any]) -> Figure:
    """J of each object, the worst on the left; of many the worst ones only.

    Args:
        summary: of an evaluation
    """
    rows = []
    several = len(summary["sequences"]) > 1
    for sequence in summary["sequences"]:
        for entry in sequence["objects"]:
            value = _first(entry["scores"]["j"], entry["scores"]["box_iou"])
            if value is not None:
                name = f"{entry['label'] or 'object'} {entry['index']}"
                rows.append((value, f"{sequence['name']}: {name}" if several else name))
    rows = sorted(rows)[:_MOST_BARS]
    data = [
        {
            "type": "bar",
            "x": [_plain(name) for _, name in rows],
            "y": [round(value, 4) for value, _ in rows],
            "hovertemplate": "%{x}: %{y:.3f}<extra></extra>",
            "marker": {"color": _MEAN},
        }
    ]
    return data, _small("J of each object", {"type": "category"})


def segments(summary: Mapping[str, Any]) -> Figure:
    """J of each temporal segment, in order.

    Args:
        summary: of an evaluation
    """
    names, values = [], []
    for sequence in summary["sequences"]:
        for entry in sequence["segments"]:
            value = _first(entry["scores"]["j"], entry["scores"]["box_iou"])
            if value is not None:
                names.append(_plain(f"{sequence['name']} {entry['label']}".strip()))
                values.append(round(value, 4))
    data = [
        {
            "type": "bar",
            "x": list(range(1, len(values) + 1)),
            "y": values,
            "text": names,
            "textposition": "none",
            "hovertemplate": "%{text}: %{y:.3f}<extra></extra>",
            "marker": {"color": _QUALITY},
        }
    ]
    return data, _small("J of each segment", {"dtick": max(1, math.ceil(len(values) / 12))})


def calibration(summary: Mapping[str, Any]) -> Figure | None:
    """Mean quality by confidence, beside what an honest confidence would give; None where no label says any.

    Args:
        summary: of an evaluation
    """
    found = summary.get("confidence")
    if not found:
        return None
    bins = [entry for entry in found["bins"] if entry["count"]]
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "x": [(entry["low"] + entry["high"]) / 2 for entry in bins],
            "width": [(entry["high"] - entry["low"]) * 0.9 for entry in bins],
            "y": [round(entry["quality"], 4) for entry in bins],
            "text": [f"{entry['count']} labels" for entry in bins],
            "textposition": "none",
            "hovertemplate": "confidence about %{x:.2f}: J %{y:.3f}, %{text}<extra></extra>",
            "marker": {"color": _MEAN},
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "hoverinfo": "skip",
            "line": {"dash": "dot", "width": 1.5, "color": "rgba(128,128,128,0.9)"},
        },
    ]
    return data, _small("J by confidence", {"range": [0, 1]})


def _small(title: str, xaxis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "height": 210,
        "margin": {"t": 34, "l": 34, "r": 10, "b": 34},
        "title": {"text": title, "font": {"size": 13}, "x": 0.02, "xanchor": "left"},
        "xaxis": {"showgrid": False, "zeroline": False, "tickfont": {"size": 10}, **xaxis},
        "yaxis": {"range": [0, 1.02], "tickvals": [0, 0.5, 1], "fixedrange": True, "tickfont": {"size": 10}},
        "hovermode": "closest",
    }


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _axis(place: int) -> str:
    return "y" if place <= 0 else f"y{place + 1}"


def _plain(text: str) -> str:
    """A text of people without what Plotly would take for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


__all__ = [
    "SEQUENCES",
    "STATE_NAMES",
    "calibration",
    "column_position",
    "objects",
    "segments",
    "timeline",
]
