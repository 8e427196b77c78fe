"""A whole evaluation: what it found, what it was made with, and the files that it can be written to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelprop_cvat.errors import DataError
from labelprop_cvat.evaluation.scores import (
    Curve,
    DistanceRow,
    ObjectResult,
    Sample,
    Scores,
    SegmentResult,
    SequenceResult,
    number,
    numbers,
)
from labelprop_cvat.propagation.calibration import GOOD_J, Calibration, calibrate

SCHEMA = "labelprop-evaluation"
SCHEMA_VERSION = 1
"""Grows when a name in the JSON goes or changes its meaning; new names may come without."""

_FAR = 16


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good predicted labels are, judged by true ones.

    Args:
        dataset: name of the dataset
        pred_field: field with the predictions, in normal form
        gt_field: field with the truth, likewise
        eval_key: the key under which the dataset keeps it; None where nothing was written
        scores: of all sequences together
        sequences: the sequences
        curves: quality against effort; empty where it was not asked for
        worst: the worst frames, each of another place or object
        notes: sentences about what was left out
        options: what it was asked for
        made: when, and with which versions
        effort: seconds that the model of effort takes for each action
    """

    dataset: str
    pred_field: str
    gt_field: str
    eval_key: str | None
    scores: Scores
    sequences: tuple[SequenceResult, ...]
    curves: tuple[Curve, ...]
    worst: tuple[Sample, ...]
    notes: tuple[str, ...]
    options: Mapping[str, Any]
    made: Mapping[str, str]
    effort: Mapping[str, float]

    @property
    def annotated_frames(self) -> int:
        """Frames that people annotated."""
        return sum(len(sequence.annotated) for sequence in self.sequences)

    @property
    def frames(self) -> int:
        """Frames of all sequences, scored or not."""
        return sum(sequence.length for sequence in self.sequences)

    @property
    def minutes(self) -> float:
        """What annotating the annotated frames takes, by the model of effort."""
        return sum(sequence.minutes for sequence in self.sequences)

    def calibration(self, of: str = "confidence") -> Calibration | None:
        """Whether what predicted labels say of themselves is honest; over the predicted object-frames.

        Args:
            of: ``"confidence"``, or ``"agreement"`` of the two passes behind a label

        Returns:
            None where no label says such a thing
        """
        promised, kept = [], []
        for sequence in self.sequences:
            said = getattr(sequence.object_frames, of)
            quality = sequence.object_frames.quality
            there = ~np.isnan(said) & ~np.isnan(quality)
            promised.append(said[there])
            kept.append(quality[there])
        if not sum(map(len, promised)):
            return None
        return calibrate(np.concatenate(promised), np.clip(np.concatenate(kept), 0.0, 1.0))

    def by_distance(self) -> list[DistanceRow]:
        """Mean quality by the number of frames to the nearest annotated one; empty where none is annotated."""
        pairs = [(s.object_frames.distance, s.object_frames.quality) for s in self.sequences]
        if not pairs:
            return []
        distance, quality = (np.concatenate(side) for side in zip(*pairs, strict=True))
        rows, near = [], 1
        while near <= int(distance.max(initial=0)):
            far = near if near < 3 else 2 * near - 2 if near > 3 else 4
            if near > _FAR:
                far = int(distance.max())
            inside = (distance >= near) & (distance <= far) & ~np.isnan(quality)
            if inside.any():
                own = quality[inside]
                rows.append(DistanceRow(near, far, len(own), float(own.mean()), float((own < GOOD_J).mean())))
            near = far + 1
        return rows

    def to_dict(self, *, frames: bool = True) -> dict[str, Any]:
        """Everything as JSON values; NaN is None. The names are those of ``docs/evaluation.md``.

        Args:
            frames: with the single object-frames
        """
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "pred_field": self.pred_field,
            "gt_field": self.gt_field,
            "eval_key": self.eval_key,
            "overall": self.scores.to_dict(),
            "effort": {
                "frames": self.frames,
                "annotated_frames": self.annotated_frames,
                "minutes": number(self.minutes),
                "seconds_by_action": dict(self.effort),
            },
            "confidence": _calibration(self.calibration("confidence")),
            "agreement": _calibration(self.calibration("agreement")),
            "by_distance": [numbers(asdict(row)) for row in self.by_distance()],
            "sequences": [_sequence(sequence, frames) for sequence in self.sequences],
            "curves": [
                {
                    "engine": curve.engine,
                    "method": curve.method,
                    "points": [numbers(asdict(point)) for point in curve.points],
                }
                for curve in self.curves
            ],
            "worst": [self._sample(sample) for sample in self.worst],
            "notes": list(self.notes),
            "options": dict(self.options),
            "made": dict(self.made),
        }

    def save_json(self, path: str | Path) -> Path:
        """Writes :meth:`to_dict` to a file.

        Raises:
            DataError: the file cannot be written
        """
        return write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def save_report(self, path: str | Path) -> Path:
        """Writes the report: one HTML file that needs no network.

        Raises:
            DataError: the file cannot be written
        """
        from labelprop_cvat.evaluation._report import render

        return write_text(Path(path), render(self))

    def print_report(self) -> None:
        """Prints the tables that ``labelprop evaluate`` prints."""
        from labelprop_cvat.evaluation._tables import print_summary

        print_summary(self.to_dict(frames=False))

    def _sample(self, sample: Sample) -> dict[str, Any]:
        sequence = self.sequences[sample.sequence]
        return {
            "sequence": sequence.key,
            "position": sample.position,
            "number": sequence.numbers[sample.position],
            "index": sample.index,
            "quality": number(sample.quality),
            "f": number(sample.f),
            "confidence": number(sample.confidence),
            "distance": sample.distance,
            "predicted": sample.predicted,
            "true": sample.true,
        }


def write_text(path: Path, text: str) -> Path:
    """Writes a file and the folders above it; raises a :class:`DataError` where that can't be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"The file {path} cannot be written: {error}. Name another path.") from error
    return path


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "count": found.count,
        "mean": number(found.confidence),
        "mean_quality": number(found.quality),
        "expected_calibration_error": number(found.error),
        "auroc": number(found.auroc),
        "spearman": number(found.spearman),
        "bins": [numbers(asdict(entry)) for entry in found.bins],
    }


def _sequence(sequence: SequenceResult, frames: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "key": sequence.key,
        "name": sequence.name,
        "media_type": sequence.media_type,
        "frames": sequence.length,
        "annotated": list(sequence.annotated),
        "minutes": number(sequence.minutes),
        "scores": sequence.scores.to_dict(),
        "objects": list(_objects(sequence.objects)),
        "segments": [_segment(segment) for segment in sequence.segments],
    }
    if frames:
        found["numbers"] = list(sequence.numbers)
        found["object_frames"] = sequence.object_frames.to_dict()
    return found


def _segment(segment: SegmentResult) -> dict[str, Any]:
    return {
        "label": segment.label,
        "start": segment.start,
        "stop": segment.stop,
        "annotated": segment.annotated,
        "scores": segment.scores.to_dict(),
        "objects": list(_objects(segment.objects)),
    }


def _objects(objects: tuple[ObjectResult, ...]) -> Iterator[dict[str, Any]]:
    for entry in objects:
        yield {
            "index": entry.index,
            "label": entry.label,
            "predicted_as": entry.predicted_as,
            "scores": entry.scores.to_dict(),
        }


__all__ = ["SCHEMA", "SCHEMA_VERSION", "Evaluation", "write_text"]
