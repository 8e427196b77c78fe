"""The inputs that several forms share: what fits, with what the dataset already has as the default."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
from fiftyone.operators import types

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.plugin._steps import Context, Problem
from labelprop_cvat.propagation.auto import AUTO, choose_engine
from labelprop_cvat.propagation.propagator import check_option_names, propagator_names
from labelprop_cvat.propagation.sam2.options import DEVICES, Sam2Options
from labelprop_cvat.propagation.sam2.weights import MODELS
from labelprop_cvat.sequences import FRAMES_PREFIX, members_of
from labelprop_cvat.workflow._guessing import (
    SEGMENTS_FIELD,
    is_video,
    label_fields,
    likely_segments_field,
    likely_sort_field,
    segments_fields,
    sort_fields,
)

logger = logging.getLogger(__name__)

Samples = Any  # fiftyone.core.collections.SampleCollection, which carries no types

SAM2 = "sam2"

_ENGINES = {
    AUTO: "",
    "sam2": "SAM 2: best on masks, needs its weights; at home on a GPU",
    "flow": "optical flow: no weights, runs anywhere",
    "interpolate": "straight lines between the annotated frames, as CVAT draws them; the baseline to beat",
    "hold": "repeats the nearest annotated frame",
}
# Of a longer range, somebody mistyped an end.
_MOST_NUMBERS = 100_000
_ENGINE_OPTIONS = ("model", "checkpoint", "device", "image_size")


def choices(values: Iterable[str] | Mapping[str, str], *, free: bool = False) -> types.Choices:
    """A drop-down list, or with ``free`` a text field that suggests.

    Args:
        values: the values, or values with what is said about each
        free: whether other values may be typed
    """
    told = values if isinstance(values, Mapping) else dict.fromkeys(values, "")
    view = types.AutocompleteView(allow_user_input=True, allow_duplicates=False) if free else types.DropdownView()
    for value, description in told.items():
        view.add_choice(value, label=value, **({"description": description} if description else {}))
    return view


# --- what is worked on -----------------------------------------------------------------------------------------------


def add_target(ctx: Context, inputs: types.Object) -> Samples:
    """Which part of the dataset is worked on, for steps that need whole sequences; returns it."""
    view = ctx.view
    # Some images of a sequence are not one.
    has_whole = view._is_dynamic_groups or view.media_type in (fom.VIDEO, fom.GROUP)
    inputs.view_target(ctx, allow_selected_samples=has_whole)
    samples = ctx.target_view()
    add_slices(inputs, samples)
    return samples


def add_slices(inputs: types.Object, samples: Samples) -> None:
    """Says which group slices are worked on, where there are several."""
    members = members_of(samples)
    if members.media_type != fom.GROUP:
        return
    own = _slices_of(members)
    others = [name for name in members.group_media_types if name not in own]
    more = f" For {', '.join(others)}, make it the active slice." if others else ""
    inputs.view("slices", types.Notice(label=f"Group slices: {', '.join(own)}. Each is taken by itself.{more}"))


def of_one_medium(samples: Samples) -> Samples:
    """The slices of groups that hold the medium of the active one; other collections as they are."""
    members = members_of(samples)
    if members.media_type != fom.GROUP or set(_slices_of(members)) == set(members.group_media_types):
        return samples
    medium = fom.VIDEO if is_video(samples) else fom.IMAGE
    if not samples._is_dynamic_groups:
        return samples.select_group_slices(media_type=medium)
    view = samples._base_view
    for stage in samples._stages:
        if isinstance(stage, fo.GroupBy):
            view = view.select_group_slices(media_type=medium)
        view = view.add_stage(stage)
    return view


def empty_problems(samples: Samples) -> list[Problem]:
    """What is wrong with a collection without samples."""
    if len(samples):
        return []
    sentence = f"There is no sample in this view of {samples._root_dataset.name!r}. Widen it, or choose another target."
    return [Problem("view_target", sentence)]


def _slices_of(members: Samples) -> list[str]:
    medium = fom.VIDEO if is_video(members) else fom.IMAGE
    return [name for name, held in members.group_media_types.items() if held == medium]


# --- order and segments ----------------------------------------------------------------------------------------------


def add_sort_field(inputs: types.Object, samples: Samples) -> None:
    """``sort_field``, where there are images to be put in order."""
    if is_video(samples):
        return
    likely = likely_sort_field(samples)
    inputs.str(
        "sort_field",
        default=likely,
        label="Sort field",
        description="What puts the images in order. Empty, or where there is no such field: the order of the view",
        view=choices(sort_fields(samples), free=True),
    )


def sort_field_of(params: Mapping[str, Any], samples: Samples) -> str | None:
    """The field that orders images; None where none was named, there is none of that name, or videos have an order."""
    name = str(params.get("sort_field") or "").strip()
    if not name or is_video(samples):
        return None
    if members_of(samples).get_field(name) is None:
        logger.warning("There is no field %r, so the images are taken in the order of the view.", name)
        return None
    return name


def add_segments_field(inputs: types.Object, samples: Samples, *, new: bool = False, needed: bool = False) -> None:
    """``temporal_segments_field``.

    Args:
        inputs: the form
        samples: the collection
        new: whether it may be one that is yet to be made
        needed: whether there must be one
    """
    likely = likely_segments_field(samples)
    known = segments_fields(samples)
    told = "Where the temporal segments are stored"
    if new:
        told = "Where the temporal segments go; a new field or one that holds some, which are replaced"
    elif not needed:
        told += ". Empty: the frames are searched for cuts"
    inputs.str(
        "temporal_segments_field",
        default=likely or (SEGMENTS_FIELD if new else None),
        required=new or needed,
        label="Temporal segments field",
        description=told,
        view=choices(known if known or not new else [SEGMENTS_FIELD], free=True),
    )


def segments_field_of(params: Mapping[str, Any], samples: Samples) -> str | None:
    """The field with temporal segments, as the dataset spells it."""
    name = str(params.get("temporal_segments_field") or "").strip()
    if not name:
        return None
    dataset = samples._root_dataset
    if dataset.get_field(name) is None:
        # Without its prefix, or with one that images have not.
        plain = name.removeprefix(FRAMES_PREFIX)
        other = plain if plain != name else FRAMES_PREFIX + name
        if _kind(dataset, other) is not None:
            return other
    return name


# --- labels ----------------------------------------------------------------------------------------------------------


def spelled(samples: Samples, field: str) -> str:
    """A field of labels with the prefix that its place wants: frame fields of videos may be named without theirs."""
    dataset = samples._root_dataset
    plain = field.removeprefix(FRAMES_PREFIX)
    in_frames, in_samples = (_kind(dataset, name) is not None for name in (FRAMES_PREFIX + plain, plain))
    if in_frames is not in_samples:
        return FRAMES_PREFIX + plain if in_frames else plain
    return FRAMES_PREFIX + plain if is_video(samples) else plain


def add_label_field(
    inputs: types.Object, samples: Samples, name: str, default: str | None, label: str, description: str
) -> None:
    """An input for a field whose labels can be propagated."""
    inputs.str(
        name,
        default=default,
        required=True,
        label=label,
        description=description,
        view=choices(label_fields(samples)),
    )


def field_problem(samples: Samples, param: str, field: str, kinds: Iterable[type[fo.Label]]) -> Problem | None:
    """What is wrong with a field of labels, if anything is.

    Args:
        samples: the collection
        param: the input
        field: what was given, see :func:`spelled`
        kinds: the classes that it may hold
    """
    dataset = samples._root_dataset
    name = spelled(samples, field)
    names = " or ".join(kind.__name__ for kind in kinds)
    found = dataset.get_field(name)
    if found is None:
        there = ", ".join(label_fields(samples)) or "none"
        return Problem(param, f"{dataset.name!r} has no field {name!r}. Name one of {names}; there are: {there}.")
    kind = _kind(dataset, name)
    if kind not in tuple(kinds):
        held = getattr(kind or type(found), "__name__", "")
        return Problem(param, f"The field {name!r} holds {held}, and {names} are needed. Name another one.")
    return None


def _kind(dataset: fo.Dataset, field: str) -> Any:
    return getattr(dataset.get_field(field), "document_type", None)


# --- engines ---------------------------------------------------------------------------------------------------------


def add_engine(ctx: Context, inputs: types.Object) -> None:
    """``engine``, and the options of SAM 2 where it is chosen."""
    told = {name: _ENGINES.get(name, "an engine that was added here") for name in [AUTO, *_without_auto()]}
    told[AUTO] = _auto_takes()
    inputs.str(
        "engine",
        default=AUTO,
        label="Engine",
        description="What fills the frames between the annotated ones",
        view=choices(told),
    )
    if engine_of(ctx.params) != SAM2:
        return
    inputs.str(
        "model",
        default="auto",
        label="SAM 2 model",
        description="auto: what the checkpoint is, else the smallest one that is on this machine",
        view=choices(["auto", *MODELS]),
    )
    inputs.str(
        "checkpoint", label="Checkpoint", description="Path of its weights. Empty: where 'labelprop weights' puts them"
    )
    inputs.str("device", default="auto", label="Device", view=choices(DEVICES, free=True))
    inputs.int(
        "image_size",
        label="Image size",
        description="Side in pixels that frames are scaled to, a multiple of 32: 1024 is best, 448 is fast",
        view=types.FieldView(),
    )


def engine_of(params: Mapping[str, Any]) -> str:
    """The engine that is asked for, by either name of the input and however it is spelled."""
    asked = str(params.get("engine") or "").strip()
    other = str(params.get("propagation_method") or "").strip()
    name = other if other and asked in ("", AUTO) else asked or AUTO
    if name in propagator_names():
        return name
    return re.sub(r"[\s_-]+", "", name.lower()) if re.sub(r"[\s_-]+", "", name.lower()) in propagator_names() else name


def engine_options_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the engine that were given, the free ones of scripts (``engine_options``) included."""
    named = {name: params[name] for name in _ENGINE_OPTIONS if params.get(name) not in (None, "", "auto")}
    return {**(params.get("engine_options") or {}), **named}


