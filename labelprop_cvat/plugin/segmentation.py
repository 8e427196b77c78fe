"""Operators that cut sequences into temporal segments and choose exemplars in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fiftyone.operators import types

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.plugin import _fields
from labelprop_cvat.plugin._steps import Context, Problem, Step, value_of
from labelprop_cvat.propagation.exemplars import ExemplarSpec
from labelprop_cvat.propagation.segments import MEASURING
from labelprop_cvat.propagation.segments._manager import MINIMUM_LENGTH
from labelprop_cvat.workflow import segment, select

_METHODS = {
    "heuristic": "sharp changes of colour statistics, dissolves and fades; did best on shots with known cuts",
    "adaptive": "PySceneDetect: content changes against the average around them",
    "content": "PySceneDetect: changes of hue, saturation and brightness",
    "histogram": "PySceneDetect: changes of the brightness histogram",
    "hash": "PySceneDetect: perceptual hashes",
    "fixed": "a segment every so many frames",
    "none": "the whole sequence is one segment",
}
_SIZED = "fixed"

_EXEMPLARS = {
    "first_frame": "the first frame of each segment",
    "middle": "the frame in the middle of each segment",
    "every": "the first frame and every n-th after it",
    "uniform": "n frames, evenly spread",
    "coverage": "the n frames from which propagation is predicted to lose least; looks at the frames",
    "diverse": "the n frames that stand best for the looks of all others; looks at the frames",
    "all": "every frame",
}
_COUNTED = {"every": 10, "uniform": 3, "coverage": 3, "diverse": 3}


class TemporalSegmentation(Step):
    """Cuts every sequence into temporal segments."""

    name = "temporal_segmentation"
    label = "Temporal Segmentation"
    description = "Cut every sequence into shots: runs of frames without a cut"
    numbers = (("segments", "Temporal segments"), ("samples_processed", "Samples"))

    def form(self, ctx: Context, inputs: types.Object) -> None:
        samples = _fields.add_target(ctx, inputs)
        method = _method_of(ctx.params)
        inputs.str(
            "temporal_segmentation_method",
            default="heuristic",
            label="Method",
            view=_fields.choices(_METHODS),
        )
        if method == _SIZED:
            inputs.int("segment_length", default=100, min=1, label="Frames in a segment", view=types.FieldView())
        _fields.add_segments_field(inputs, samples, new=True)
        _fields.add_sort_field(inputs, samples)
        if method in MEASURING:
            inputs.int(
                "minimum_length",
                default=MINIMUM_LENGTH,
                min=1,
                label="Shortest segment",
                description="Frames; of cuts that would leave less, the stronger one stays",
                view=types.FieldView(),
            )
            inputs.float(
                "threshold",
                label="Threshold",
                description="What a change must exceed to be a cut. Empty: the method's own",
                view=types.FieldView(),
            )
            inputs.str(
                "scores_field",
                label="Scores field",
                description="A field for what was measured on every frame. Empty: it is not kept",
            )

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        found = _fields.empty_problems(ctx.target_view())
        if _method_of(params) not in _METHODS:
            there = ", ".join(_METHODS)
            sentence = f"There is no segmentation method {_method_of(params)!r}. Choose one of: {there}."
            found.append(Problem("temporal_segmentation_method", sentence))
        if not str(params.get("temporal_segments_field") or "").strip():
            found.append(Problem("temporal_segments_field", "Name a field for the temporal segments."))
        elif params.get("scores_field") == params["temporal_segments_field"]:
            sentence = "Segments and scores need two fields, and both were given the same one. Name another."
            found.append(Problem("scores_field", sentence))
        return found

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        samples = _fields.of_one_medium(ctx.target_view())
        method = str(params["temporal_segmentation_method"])
        name = _method_of(params)
        options: dict[str, Any] = {}
        if name == _SIZED and ":" not in method:
            method = f"{_SIZED}:{int(params.get('segment_length') or 100)}"
        if name in MEASURING:
            options["minimum_length"] = int(params.get("minimum_length") or MINIMUM_LENGTH)
            if params.get("threshold") is not None:
                options["threshold"] = float(params["threshold"])
            options["scores_field"] = str(params.get("scores_field") or "").strip() or None
        field = _fields.segments_field_of(params, samples) or ""
        count = segment(samples, field, method=method, sort_field=_fields.sort_field_of(params, samples), **options)
        return {
            "message": f"{count} temporal segment{'s' * (count != 1)} stored in {field}",
            "segments": count,
            "temporal_segments_field": field,
            "samples_processed": len(samples),
        }


class SelectExemplars(Step):
    """Chooses exemplars in stored temporal segments."""

    name = "select_exemplars"
    label = "Select Exemplars"
    description = "Choose the frames that people shall annotate, and score every frame"
    numbers = (("exemplars", "Exemplars"), ("samples_processed", "Samples"))

    def form(self, ctx: Context, inputs: types.Object) -> None:
        samples = _fields.add_target(ctx, inputs)
        _fields.add_segments_field(inputs, samples, needed=True)
        given = str(value_of(ctx, "exemplar_scoring_method", "first_frame"))
        told = dict(_EXEMPLARS) if given in _EXEMPLARS else {**_EXEMPLARS, given: ""}
        inputs.str("exemplar_scoring_method", default="first_frame", label="Method", view=_fields.choices(told))
        if given in _COUNTED:
            label = "Every so many frames" if given == "every" else "Frames of each segment"
            inputs.int("exemplar_count", default=_COUNTED[given], min=1, label=label, view=types.FieldView())
        _fields.add_sort_field(inputs, samples)

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        samples = ctx.target_view()
        found = _fields.empty_problems(samples)
        field = _fields.segments_field_of(params, samples)
        if field is None:
            sentence = "No field with temporal segments was named. Name one, or make one by Temporal Segmentation."
            found.append(Problem("temporal_segments_field", sentence))
        elif ctx.dataset.get_field(field) is None:
            sentence = f"There is no field {field!r} with temporal segments. Make it by Temporal Segmentation."
            found.append(Problem("temporal_segments_field", sentence))
        try:
            _spec_of(params)
        except ConfigurationError as error:
            found.append(Problem("exemplar_scoring_method", str(error)))
        return found

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        samples = _fields.of_one_medium(ctx.target_view())
        field = _fields.segments_field_of(params, samples) or ""
        method = _spec_of(params)
        count = select(samples, field, method=str(method), sort_field=_fields.sort_field_of(params, samples))
        return {
            "message": f"{count} exemplar{'s' * (count != 1)} chosen in {field} by {method}",
            "exemplars": count,
            "temporal_segments_field": field,
            "samples_processed": len(samples),
        }


def _method_of(params: Mapping[str, Any]) -> str:
    """The name of the segmentation method, without its number."""
    name = str(params.get("temporal_segmentation_method") or "heuristic").partition(":")[0]
    return "heuristic" if name == "auto" else name


def _spec_of(params: Mapping[str, Any]) -> ExemplarSpec:
    """How exemplars are chosen, from a method with its number or with the number beside it."""
    method = str(params.get("exemplar_scoring_method") or "first_frame").strip()
    if method == "first_frame":
        method = "first"
    if method in _COUNTED:
        method = f"{method}:{params.get('exemplar_count') or _COUNTED[method]}"
    return ExemplarSpec.parse(method)


OPERATORS = (TemporalSegmentation, SelectExemplars)

__all__ = ["OPERATORS", "SelectExemplars", "TemporalSegmentation"]
