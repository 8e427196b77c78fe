"""The report: one HTML file with its plots and pictures inside, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from labelprop_cvat.evaluation import _plots
from labelprop_cvat.evaluation.results import Evaluation
from labelprop_cvat.evaluation.scores import Sample, Scores
from labelprop_cvat.propagation.calibration import GOOD_J, Calibration
from labelprop_cvat.wording import counted

_MOST_TIMELINES = 60


def render(evaluation: Evaluation) -> str:
    """The report of an evaluation; everything that comes from the dataset is escaped."""
    environment = Environment(
        loader=PackageLoader("labelprop_cvat.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    environment.filters["sortable"] = _sortable
    masks = not math.isnan(evaluation.scores.j)
    quality = "J" if masks else "box IoU"
    return environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        quality=quality,
        headline=_headline(evaluation, masks),
        confidence=_confidence(evaluation, quality),
        distance=_distance(evaluation, quality),
        curves=_curves(evaluation, quality),
        timelines=[(sequence, _plots.timeline(sequence)) for sequence in evaluation.sequences[:_MOST_TIMELINES]],
        further=max(0, len(evaluation.sequences) - _MOST_TIMELINES),
        worst=[_worst(evaluation, sample) for sample in evaluation.worst if sample.image],
        columns=_columns(masks),
        good=GOOD_J,
        series=_plots.SERIES,
    )


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _sortable(value: float) -> str:
    return "-1" if math.isnan(value) else f"{value:.6f}"


def _columns(masks: bool) -> list[tuple[str, str]]:
    """Heading and attribute of the scores that say something."""
    shapes = [("J", "j"), ("F", "f"), ("J&F", "jf"), ("mIoU", "miou")] if masks else []
    return [*shapes, ("box IoU", "box_iou")]


def _headline(evaluation: Evaluation, masks: bool) -> list[tuple[str, str, str]]:
    """Name, number and a word about it."""
    scores = evaluation.scores
    shown = []
    if masks:
        shown = [
            ("J&F", _score(scores.jf), "mean of the two"),
            ("J", _score(scores.j), "overlap of masks"),
            ("F", _score(scores.f), "outlines"),
        ]
    shown += [
        ("box IoU", _score(scores.box_iou), "overlap of boxes"),
        (
            "IDF1",
            _score(scores.identity.idf1),
            counted(scores.identity.switches, "identity switch", "identity switches"),
        ),
        ("need a look", _share(scores), f"of object-frames below {GOOD_J}"),
        (
            "annotated",
            f"{evaluation.annotated_frames / evaluation.frames:.0%}" if evaluation.frames else "-",
            f"{evaluation.annotated_frames} of {evaluation.frames} frames, about {evaluation.minutes:.0f} min",
        ),
    ]
    return shown


def _share(scores: Scores) -> str:
    return f"{scores.bad / scores.object_frames:.1%}" if scores.object_frames else "-"


def _confidence(evaluation: Evaluation, quality: str) -> list[tuple[str, Calibration, Markup]]:
    found = [(name, evaluation.calibration(name)) for name in ("confidence", "agreement")]
    return [(name, known, _plots.reliability(known, name, quality)) for name, known in found if known is not None]


def _distance(evaluation: Evaluation, quality: str) -> Markup | None:
    rows = evaluation.by_distance()
    return _plots.distances(rows, quality) if rows else None


def _curves(evaluation: Evaluation, quality: str) -> list[Markup]:
    if not evaluation.curves:
        return []
    j = evaluation.scores.quality
    shown = evaluation.annotated_frames > 0 and not math.isnan(j)
    plots = []
    for by, effort, unit in (
        ("frames", float(evaluation.annotated_frames), "annotated frames in all"),
        ("minutes", evaluation.minutes, "minutes of annotation, estimated"),
    ):
        plots.append(_plots.curves(evaluation.curves, quality, by, (effort, j) if shown else None, unit))
    return plots


def _worst(evaluation: Evaluation, sample: Sample) -> dict[str, Any]:
    sequence = evaluation.sequences[sample.sequence]
    label = next((entry.label for entry in sequence.objects if entry.index == sample.index), None)
    return {
        "sequence": sequence.name,
        "number": sequence.numbers[sample.position],
        "object": f"{sample.index} {label or ''}".strip(),
        "quality": sample.quality,
        "f": sample.f,
        "confidence": sample.confidence,
        "distance": sample.distance,
        "predicted": sample.predicted,
        "true": sample.true,
        "image": Markup("data:image/jpeg;base64,{}").format(base64.b64encode(sample.image).decode("ascii")),
    }


__all__ = ["render"]