def engine_at_work_of(params: Mapping[str, Any]) -> str:
    """The engine that does the work, where it was left to ``auto`` as well."""
    name = engine_of(params)
    return f"{choose_engine(engine_options_of(params)).name}, by {AUTO}" if name == AUTO else name


def engine_problem(params: Mapping[str, Any]) -> Problem | None:
    """What is wrong with the engine and its options, if anything is; loads no weights."""
    name = engine_of(params)
    if name not in propagator_names():
        there = ", ".join(propagator_names())
        return Problem("engine", f"There is no engine {name!r}. Choose one of: {there}.")
    given = params.get("engine_options")
    if given is not None and not isinstance(given, Mapping):
        return Problem("engine", f"engine_options are names with their values, as a dict, got {given!r}.")
    options = engine_options_of(params)
    try:
        if name == AUTO:
            choose_engine(options)
        elif name == SAM2:
            check_option_names(SAM2, options, Sam2Options)
            Sam2Options(**options)
    except ConfigurationError as error:
        return Problem("engine", str(error))
    return None


@lru_cache(maxsize=1)
def _auto_takes() -> str:
    choice = choose_engine()
    return f"takes {choice.name} here: {choice.reason}"


def _without_auto() -> list[str]:
    return [name for name in propagator_names() if name != AUTO]


