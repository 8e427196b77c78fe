"""Writes what an evaluation found to the frames and labels that it is about, so that the App can filter and sort."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import fiftyone.core.odm as foo
from bson import ObjectId
from pymongo import UpdateOne

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.evaluation._judging import Row
from labelprop_cvat.evaluation._reading import Thing, label_class
from labelprop_cvat.evaluation.run import (
    COUNTS,
    FLOATS,
    FRAMES_PREFIX,
    PropagationEvaluation,
    PropagationEvaluationConfig,
    PropagationEvaluationResults,
    written_fields,
)
from labelprop_cvat.sequences import Sequence as FrameSequence

_BATCH = 200
_NO_MATCH = ""

Values = dict[str, Any]


class EvaluationWriter:
    """One evaluation run of a dataset: registered when made, finished by :meth:`finish`.

    Args:
        samples: what is evaluated
        eval_key: the run's key; an earlier evaluation of this kind under the same key is deleted, but not before there
            is something to write
        config: what is evaluated and how

    Raises:
        ConfigurationError: the key is no variable name, belongs to another kind of evaluation, or the fields that would
            be written are there and belong to something else; nothing was changed
    """

    def __init__(
        self, samples: fo.core.collections.SampleCollection, eval_key: str, config: PropagationEvaluationConfig
    ) -> None:
        self._samples = samples
        self._dataset: fo.Dataset = samples._root_dataset
        self._key = eval_key
        self._config = config
        self._run = PropagationEvaluation(config)
        self._in_frames = config.pred_field.startswith(FRAMES_PREFIX)
        self._lists = [
            (name.removeprefix(FRAMES_PREFIX), label_class(self._dataset, name)._LABEL_LIST_FIELD)
            for name in (config.pred_field, config.gt_field)
        ]
        self._has_begun = False
        self._check()

    def _begin(self) -> None:
        # Not before there is something to write: what was asked in vain costs nobody an earlier evaluation.
        if not self._has_begun:
            self._has_begun = True
            self._run.register_run(self._samples, self._key)
            self._declare()

    def _fields(self) -> list[tuple[str, type]]:
        return list(written_fields(self._samples, self._config.pred_field, self._config.gt_field, self._key))

    def _declare(self) -> None:
        # All at once: each new field reads the dataset's whole document again.
        for in_frames in (False, True):
            schema = {
                name.removeprefix(FRAMES_PREFIX): foo.create_field(name.rsplit(".", 1)[-1], held)
                for name, held in self._fields()
                if name.startswith(FRAMES_PREFIX) is in_frames
            }
            if schema:
                add = self._dataset._merge_frame_field_schema if in_frames else self._dataset._merge_sample_field_schema
                add(schema)

    def _check(self) -> None:
        if not self._key.isidentifier() or self._key.startswith("_"):
            raise ConfigurationError(
                f"The key of an evaluation must be a variable name that begins with a letter, as 'eval' or "
                f"'run1_eval', got {self._key!r}."
            )
        if self._key in self._dataset.list_evaluations():
            try:
                self._run.validate_run(self._samples, self._key)
            except ValueError as error:
                raise ConfigurationError(
                    f"The dataset {self._dataset.name!r} has another evaluation under the key {self._key!r}: {error}. "
                    f"Pass another eval_key, or delete that one with delete_evaluation({self._key!r})."
                ) from error
            return
        taken = [name for name, _ in self._fields() if self._dataset.get_field(name) is not None]
        if taken:
            raise ConfigurationError(
                f"The evaluation {self._key!r} would write the field {taken[0]!r} of {self._dataset.name!r}, which is "
                f"there and belongs to no evaluation of this key. Pass another eval_key, or delete the field."
            )

    def write(self, sequence: FrameSequence, rows: Iterable[Row]) -> None:
        """Writes the object-frames of one sequence."""
        frames: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            frames[row.position].append(row)
        if not frames:
            return
        self._begin()
        found = {position: self._frame_values(own) for position, own in frames.items()}
        operations = [
            self._update(sequence, position, found[position], own) for position, own in sorted(frames.items())
        ]
        for start in range(0, len(operations), _BATCH):
            batch = operations[start : start + _BATCH]
            # Samples that a script holds are read again once, with the last batch.
            ids: list[str] | None = None if start + _BATCH >= len(operations) else []
            self._dataset._bulk_write(batch, ids=ids, frames=self._in_frames)
        if self._in_frames and found:
            values = {"last_modified_at": _now(), **self._over_frames(list(found.values()))}
            change = UpdateOne({"_id": ObjectId(sequence.sample_ids[0])}, {"$set": values})
            self._dataset._bulk_write([change], ids=[sequence.sample_ids[0]])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Stores the summary; the evaluation is complete."""
        self._begin()
        results = PropagationEvaluationResults(self._samples, self._config, self._key, dict(summary), self._run)
        self._run.save_run_results(self._samples, self._key, results)
        shown = [name for name, _ in self._fields() if name.count(".") == name.startswith(FRAMES_PREFIX)]
        self._samples._add_paths_to_sidebar_group(shown, self._key)

    def abandon(self) -> None:
        """Takes away everything that was written."""
        if self._has_begun and self._key in self._dataset.list_evaluations():
            self._dataset.delete_evaluation(self._key)

    def _frame_values(self, rows: list[Row]) -> Values:
        values: Values = {
            f"{self._key}_j": _mean(row.j for row in rows),
            f"{self._key}_f": _mean(row.f for row in rows),
            f"{self._key}_box_iou": _mean(row.box_iou for row in rows),
            f"{self._key}_worst": min(row.quality for row in rows),
        }
        verdicts = [verdict for row in rows for verdict in self._verdicts(row)]
        # One pair is one true positive, though both of its labels are told so.
        counts = {"tp": verdicts.count("tp") // 2, "fp": verdicts.count("fp"), "fn": verdicts.count("fn")}
        return {**values, **{f"{self._key}_{name}": count for name, count in counts.items()}}

    def _over_frames(self, found: list[Values]) -> Values:
        def of(name: str) -> list[Any]:
            values = [value[f"{self._key}_{name}"] for value in found]
            return [value for value in values if value is not None]

        values: Values = {f"{self._key}_{name}": _mean(of(name)) for name in FLOATS if name != "worst"}
        values[f"{self._key}_worst"] = min(of("worst"), default=None)
        return {**values, **{f"{self._key}_{name}": sum(of(name)) for name in COUNTS}}

    def _verdicts(self, row: Row) -> list[str]:
        matched = row.predicted is not None and row.true is not None and row.quality >= self._config.iou
        if matched:
            return ["tp", "tp"]
        return ["fp"] * (row.predicted is not None) + ["fn"] * (row.true is not None)

    def _update(self, sequence: FrameSequence, position: int, values: Values, rows: list[Row]) -> UpdateOne:
        changes = {**values, "last_modified_at": _now()}
        filters: list[Mapping[str, Any]] = []
        for row in rows:
            matched = "tp" in self._verdicts(row)
            pair = row.predicted is not None and row.true is not None
            iou = row.quality if pair else None
            for side, label, other, verdict in (
                (0, row.predicted, row.true, "fp"),
                (1, row.true, row.predicted, "fn"),
            ):
                if label is None:
                    continue
                name = f"l{len(filters)}"
                filters.append({f"{name}._id": ObjectId(label.label_id)})
                said: Values = {"": "tp" if matched else verdict, "_id": _id(other, matched), "_iou": iou}
                if side == 0:
                    said |= {"_j": _known(row.j), "_f": _known(row.f), "_box_iou": row.box_iou}
                path = f"{self._lists[side][0]}.{self._lists[side][1]}.$[{name}].{self._key}"
                changes.update({f"{path}{end}": value for end, value in said.items()})
        ref = sequence.frames[position]
        if sequence.media_type == fom.VIDEO:
            query: Values = {"_sample_id": ObjectId(ref.sample_id), "frame_number": ref.frame_number}
        else:
            query = {"_id": ObjectId(ref.sample_id)}
        return UpdateOne(query, {"$set": changes}, array_filters=filters)


def _id(other: Thing | None, matched: bool) -> str:
    return other.label_id if matched and other is not None else _NO_MATCH


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Iterable[float]) -> float | None:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else None


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


__all__ = ["EvaluationWriter"]
