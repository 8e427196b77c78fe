"""What each round of a run sent, brought back and cost, and how good the propagated labels were after it."""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import fiftyone as fo

from labelprop_cvat.backend.ledger import NO_POSITION, REVIEW, Ledger, RoundRecord, SegmentRecord
from labelprop_cvat.backend.status import console, fitting_table
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.evaluation._judging import OverlapSums, overlaps
from labelprop_cvat.evaluation._reading import PairReader, label_class, survey
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.propagation.segments import PLOT_SUFFIXES
from labelprop_cvat.sequences import Sequence as FrameSequence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labelprop_cvat.backend.results import LabelPropResults

logger = logging.getLogger(__name__)

# Edits by which reviewers change no label.
_SAID = ("verdicts", "issues resolved")

_CURVE, _BARS = "#1f5a94", ("#1f5a94", "#c8621b", "#5b8c3a", "#8a5aa5", "#b08a1e", "#3f8f8f", "#a33a4d", "#7a7a7a")


@dataclass(frozen=True)
class HistoryRow:
    """One round.

    Args:
        round: its number, from 1
        kind: ``"exemplars"`` or ``"review"``
        created: when it was planned, ISO 8601
        jobs: jobs of it in CVAT, or on their way there
        collected: those of them that came back
        sent: frames that people got to see
        seen: frames of the jobs that came back
        objects: different objects that CVAT showed, as far as they are known
        edits: how often reviewers changed something, by the kind of change; empty for rounds of exemplars
        actions: what people did, as far as it was collected
        minutes: how long that takes by the model of effort
        total_minutes: that and all rounds before
        verdicts: how many objects got which verdict; empty for rounds of exemplars
        open_issues: doubts that the package wrote into the round's jobs and that nobody has resolved
        resolved_issues: those that somebody did
        truth: mean IoU of the propagated labels with the ground truth, after the load that took in what came back of
            the round last; None where no truth is known, or nothing came back
    """

    round: int
    kind: str
    created: str
    jobs: int
    collected: int
    sent: int
    seen: int
    objects: int
    edits: Mapping[str, int]
    actions: Actions
    minutes: float
    total_minutes: float
    verdicts: Mapping[str, int]
    open_issues: int
    resolved_issues: int
    truth: float | None

    @property
    def changes(self) -> Mapping[str, int]:
        """What people changed of labels, by the kind of change; what they only said is none."""
        if self.edits:
            return {what: count for what, count in self.edits.items() if what not in _SAID}
        done = {"drawn": self.actions.drawn, "edited": self.actions.edited, "deleted": self.actions.deleted}
        return {what: count for what, count in done.items() if count and self.kind != REVIEW}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **plain,
            "edits": dict(self.edits),
            "verdicts": dict(self.verdicts),
            "actions": self.actions.to_dict(),
            "minutes": round(self.minutes, 2),
            "total_minutes": round(self.total_minutes, 2),
            "truth": None if self.truth is None else round(self.truth, 4),
        }