# --- numbers ---------------------------------------------------------------------------------------------------------


def whole_numbers(value: Any) -> list[int]:
    """Numbers from a list or from a text such as ``"1, 3-5"``.

    Raises:
        ConfigurationError: it is neither
    """
    if value is None or value == "":
        return []
    given = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [str(value)]
    parts = [part for text in given for part in re.split(r"[,;\s]+", str(text).strip())]
    numbers: list[int] = []
    for part in parts:
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if found is None:
            raise ConfigurationError(f"Numbers such as '1, 3-5' were expected, got {value!r}.")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + _MOST_NUMBERS:
            raise ConfigurationError(
                f"A range of numbers goes up, by {_MOST_NUMBERS} at most, as '3-5' does, got {part!r}."
            )
        numbers += range(first, last + 1)
    return sorted(set(numbers))


__all__ = [
    "FRAMES_PREFIX",
    "SAM2",
    "add_engine",
    "add_label_field",
    "add_segments_field",
    "add_slices",
    "add_sort_field",
    "add_target",
    "choices",
    "empty_problems",
    "engine_at_work_of",
    "engine_of",
    "engine_options_of",
    "engine_problem",
    "field_problem",
    "of_one_medium",
    "segments_field_of",
    "sort_field_of",
    "spelled",
    "whole_numbers",
]
