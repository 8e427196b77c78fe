"""The operator that says how good propagated labels are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.operators import types

from labelprop_cvat.evaluation._sequence import LEAVE_OUT, MATCHES
from labelprop_cvat.plugin import _fields
from labelprop_cvat.plugin._steps import Context, Problem, Step
from labelprop_cvat.workflow import OUTPUT_SUFFIX, evaluate
from labelprop_cvat.workflow._guessing import label_fields

_KINDS = (fo.Detections, fo.Polylines)
_MATCHES = {
    "index": "by their index",
    "overlap": "by how far they lie on each other, for fields that number differently",
}
_LEAVE_OUT = {
    "frames": "every frame that people annotated",
    "labels": "only the labels that people made",
    "nothing": "nothing is left out",
}


class EvaluatePropagation(Step):
    """Compares propagated labels with true ones."""

    name = "evaluate_propagation"
    label = "Evaluate Propagation"
    description = "Compare propagated labels with true ones: J, F, IoU of boxes, identities"
    numbers = (
        ("j", "J (region)"),
        ("f", "F (contour)"),
        ("box_iou", "IoU of boxes"),
        ("idf1", "IDF1"),
        ("identity_switches", "Identity switches"),
        ("frames", "Frames scored"),
        ("object_frames", "Objects on frames"),
        ("bad", "Of these below 0.75"),
        ("report", "Report"),
    )

    def form(self, ctx: Context, inputs: types.Object) -> None:
        samples = _fields.add_target(ctx, inputs)
        fields = label_fields(samples)
        predicted = next((name for name in fields if name.endswith(OUTPUT_SUFFIX)), None)
        others = [name for name in fields if name != (ctx.params.get("pred_field") or predicted)]
        true = next((name for name in others if name.endswith(("ground_truth", "gt", "truth"))), None)
        _fields.add_label_field(inputs, samples, "pred_field", predicted, "Predicted field", "The labels to judge")
        _fields.add_label_field(inputs, samples, "gt_field", true, "True field", "The labels to judge them by")
        inputs.str(
            "eval_key",
            label="Evaluation key",
            description="Keeps the scores with the dataset under this name. Empty: nothing is written",
            view=_fields.choices(ctx.dataset.list_evaluations(type="propagation"), free=True),
        )
        inputs.str("match", default="index", label="Objects are the same", view=_fields.choices(_MATCHES))
        inputs.str("leave_out", default="frames", label="Not scored", view=_fields.choices(_LEAVE_OUT))
        _fields.add_segments_field(inputs, samples)
        inputs.properties[
            "temporal_segments_field"
        ].view.description = "Scores are also told by temporal segment. Empty: each sequence is one"
        _fields.add_sort_field(inputs, samples)
        inputs.str(
            "report",
            label="Report",
            description="Path of an HTML file to write, on the machine that the App runs on. Empty: none",
        )
        inputs.bool(
            "curves",
            default=False,
            label="Quality against effort",
            description="Fill the frames again from the truth with more and more annotated frames. This takes long",
            view=types.SwitchView(),
        )

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        samples = ctx.target_view()
        found = _fields.empty_problems(samples)
        for param, what in (("pred_field", "labels to judge"), ("gt_field", "true labels to judge them by")):
            field = str(params.get(param) or "").strip()
            if not field:
                found.append(Problem(param, f"Name the field with the {what}."))
                continue
            wrong = _fields.field_problem(samples, param, field, _KINDS)
            found += [] if wrong is None else [wrong]
        if not found:
            pred, true = (_fields.spelled(samples, params[name]) for name in ("pred_field", "gt_field"))
            if pred == true:
                found.append(Problem("gt_field", f"A field is not judged by itself, and both are {pred!r}. Name two."))
        for param, known in (("match", MATCHES), ("leave_out", LEAVE_OUT)):
            if params.get(param) not in (None, *known):
                found.append(Problem(param, f"{param} is one of {', '.join(known)}, got {params[param]!r}."))
        segments = _fields.segments_field_of(params, samples)
        if segments is not None and ctx.dataset.get_field(segments) is None:
            sentence = f"There is no field {segments!r} with temporal segments. Make it by Temporal Segmentation."
            found.append(Problem("temporal_segments_field", sentence))
        key = str(params.get("eval_key") or "").strip()
        if key and not key.isidentifier():
            sentence = f"A key is a name of letters, digits and underscores such as 'eval1', got {key!r}."
            found.append(Problem("eval_key", sentence))
        return found

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        samples = ctx.target_view()
        pred, true = (_fields.spelled(samples, str(params[name])) for name in ("pred_field", "gt_field"))
        report = str(params.get("report") or "").strip()
        path = Path(report).expanduser().absolute() if report else None
        evaluation = evaluate(
            samples,
            pred,
            true,
            eval_key=str(params.get("eval_key") or "").strip() or None,
            match=str(params.get("match") or "index"),
            leave_out=str(params.get("leave_out") or "frames"),
            segments_field=_fields.segments_field_of(params, samples),
            sort_field=_fields.sort_field_of(params, samples),
            curves=bool(params.get("curves")),
            report=path,
        )
        scores = evaluation.scores.to_dict()
        shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
        named = (("j", "J"), ("f", "F"), ("box_iou", "box IoU"), ("idf1", "IDF1"))
        told = ", ".join(f"{name} {shown[key]:.3f}" for key, name in named if shown[key] is not None)
        return {
            "message": f"{pred} judged by {true}: {told}, {shown['identity_switches']} identity switches",
            **shown,
            "eval_key": evaluation.eval_key,
            "report": None if path is None else str(path),
            "samples_processed": len(samples),
        }


OPERATORS = (EvaluatePropagation,)

__all__ = ["OPERATORS", "EvaluatePropagation"]