@dataclass(frozen=True)
class History(Sequence[HistoryRow]):
    """The rounds of a run, the first one first.

    Args:
        rows: one for each round
        anno_key: the run
    """

    rows: tuple[HistoryRow, ...]
    anno_key: str = ""

    @overload
    def __getitem__(self, place: int) -> HistoryRow: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[HistoryRow]: ...

    def __getitem__(self, place: int | slice) -> HistoryRow | Sequence[HistoryRow]:
        return self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self.rows)

    @property
    def minutes(self) -> float:
        """What all rounds together cost people, by the model of effort."""
        return self.rows[-1].total_minutes if self.rows else 0.0

    @property
    def truth(self) -> float | None:
        """Mean IoU with the ground truth after the last load for which it is known."""
        return next((row.truth for row in reversed(self.rows) if row.truth is not None), None)

    @property
    def is_over(self) -> bool:
        """Whether everything that was sent has come back: there is nothing to wait for.

        A run that sends reviews by itself sends the next one within the load that takes the last one in, so that it is
        over when this says so.
        """
        return bool(self.rows) and all(row.collected == row.jobs for row in self.rows)

    def print(self) -> None:
        """Prints a table of the rounds."""
        headings = ["round", "jobs", "frames", "objects", "changed", "minutes", "in all", "verdicts", "issues"]
        has_truth = any(row.truth is not None for row in self.rows)
        rows = [
            [
                f"{row.round} {row.kind}",
                _of(row.collected, row.jobs),
                _of(row.seen, row.sent),
                str(row.objects),
                _counted(row.changes if row.kind == REVIEW else _done(row.actions)),
                f"{row.minutes:.1f}",
                f"{row.total_minutes:.1f}",
                _counted(row.verdicts),
                f"{row.open_issues} open of {issues}" if (issues := row.open_issues + row.resolved_issues) else "-",
                *(["-" if row.truth is None else f"{row.truth:.3f}"] if has_truth else []),
            ]
            for row in self.rows
        ]
        out = console()
        out.print(
            fitting_table(
                out,
                f"Run {self.anno_key}: rounds",
                [*headings, "mean IoU"] if has_truth else headings,
                rows,
                spared=("jobs", "objects", "issues", "in all"),
                numbers=("minutes", "in all", "mean IoU"),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "anno_key": self.anno_key,
            "is_over": self.is_over,
            "minutes": round(self.minutes, 2),
            "truth": None if self.truth is None else round(self.truth, 4),
            "rounds": [row.to_dict() for row in self.rows],
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draws mean IoU against people's minutes, where ground truth is known, above what reviewers changed by round.

        Args:
            path: where to write the picture, ``.png`` or ``.svg``; replaced where it exists, its folder made where it
                does not. None writes nothing

        Returns:
            the figure

        Raises:
            ConfigurationError: there are no rounds, the name ends otherwise, or matplotlib is not installed
            DataError: the picture cannot be written
        """
        if not self.rows:
            raise ConfigurationError(f"Run {self.anno_key!r} has no rounds that could be drawn.")
        if path is not None and Path(path).suffix.lower() not in PLOT_SUFFIXES:
            raise ConfigurationError(f"Plots are written as {' or '.join(PLOT_SUFFIXES)}, got {Path(path).name!r}.")
        figure = _drawn(self.rows, self.anno_key)
        if path is not None:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=100)
            except OSError as error:
                raise DataError(
                    f"The plot {path} cannot be written: {error.strerror or error}. Name another place."
                ) from error
        return figure


def _of(part: int, whole: int) -> str:
    return str(whole) if part == whole else f"{part} of {whole}"


def _counted(counts: Mapping[str, int]) -> list[str]:
    return [f"{count} {what}" for what, count in counts.items() if count] or ["-"]


def _done(actions: Actions) -> dict[str, int]:
    """What people did on exemplars, the few counts that say most."""
    return {
        "drawn": actions.drawn,
        "edited": actions.edited,
        "deleted": actions.deleted,
        "absent": actions.absent,
        "attributes": actions.attributes,
    }


# --- made from the ledger -------------------------------------------------------------------------------------------


def history_of(ledger: Ledger, effort: EffortModel | None = None, *, anno_key: str = "") -> History:
    """The history of a run.

    Args:
        ledger: the run's
        effort: seconds for each kind of action; by default
            :class:`~labelprop_cvat.propagation.effort.EffortModel` as it comes
        anno_key: the run's name, for titles
    """
    model = effort or EffortModel()
    rows: list[HistoryRow] = []
    for record in ledger.rounds:
        before = rows[-1].total_minutes if rows else 0.0
        rows.append(_row(record, model, before))
    return History(tuple(rows), anno_key)


def _row(record: RoundRecord, model: EffortModel, before: float) -> HistoryRow:
    jobs = [job for task in record.tasks for job in task.jobs]
    frames = [(job.collected, sum(position != NO_POSITION for position in job.positions)) for job in jobs]
    objects = {
        (task.sequence, entry.label_field, entry.index)
        for task in record.tasks
        for entry in task.objects.values()
        if entry.sightings
    }
    verdicts = Counter(verdict for job in jobs for by_index in job.verdicts.values() for verdict in by_index.values())
    issues = [issue for job in jobs for issue in job.issues]
    actions = Actions.from_dict(record.actions)
    minutes = model.minutes(actions)
    return HistoryRow(
        round=record.number,
        kind=record.kind,
        created=record.created,
        jobs=len(jobs),
        collected=sum(job.collected for job in jobs),
        sent=sum(count for _, count in frames),
        seen=sum(count for collected, count in frames if collected),
        objects=len(objects),
        edits={what: count for what, count in sorted(record.edits.items()) if count},
        actions=actions,
        minutes=minutes,
        total_minutes=before + minutes,
        verdicts=dict(sorted(verdicts.items())),
        open_issues=sum(not issue.resolved for issue in issues),
        resolved_issues=sum(issue.resolved for issue in issues),
        truth=record.truth,
    )


# --- measured by the truth ------------------------------------------------------------------------------------------


def mean_truth(results: LabelPropResults) -> float | None:
    """Mean IoU of everything that a run has in its output fields by now, labels of people included, with the truth.

    It is that of masks, or of boxes where a side has none, over all objects on all frames of filled segments where the
    truth is stored; an object that is missing, or too much, counts 0. Objects are paired off with the true ones so that
    the sum over each sequence is as large as it can be, as numbers need not be the same. Writes nothing anywhere.

    Args:
        results: the run; ``config.gt_field`` names the field with the truth. It judges the first propagated field where
            the run has several

    Returns:
        in [0, 1]; None where no truth is named, nothing can be compared, or a label cannot be read: that is logged, and
        no reason to lose what people drew
    """
    gt_field = getattr(results.config, "gt_field", None)
    outputs = results.config.outputs()
    if not gt_field or not outputs:
        return None
    label_field, output = next(iter(outputs.items()))
    total, count = 0.0, 0
    try:
        for name in (output, gt_field):
            label_class(results.dataset, name)
        for key, record in results.ledger.sequences.items():
            if record.independent:
                continue
            spans = [
                segment
                for segment in record.segments
                if label_field in segment.fills and segment.fills[label_field].signature is not None
            ]
            if spans:
                found, frames = _compared(results.dataset, results.sequence(key), spans, output, gt_field)
                total, count = total + found, count + frames
    except DataError as error:
        logger.warning("How good %s is by %s stays unknown. %s", output, gt_field, error)
        return None
    return total / count if count else None


def _compared(
    dataset: fo.Dataset, sequence: FrameSequence, segments: Sequence[SegmentRecord], output: str, gt_field: str
) -> tuple[float, int]:
    """Summed IoU over the object-frames of some segments, and how many there are."""
    known = survey(dataset, sequence, output, gt_field).known
    positions = [p for segment in segments for p in range(segment.start, segment.stop) if p in known]
    reader = PairReader(dataset, sequence, output, gt_field, by_instance=True)
    sums = OverlapSums()
    tables: list[tuple[list[int], list[int], Any]] = []
    # The masks are let go of; who overlaps whom is all that is kept of a frame.
    for _, predicted, true in reader.read(positions):
        tables.append((list(true), list(predicted), overlaps(predicted, true)))
        sums.add(predicted, true)
    matches = sums.matches()
    total, count = 0.0, 0
    for true_keys, guess_keys, table in tables:
        paired = {matches[key]: column for column, key in enumerate(guess_keys) if key in matches}
        shared = [float(table[row, paired[key]]) for row, key in enumerate(true_keys) if key in paired]
        total += sum(shared)
        count += len(true_keys) + len(guess_keys) - len(shared)
    return total, count


# --- drawn ----------------------------------------------------------------------------------------------------------


def _drawn(rows: Sequence[HistoryRow], anno_key: str) -> Figure:
    try:
        # Imported here: it takes half a second. Figure rather than pyplot, which would change a notebook's settings.
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigurationError("Plots need matplotlib: pip install matplotlib.") from error
    judged = [row for row in rows if row.truth is not None]
    figure: Figure = figures.Figure(figsize=(8, 3.2 * (1 + bool(judged))), layout="constrained")
    axes = figure.subplots(1 + bool(judged), 1, squeeze=False)[:, 0]
    if judged:
        _draw_truth(axes[0], judged)
    _draw_edits(axes[-1], rows)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    if anno_key:
        # Names of runs may hold what matplotlib takes for mathematics.
        figure.suptitle(f"Run {anno_key}".replace("$", r"\$"), fontsize="medium")
    return figure


def _draw_truth(axis: Any, rows: Sequence[HistoryRow]) -> None:
    minutes, truth = [row.total_minutes for row in rows], [row.truth for row in rows]
    axis.plot(minutes, truth, color=_CURVE, linewidth=1.4, marker="o", markersize=5)
    for row in rows:
        # Numbers alone: late rounds lie close to each other. The bars below name them.
        axis.annotate(
            str(row.round), (row.total_minutes, row.truth), textcoords="offset points", xytext=(0, -12), ha="center",
            fontsize="x-small",
        )  # fmt: skip
    axis.set_xlabel("minutes of people, by the model of effort; points are rounds")
    axis.set_ylabel("mean IoU")
    axis.margins(y=0.15)
    axis.set_xlim(0, 1.15 * max([0.1, *minutes]))


def _draw_edits(axis: Any, rows: Sequence[HistoryRow]) -> None:
    """Stacked bars of what people changed; what they drew and mended on exemplars where it was such a round."""
    changes = [row.changes for row in rows]
    kinds = list(dict.fromkeys(kind for found in changes for kind, count in found.items() if count))
    places = list(range(len(rows)))
    floor = [0] * len(rows)
    for number, kind in enumerate(kinds):
        heights = [found.get(kind, 0) for found in changes]
        axis.bar(places, heights, bottom=floor, width=0.6, color=_BARS[number % len(_BARS)], label=kind)
        floor = [below + height for below, height in zip(floor, heights, strict=True)]
    axis.set_xticks(places, [f"{row.round}\n{row.kind}" for row in rows])
    axis.set_xlabel("round")
    axis.set_ylabel("what people changed")
    # The names stand above the bars.
    axis.set_ylim(0, 1.3 * max([1, *floor]))
    axis.yaxis.get_major_locator().set_params(integer=True)
    if kinds:
        axis.legend(fontsize="x-small", frameon=False, ncols=min(4, len(kinds)))


__all__ = ["History", "HistoryRow", "history_of", "mean_truth"]
