"""An evaluation as FiftyOne keeps it: ``dataset.list_evaluations()``, ``delete_evaluation()`` and the like know it.

FiftyOne stores the path of :class:`PropagationEvaluationConfig` in the database, imports it again later, and finds the
two other classes by their names: this module does not move.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fiftyone as fo
import fiftyone.core.evaluation as foev

FRAMES_PREFIX = "frames."

FLOATS = ("j", "f", "box_iou", "worst")
"""What is written to every frame, and for the whole video to its sample: means over the objects, and the worst one."""

COUNTS = ("tp", "fp", "fn")
"""What is counted on every frame."""

PREDICTED = {"": fo.StringField, "_id": fo.StringField, "_iou": fo.FloatField, "_j": fo.FloatField,
             "_f": fo.FloatField, "_box_iou": fo.FloatField}  # fmt: skip
"""What is written to each predicted label, by the end of its name after the evaluation's key."""

TRUE = {"": fo.StringField, "_id": fo.StringField, "_iou": fo.FloatField}
"""What is written to each true label, named as FiftyOne's own evaluations name it."""


class PropagationEvaluationConfig(foev.EvaluationMethodConfig):
    """What was evaluated, and how.

    Args:
        pred_field: field with the predictions, with its ``frames.`` prefix on videos
        gt_field: field with the truth
        iou: smallest IoU of a true positive
        kwargs: what else it was asked for, plain values
    """

    def __init__(self, pred_field: str, gt_field: str, iou: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pred_field = pred_field
        self.gt_field = gt_field
        self.iou = iou

    @property
    def type(self) -> str:
        """What FiftyOne tells kinds of evaluations apart by."""
        return "propagation"

    @property
    def method(self) -> str:
        """What FiftyOne tells methods apart by."""
        return "labelprop"


class PropagationEvaluation(foev.EvaluationMethod):
    """Says which fields belong to an evaluation, renames and deletes them."""

    def get_fields(self, samples: fo.core.collections.SampleCollection, eval_key: str) -> list[str]:
        """The two label fields and everything that the evaluation wrote."""
        found = [self.config.pred_field, self.config.gt_field]
        found += [name for name, _ in written_fields(samples, self.config.pred_field, self.config.gt_field, eval_key)]
        return found

    def rename(self, samples: fo.core.collections.SampleCollection, eval_key: str, new_eval_key: str) -> None:
        """Gives the written fields their new names."""
        dataset = samples._root_dataset
        old, new = (
            [name for name, _ in written_fields(dataset, self.config.pred_field, self.config.gt_field, key)]
            for key in (eval_key, new_eval_key)
        )
        for in_frames in (False, True):
            names = {
                before.removeprefix(FRAMES_PREFIX): after.removeprefix(FRAMES_PREFIX)
                for before, after in zip(old, new, strict=True)
                if before.startswith(FRAMES_PREFIX) is in_frames and dataset.get_field(before) is not None
            }
            if names:
                (dataset.rename_frame_fields if in_frames else dataset.rename_sample_fields)(names)
        samples._rename_sidebar_group(eval_key, new_eval_key)

    def cleanup(self, samples: fo.core.collections.SampleCollection, eval_key: str) -> None:
        """Deletes the written fields."""
        dataset = samples._root_dataset
        there = [
            name
            for name, _ in written_fields(dataset, self.config.pred_field, self.config.gt_field, eval_key)
            if dataset.get_field(name) is not None
        ]
        frames = [name.removeprefix(FRAMES_PREFIX) for name in there if name.startswith(FRAMES_PREFIX)]
        plain = [name for name in there if not name.startswith(FRAMES_PREFIX)]
        if frames:
            dataset.delete_frame_fields(frames, error_level=1)
        if plain:
            dataset.delete_sample_fields(plain, error_level=1)
        samples._delete_empty_sidebar_group(eval_key)


class PropagationEvaluationResults(foev.EvaluationResults):
    """The numbers of an evaluation, as FiftyOne loads them again.

    Args:
        samples: what was evaluated
        config: how
        eval_key: its key
        summary: what :meth:`~labelprop_cvat.evaluation.Evaluation.to_dict` gave, without the single object-frames
        backend: the method
    """

    def __init__(
        self,
        samples: fo.core.collections.SampleCollection,
        config: PropagationEvaluationConfig,
        eval_key: str,
        summary: dict[str, Any],
        backend: PropagationEvaluation | None = None,
    ) -> None:
        super().__init__(samples, config, eval_key, backend=backend)
        self.summary = summary

    def metrics(self) -> dict[str, Any]:
        """The overall scores by name."""
        return dict(self.summary["overall"])

    def print_report(self) -> None:
        """Prints the tables that ``labelprop evaluate`` prints."""
        from labelprop_cvat.evaluation._tables import print_summary

        print_summary(self.summary)

    @classmethod
    def _from_dict(
        cls,
        d: dict[str, Any],
        samples: fo.core.collections.SampleCollection,
        config: PropagationEvaluationConfig,
        eval_key: str,
        **kwargs: Any,
    ) -> PropagationEvaluationResults:
        return cls(samples, config, eval_key, d["summary"], **kwargs)


def written_fields(
    samples: fo.core.collections.SampleCollection, pred_field: str, gt_field: str, eval_key: str
) -> Iterator[tuple[str, type]]:
    """Names and types of what an evaluation writes, label fields that are gone left out."""
    levels = ("", FRAMES_PREFIX) if pred_field.startswith(FRAMES_PREFIX) else ("",)
    for level in levels:
        for name in FLOATS:
            yield f"{level}{eval_key}_{name}", fo.FloatField
        for name in COUNTS:
            yield f"{level}{eval_key}_{name}", fo.IntField
    for field, ends in ((pred_field, PREDICTED), (gt_field, TRUE)):
        kind = getattr(samples._root_dataset.get_field(field), "document_type", None)
        if kind is not None:
            for end, held in ends.items():
                yield f"{field}.{kind._LABEL_LIST_FIELD}.{eval_key}{end}", held


__all__ = [
    "COUNTS",
    "FLOATS",
    "PREDICTED",
    "TRUE",
    "PropagationEvaluation",
    "PropagationEvaluationConfig",
    "PropagationEvaluationResults",
    "written_fields",
]
