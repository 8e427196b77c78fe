"""The plots of the report, as inline SVG that takes its colours from the page.

Lengths are units of the drawing's own view box; the page scales it. Texts are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from labelprop_cvat.evaluation.scores import Curve, DistanceRow, SequenceResult
from labelprop_cvat.propagation.calibration import GOOD_J, Calibration

SERIES = 6
"""Colours that the page has for lines, ``--series-0`` and on."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 12.0, 40.0
_MOST_POINTS = 500


def _tag(name: str, *inside: Any, **attributes: Any) -> Markup:
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{}{}>{}</{}>").format(Markup(name), Markup(said), Markup("").join(inside), Markup(name))


def _plain(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _title(text: str) -> Markup:
    return _tag("title", escape(text))


def _drawing(width: float, height: float, name: str, inside: Iterable[Markup], **attributes: Any) -> Markup:
    return _tag(
        "svg",
        *inside,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=name,
        xmlns="http://www.w3.org/2000/svg",
        **attributes,
    )


class _Frame:
    """A plot's area with its scales: ``x`` over ``[x0, x1]``, ``y`` over ``[0, 1]``, upwards."""

    def __init__(self, width: float, height: float, x0: float, x1: float) -> None:
        self.width, self.height = width, height
        self.x0, self.x1 = x0, max(x1, x0 + 1e-9)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - value * (self.height - _TOP - _BOTTOM)

    def grid(self, x_name: str, y_name: str, x_ticks: Mapping[float, str]) -> list[Markup]:
        inside = []
        for tenth in range(0, 11, 2):
            y = self.y(tenth / 10)
            inside.append(_tag("line", x1=_LEFT, x2=self.width - _RIGHT, y1=y, y2=y, class_="grid"))
            inside.append(_tag("text", escape(f"{tenth / 10:.1f}"), x=_LEFT - 6, y=y + 4, class_="tick end"))
        for value, text in x_ticks.items():
            inside.append(_tag("text", escape(text), x=self.x(value), y=self.height - _BOTTOM + 16, class_="tick mid"))
        middle = (_LEFT + self.width - _RIGHT) / 2
        inside.append(_tag("text", escape(x_name), x=middle, y=self.height - 6, class_="axis mid"))
        height = (_TOP + self.height - _BOTTOM) / 2
        turned = f"rotate(-90 12 {height:.1f})"
        inside.append(_tag("text", escape(y_name), x=12, y=height, class_="axis mid", transform=turned))
        return inside


def reliability(found: Calibration, name: str, quality: str) -> Markup:
    """Mean quality of the labels in each bin of confidence, and how many there are."""
    frame = _Frame(420, 330, 0.0, 1.0)
    inside = frame.grid(f"{name} of the label", f"mean {quality}", {t / 10: f"{t / 10:.1f}" for t in range(0, 11, 2)})
    most = max(entry.count for entry in found.bins)
    for entry in found.bins:
        if not entry.count:
            continue
        x, width = frame.x(entry.low) + 2, frame.x(entry.high) - frame.x(entry.low) - 4
        said = (
            f"{name} {entry.low:.1f} to {entry.high:.1f}: {entry.count} labels, mean {quality} {entry.quality:.3f}, "
            f"{entry.good:.0%} at least {GOOD_J}"
        )
        top, floor = frame.y(entry.quality), frame.y(0.0)
        inside.append(_tag("rect", _title(said), x=x, y=top, width=width, height=floor - top, class_="bar", rx=2))
        share = entry.count / most * 24
        inside.append(_tag("rect", x=x, y=floor - share, width=width, height=share, class_="count"))
        inside.append(_tag("circle", _title(said), cx=frame.x(entry.confidence), cy=top, r=4.5, class_="dot"))
    ends = {"x1": frame.x(0.0), "y1": frame.y(0.0), "x2": frame.x(1.0), "y2": frame.y(1.0)}
    inside.append(_tag("line", _title("honest: quality as promised"), **ends, class_="honest"))
    return _drawing(frame.width, frame.height, f"Mean {quality} by {name}", inside)


def distances(rows: Sequence[DistanceRow], quality: str) -> Markup:
    """Mean quality by the distance to the nearest annotated frame."""
    frame = _Frame(420, 330, -0.5, len(rows) - 0.5)
    names = {
        float(place): f"{row.near}" if row.near == row.far else f"{row.near}-{row.far}"
        for place, row in enumerate(rows)
    }
    inside = frame.grid("frames to the nearest annotated frame", f"mean {quality}", names)
    wide = min(46.0, (frame.x(1) - frame.x(0)) * 0.7)
    for place, row in enumerate(rows):
        top, floor = frame.y(row.quality), frame.y(0.0)
        said = (
            f"{names[float(place)]} frames away: {row.count} labels, mean {quality} {row.quality:.3f}, {row.bad:.0%} "
            f"below {GOOD_J}"
        )
        inside.append(
            _tag(
                "rect",
                _title(said),
                x=frame.x(place) - wide / 2,
                y=top,
                width=wide,
                height=floor - top,
                class_="bar",
                rx=2,
            )
        )
        inside.append(_tag("text", escape(f"{row.quality:.2f}"), x=frame.x(place), y=top - 5, class_="tick mid"))
    return _drawing(frame.width, frame.height, f"Mean {quality} by distance to an annotated frame", inside)


def curves(found: Sequence[Curve], quality: str, by: str, measured: tuple[float, float] | None, unit: str) -> Markup:
    """Quality against effort.

    Args:
        found: the series
        quality: what is on the vertical axis
        by: what of a point is on the horizontal one, ``"frames"`` or ``"minutes"``
        measured: effort and quality of what was evaluated, to be marked; None where it is not to be
        unit: what stands below the horizontal axis
    """
    efforts = [float(getattr(point, by)) for curve in found for point in curve.points]
    most = max([*efforts, measured[0] if measured else 0.0, 1e-9]) * 1.04
    frame = _Frame(420, 330, 0.0, most)
    step = _step(most)
    ticks = {step * n: f"{step * n:g}" for n in range(int(most / step) + 1)}
    inside = frame.grid(unit, f"{quality} of the other frames", ticks)
    for place, curve in enumerate(found):
        points = [(frame.x(float(getattr(point, by))), frame.y(point.j)) for point in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = "5 4" if curve.engine == "interpolate" else None
        style = f"stroke:var(--series-{place % SERIES})"
        inside.append(_tag("polyline", points=path, class_="line", style=style, stroke_dasharray=dashed))
        for (x, y), point in zip(points, curve.points, strict=True):
            said = f"{curve.name}: {point.frames} frames, {point.minutes:.1f} minutes: {quality} {point.j:.3f}"
            fill = f"fill:var(--series-{place % SERIES})"
            inside.append(_tag("circle", _title(said), cx=x, cy=y, r=4, style=fill))
    if measured is not None:
        x, y = frame.x(measured[0]), frame.y(measured[1])
        said = f"what was evaluated: {quality} {measured[1]:.3f}"
        inside.append(_tag("path", _title(said), d=f"M{x:.1f} {y - 8:.1f}l7 8l-7 8l-7 -8z", class_="here"))
    return _drawing(frame.width, frame.height, f"{quality} by {by}", inside)


def timeline(sequence: SequenceResult) -> Markup:
    """The quality of each object over a sequence, and where people annotated."""
    width, height, top, bottom = 900.0, 118.0, 12.0, 22.0
    last = max(sequence.length - 1, 1)

    def x(position: float) -> float:
        return 34 + position / last * (width - 44)

    def y(value: float) -> float:
        return height - bottom - value * (height - top - bottom)

    inside = []
    for value in (0.0, 0.5, 1.0):
        inside.append(_tag("line", x1=34, x2=width - 10, y1=y(value), y2=y(value), class_="grid"))
        inside.append(_tag("text", escape(f"{value:g}"), x=28, y=y(value) + 4, class_="tick end"))
    for segment in sequence.segments:
        if segment.start:
            inside.append(
                _tag(
                    "line",
                    _title(f"{segment.label} begins"),
                    x1=x(segment.start - 0.5),
                    x2=x(segment.start - 0.5),
                    y1=top - 6,
                    y2=height - bottom,
                    class_="cut",
                )
            )
    number = sequence.numbers
    for position in sequence.annotated:
        said = f"frame {number[position]}: annotated by people"
        inside.append(_tag("circle", _title(said), cx=x(position), cy=top - 7, r=2.6, class_="person"))
    table = sequence.object_frames
    for place, entry in enumerate(sequence.objects):
        own = (table.index == entry.index) & ~table.extra
        style = f"stroke:var(--series-{place % SERIES})"
        said = f"{entry.index} {entry.label or ''}".strip()
        positions, qualities = table.position[own], table.quality[own]
        for run_x, run_y in _runs(positions, qualities, set(sequence.annotated)):
            points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(run_x, run_y, strict=True))
            if len(run_x) == 1:
                points += f" {x(run_x[0]) + 2:.1f},{y(run_y[0]):.1f}"
            inside.append(_tag("polyline", _title(said), points=points, class_="line", style=style))
    for position in sorted({0, *(round(last * part / 4) for part in range(1, 4)), last}):
        if position < sequence.length:
            end = "end" if position == last and last > 1 else "mid"
            inside.append(_tag("text", escape(number[position]), x=x(position), y=height - 6, class_=f"tick {end}"))
    name = f"Quality of the objects of {sequence.name} over its frames"
    return _drawing(width, height, name, inside, class_="timeline")


def _runs(positions: np.ndarray, values: np.ndarray, bridges: set[int]) -> Iterable[tuple[list[float], list[float]]]:
    """Runs of positions without a gap other than annotated frames; long ones thinned to their lowest values."""
    kept = ~np.isnan(values)
    positions, values = positions[kept], values[kept]
    starts = [0]
    for place in range(1, len(positions)):
        between = range(int(positions[place - 1]) + 1, int(positions[place]))
        if any(position not in bridges for position in between):
            starts.append(place)
    for start, stop in zip(starts, [*starts[1:], len(positions)], strict=True):
        if start == stop:
            continue
        step = math.ceil((stop - start) / _MOST_POINTS)
        places = [at + int(np.argmin(values[at : min(at + step, stop)])) for at in range(start, stop, step)]
        yield [float(positions[place]) for place in places], [float(values[place]) for place in places]


def _step(most: float) -> float:
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


__all__ = ["SERIES", "curves", "distances", "reliability", "timeline"]
