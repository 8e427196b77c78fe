"""The operator that fills a field from the labels that another one holds on some frames."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.operators import types
from fiftyone.operators.constants import ViewTarget

from labelprop_cvat.errors import ConfigurationError, DataError, LabelPropError
from labelprop_cvat.plugin import _fields
from labelprop_cvat.plugin._steps import Context, Problem, Step
from labelprop_cvat.sequences import every_sample, sequences_of
from labelprop_cvat.workflow import OUTPUT_SUFFIX, checked_output_field, propagate
from labelprop_cvat.workflow._guessing import is_video, label_fields, likely_input_field

_KINDS = (fo.Detections, fo.Polylines, fo.Keypoints)
_DIRECTIONS = {
    "both": "from the annotated frames on both sides",
    "forward": "only from the annotated frame before",
    "backward": "only from the annotated frame behind",
}
_LIMITS = ("first_frame", "last_frame", "tracks")
_MOST_TRACKS = 200


@dataclass(frozen=True)
class _Target:
    """What is to be filled.

    Args:
        samples: the collection whose labels are read
        only: ids of what of it is filled; None for all
        tracks: indices of the objects; empty for all
    """

    samples: Any
    only: list[str] | None = None
    tracks: tuple[int, ...] = ()


class PropagateLabels(Step):
    """Fills the frames between annotated ones."""

    name = "propagate_labels"
    label = "Propagate Labels From Input Field Operator"
    description = "Fill all frames from the labels that a field holds on some of them"
    undeclared = ("propagation_method", "engine_options")
    numbers = (
        ("frames", "Frames written"),
        ("samples_processed", "Samples"),
        ("engine", "Engine"),
        ("seconds", "Seconds"),
    )

    def form(self, ctx: Context, inputs: types.Object) -> None:
        inputs.view_target(
            ctx,
            allow_selected_labels=True,
            selected_samples_description="Fill the selected samples only; the others keep what they have",
            selected_labels_description="Fill the selected objects only, on all frames; the others keep what they have",
        )
        samples = _collection(ctx, _asked_target(ctx, inputs))
        _fields.add_slices(inputs, samples)
        source = _likely_input(samples)
        _fields.add_label_field(
            inputs,
            samples,
            "input_annotation_field",
            source,
            "Input field",
            "The labels to propagate. Those of one object have the same index",
        )
        named = str(ctx.params.get("input_annotation_field") or source or "")
        output = f"{_fields.spelled(samples, named)}{OUTPUT_SUFFIX}" if named else ""
        inputs.str(
            "output_annotation_field",
            label="Output field",
            description=f"Where propagated labels go. Empty: {output or f'the input field with {OUTPUT_SUFFIX}'}",
            view=_fields.choices([name for name in label_fields(samples) if name != named] or [output], free=True),
        )
        _fields.add_sort_field(inputs, samples)
        _fields.add_segments_field(inputs, samples)
        _fields.add_engine(ctx, inputs)
        inputs.str("direction", default="both", label="Direction", view=_fields.choices(_DIRECTIONS))
        is_limited = any(ctx.params.get(name) for name in _LIMITS)
        inputs.bool(
            "limit",
            default=is_limited,
            label="Only some frames or tracks",
            description="The others keep what they have. Quickest where temporal segments are stored",
            view=types.SwitchView(),
        )
        if ctx.params.get("limit", is_limited):
            _add_limits(inputs, samples, named)

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        samples = _collection(ctx, params.get("view_target"))
        field = str(params.get("input_annotation_field") or "").strip()
        if not field:
            there = label_fields(samples)
            sentence = "Name the field with the labels to propagate."
            if not there:
                sentence = (
                    "No field holds Detections, Polylines or Keypoints yet. Annotate some frames first, for instance "
                    "by sending exemplars to CVAT."
                )
            return [Problem("input_annotation_field", sentence)]
        wrong = _fields.field_problem(samples, "input_annotation_field", field, _KINDS)
        found = [problem for problem in (wrong, _fields.engine_problem(params)) if problem is not None]
        found += _fields.empty_problems(samples)
        if wrong is None:
            try:
                checked_output_field(ctx.dataset, _fields.spelled(samples, field), _output_of(params, samples, field))
            except ConfigurationError as error:
                found.append(Problem("output_annotation_field", str(error)))
        segments = _fields.segments_field_of(params, samples)
        if segments is not None and ctx.dataset.get_field(segments) is None:
            sentence = f"There is no field {segments!r} with temporal segments. Make it by Temporal Segmentation."
            found.append(Problem("temporal_segments_field", sentence))
        if params.get("direction") not in (None, *_DIRECTIONS):
            sentence = f"direction is one of {', '.join(_DIRECTIONS)}, got {params['direction']!r}."
            found.append(Problem("direction", sentence))
        return found + _limit_problems(ctx, params)

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        target = _target(ctx, params)
        samples = target.samples
        source = _fields.spelled(samples, str(params["input_annotation_field"]))
        output = _output_of(params, samples, source) or f"{source}{OUTPUT_SUFFIX}"
        first, last, tracks = (params.get(name) for name in _LIMITS) if params.get("limit") else (None, None, None)
        started = time.monotonic()
        written = propagate(
            samples,
            source,
            output,
            engine=_fields.engine_of(params),
            engine_options=_fields.engine_options_of(params),
            direction=str(params.get("direction") or "both"),
            frames=None if first is None and last is None else (_whole(first), _whole(last)),
            tracks=_fields.whole_numbers(tracks) or target.tracks or None,
            only=target.only,
            sort_field=_fields.sort_field_of(params, samples),
            segments_field=_fields.segments_field_of(params, samples),
        )
        are_videos = is_video(samples) and not samples._is_frames
        return {
            "message": f"Annotations propagated from {source} to {output}: {written} frame{'s' * (written != 1)}",
            "frames": written,
            "samples_processed": len(target.only or samples) if are_videos else written,
            "engine": _fields.engine_at_work_of(params),
            "seconds": round(time.monotonic() - started, 1),
            "output_annotation_field": output,
        }


def _add_limits(inputs: types.Object, samples: Any, field: str) -> None:
    told = "Its number in the video" if is_video(samples) else "Its place in the sequence"
    inputs.int("first_frame", min=1, label="First frame", description=f"{told}, from 1", view=types.FieldView())
    inputs.int("last_frame", min=1, label="Last frame", description="This one included", view=types.FieldView())
    view = types.AutocompleteView(allow_user_input=True, allow_duplicates=False)
    for index, held in _tracks(samples, field).items():
        view.add_choice(str(index), label=f"{index}: {held}")
    inputs.list(
        "tracks",
        types.String(),
        label="Tracks",
        description="Numbers of the objects, as their labels' index says. Empty: all",
        view=view,
    )


def _limit_problems(ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
    found = []
    first, last = (params.get(name) for name in ("first_frame", "last_frame"))
    if first is not None and last is not None and last < first:
        sentence = f"The last frame ({last}) comes before the first ({first}). Exchange the two."
        found.append(Problem("last_frame", sentence))
    try:
        _fields.whole_numbers(params.get("tracks"))
    except ConfigurationError as error:
        found.append(Problem("tracks", str(error)))
    if params.get("view_target") == ViewTarget.SELECTED_LABELS:
        try:
            _selected_tracks(ctx)
        except LabelPropError as error:
            found.append(Problem("view_target", str(error)))
    if params.get("view_target") == ViewTarget.SELECTED_SAMPLES and not ctx.selected:
        found.append(Problem("view_target", "No samples are selected. Select some, or choose another target."))
    return found


def _tracks(samples: Any, field: str) -> dict[int, str]:
    """The objects of a field by index: their classes and on how many frames they are labelled."""
    dataset = samples._root_dataset
    name = _fields.spelled(samples, field) if field else ""
    kind = getattr(dataset.get_field(name), "document_type", None)
    if kind not in _KINDS:
        return {}
    labels = f"{name}.{kind._LABEL_LIST_FIELD}"
    if dataset.get_field(f"{labels}.index") is None:
        return {}
    every = every_sample(dataset, "video" if name.startswith(_fields.FRAMES_PREFIX) else "image")
    counts = every.count_values(F(labels).map(F("index").to_string().concat("|", F("label"))))
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for key, count in counts.items():
        index, _, label = (key or "").partition("|")
        if index.isdecimal():
            found[int(index)].append((count, label))
    told = {}
    for index in sorted(found)[:_MOST_TRACKS]:
        names = ", ".join(label for _, label in sorted(found[index], reverse=True))
        total = sum(count for count, _ in found[index])
        told[index] = f"{names}, {total} label{'s' * (total != 1)}"
    return told


def _likely_input(samples: Any) -> str | None:
    fields = label_fields(samples)
    likely = likely_input_field(fields, {}, None)
    own = [name for name in fields if not name.endswith(OUTPUT_SUFFIX)]
    return likely or (own[0] if len(own) == 1 else None)


def _output_of(params: Mapping[str, Any], samples: Any, source: str) -> str | None:
    """The output field on the level of the input field, however it is spelled; None where none was named."""
    output = str(params.get("output_annotation_field") or "").strip()
    if not output:
        return None
    is_of_frames = _fields.spelled(samples, source).startswith(_fields.FRAMES_PREFIX)
    plain = output.removeprefix(_fields.FRAMES_PREFIX)
    return _fields.FRAMES_PREFIX + plain if is_of_frames else plain


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


# --- what is to be filled ---------------------------------------------------------------------------------------------


def _asked_target(ctx: Context, inputs: types.Object) -> Any:
    """The target that was chosen, or that the form offers first."""
    return ctx.request_params.get("view_target") or inputs.properties["view_target"].default


def _collection(ctx: Context, target: Any) -> Any:
    """The collection whose labels are read: of a selection, all that it was made in."""
    if target in (ViewTarget.SELECTED_SAMPLES, ViewTarget.SELECTED_LABELS):
        return ctx.view if ctx.has_custom_view else ctx.dataset
    return ctx.target_view()


def _target(ctx: Context, params: Mapping[str, Any]) -> _Target:
    target = params.get("view_target")
    samples = _collection(ctx, target)
    if target == ViewTarget.SELECTED_SAMPLES:
        return _Target(samples, only=list(ctx.selected))
    if target != ViewTarget.SELECTED_LABELS:
        return _Target(samples)
    tracks, owners = _selected_tracks(ctx)
    if ctx.selected:
        return _Target(samples, list(ctx.selected), tracks)
    return _Target(samples, _around(samples, owners, _fields.sort_field_of(params, samples)), tracks)


def _selected_tracks(ctx: Context) -> tuple[tuple[int, ...], frozenset[str]]:
    """The indices of the selected labels, and the samples of the dataset that hold them."""
    if not ctx.selected_labels:
        raise DataError("No labels are selected. Select some, or choose another target.")
    by_field: dict[str, list[str]] = defaultdict(list)
    for label in ctx.selected_labels:
        by_field[_fields.spelled(ctx.view, label["field"])].append(label["label_id"])
    indices: set[int] = set()
    owners: set[str] = set()
    for name, ids in by_field.items():
        kind = getattr(ctx.dataset.get_field(name), "document_type", None)
        if kind not in _KINDS:
            continue
        every = every_sample(ctx.dataset, "video" if name.startswith(_fields.FRAMES_PREFIX) else "image")
        held = every.select_labels(ids=ids, fields=[name])
        owners.update(held.values("id"))
        if ctx.dataset.get_field(f"{name}.{kind._LABEL_LIST_FIELD}.index") is not None:
            indices.update(i for i in held.values(f"{name}.{kind._LABEL_LIST_FIELD}.index", unwind=True) if i)
    if not indices:
        raise DataError(
            "None of the selected labels has an index, which says what object it is. Select others, or give the labels "
            "of one object the same index, from 1."
        )
    return tuple(sorted(indices)), frozenset(owners)


def _around(samples: Any, owners: frozenset[str], sort_field: str | None) -> list[str] | None:
    """The ids of everything in the sequences that hold some samples; None where these are all there are."""
    sequences = sequences_of(samples, sort_field=sort_field)
    chosen = [sequence for sequence in sequences if not owners.isdisjoint(sequence.sample_ids)]
    if len(chosen) == len(sequences):
        return None
    inside = {sample_id for sequence in chosen for sample_id in sequence.sample_ids}
    if samples._is_frames or samples._is_clips or samples._is_patches:
        return [own for own, owner in zip(*samples.values(["id", "sample_id"]), strict=True) if owner in inside]
    return sorted(inside)


OPERATORS = (PropagateLabels,)

__all__ = ["OPERATORS", "PropagateLabels"]
