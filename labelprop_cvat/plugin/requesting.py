"""The operator that sends exemplars to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from fiftyone.operators import types

from labelprop_cvat.backend.labelprop import MISSING_POLICIES, NO_ENGINE
from labelprop_cvat.backend.rounds.review import checked_frames
from labelprop_cvat.errors import ConfigurationError, LabelPropError
from labelprop_cvat.plugin import _fields
from labelprop_cvat.plugin._login import SECRET, check_login, login_of
from labelprop_cvat.plugin._steps import Context, Problem, Step, value_of
from labelprop_cvat.plugin.runs import add_connection, links_of, secret_problems, with_links
from labelprop_cvat.propagation.exemplars import ExemplarSpec
from labelprop_cvat.sequences import every_sample
from labelprop_cvat.wording import counted
from labelprop_cvat.workflow import (
    DEFAULT_EXEMPLARS,
    LABEL_TYPES,
    OUTPUT_SUFFIX,
    annotate,
    check_new_key,
    checked_labels,
    class_names,
    is_cut_off,
    likely_types,
    outlook,
    run_keys,
    spelled_field,
)
from labelprop_cvat.workflow._frame_facts import labelled_frames
from labelprop_cvat.workflow._guessing import is_video, likely_input_field

_NEW_FIELD = "objects"
_STORED = "as stored"
_MOST_TO_COUNT = 20_000
_MOST_FIELDS = 4
_TRUTH = ("ground_truth", "truth", "gt")

_EXEMPLARS = {
    _STORED: f"those that Select Exemplars chose; where there are none, {DEFAULT_EXEMPLARS}",
    "first": "the first frame of each segment",
    "middle": "the frame in the middle of each segment",
    "every:10": "the first frame and every tenth after it, or another number",
    "uniform:3": "three frames, evenly spread, or another number",
    "coverage:3": "the three frames from which propagation is predicted to lose least; looks at the frames",
    "coverage:0.9": "as many such frames as promise this mean J; looks at the frames",
    "diverse:3": "the three frames that stand best for the looks of all others; looks at the frames",
    "all": "every frame",
}
_TYPES = {
    "instances": "masks",
    "detections": "boxes",
    "polygons": "filled outlines",
    "polylines": "lines",
    "keypoints": "points, or skeletons",
    "classifications": "classes of whole frames",
    "segmentation": "one mask of a whole frame",
}

# Settings of the backend that the form asks for under these names, as they are.
_TEXTS = ("output_field", "missing", "gt_field", "project_name", "task_name", "organization")
_LISTS = ("task_assignee", "job_assignees", "job_reviewers")
_NUMBERS = ("image_quality", "segment_size", "task_size", "max_rounds")
# And those that only scripts give.
_OTHERS = (
    "attributes",
    "chunk_size",
    "coerce_text_attrs",
    "engine_options",
    "exemplar_scoring_method",
    "frame_start",
    "frame_step",
    "frame_stop",
    "group_id_attr",
    "issue_tracker",
    "job_stages",
    "job_states",
    "label_schema",
    "mask_targets",
    "media_field",
    "occluded_attr",
    "project_id",
    "propagation_method",
    "review_as",
    "segmentation",
    "timeout",
    "use_cache",
    "use_zip_chunks",
    "verify",
)
# Of these, what has its own way to annotate().
_READ_ABOVE = ("engine_options", "exemplar_scoring_method", "propagation_method", "review_as")


class RequestAnnotations(Step):
    """Sends exemplars to CVAT as a new run."""

    name = "request_annotations"
    label = "Request Annotations"
    description = "Send exemplars to CVAT, where people annotate them"
    undeclared = (*SECRET, *_OTHERS)
    numbers = (("tasks", "Tasks"), ("jobs", "Jobs"), ("samples_processed", "Frames"))

    def form(self, ctx: Context, inputs: types.Object) -> None:
        samples = ctx.target_view()
        inputs.str(
            "anno_key",
            default=_likely_key(ctx),
            required=True,
            label="Name of the run",
            description="Everything that comes of it goes by this name. Of one whose upload was cut off: it goes on",
        )
        self._add_labels(ctx, inputs, samples)
        _fields.add_sort_field(inputs, samples)
        _fields.add_segments_field(inputs, samples)
        inputs.str(
            "exemplars",
            default=_STORED,
            label="Frames to annotate",
            description="In each temporal segment",
            view=_fields.choices(_EXEMPLARS, free=True),
        )
        _fields.add_engine(ctx, inputs)
        inputs.properties["engine"].view.add_choice(
            NO_ENGINE, label=NO_ENGINE, description="nothing is propagated; every frame is sent"
        )
        inputs.bool(
            "review",
            default=False,
            label="Review",
            description="What is propagated goes back to people, again and again until nobody changes anything",
        )
        if value_of(ctx, "review"):
            self._add_review(inputs)
        inputs.bool("more_settings", default=False, label="More settings", view=types.SwitchView())
        if value_of(ctx, "more_settings"):
            self._add_more(inputs)
        add_connection(ctx, inputs)
        self._add_outlook(ctx, inputs, samples)

    def _add_labels(self, ctx: Context, inputs: types.Object, samples: Any) -> None:
        known = [name for name in _fields.label_fields(samples) if not name.endswith(OUTPUT_SUFFIX)]
        likely = _likely_field(samples, known) or spelled_field(samples, _NEW_FIELD, "instances")
        inputs.str(
            "label_field",
            default=likely,
            required=True,
            label="Label field",
            description="A new field, or one whose labels go along to be corrected",
            view=_fields.choices(known, free=True),
        )
        asked = value_of(ctx, "label_type")
        try:
            field = spelled_field(samples, str(value_of(ctx, "label_field", likely)), asked)
            found, classes = likely_types(samples, field), class_names(samples, field)
        except LabelPropError:
            # Which is said beside the field.
            found, classes = (), []
        told = {name: _TYPES.get(name, "") for name in found or _TYPES}
        is_small = len(samples._root_dataset) <= _MOST_TO_COUNT
        others = known[:_MOST_FIELDS] if is_small and not classes else []
        offered = classes or sorted({name for other in others for name in class_names(samples, other)})
        inputs.str(
            "label_type",
            default=found[0] if found else "instances",
            label="Label type",
            description="What people draw",
            view=_fields.choices(told),
        )
        inputs.list(
            "classes",
            types.String(),
            default=classes or None,
            label="Classes",
            description="Names of what is annotated; people can draw nothing else",
            view=_fields.choices(offered, free=True),
        )

    def _add_review(self, inputs: types.Object) -> None:
        inputs.str(
            "review_frames",
            default="all",
            label="Frames that reviewers see",
            view=_fields.choices(
                {
                    "all": "every frame of a segment",
                    "uncertain": "those where something is doubted, with others to compare",
                    "every:5": "each fifth, or another number",
                },
                free=True,
            ),
        )
        inputs.bool(
            "as_polygons",
            default=False,
            label="Masks as polygons",
            description="Their corners can be dragged; less exact",
        )
        inputs.int("max_rounds", default=5, min=1, label="Reviews of a segment at most", view=types.FieldView())
        inputs.str("job_reviewers", label="Reviewers", description="CVAT user names, with commas, dealt out in turn")

    def _add_more(self, inputs: types.Object) -> None:
        inputs.str("output_field", label="Output field", description=f"Empty: the label field with {OUTPUT_SUFFIX}")
        inputs.str(
            "missing",
            default="unknown",
            label="An object that is missing on an annotated frame",
            view=_fields.choices(
                {
                    "unknown": "may be there all the same; the frame may be partly annotated",
                    "absent": "is not to be seen there",
                }
            ),
        )
        inputs.str("task_name", label="Task name", description="Empty: the names of the dataset and of the run")
        inputs.str("project_name", label="Project", description="Of CVAT; made where there is none of this name")
        inputs.str("organization", label="Organization", description="Short name, of CVAT")
        inputs.str("task_assignee", label="Task assignees", description="CVAT user names, with commas, in turn")
        inputs.str("job_assignees", label="Job assignees", description="CVAT user names, with commas, in turn")
        inputs.int("image_quality", default=75, min=0, max=100, label="Image quality", view=types.FieldView())
        inputs.int("segment_size", min=1, label="Frames in a job at most", view=types.FieldView())
        inputs.int("task_size", min=1, label="Frames in a task at most", view=types.FieldView())
        inputs.str(
            "gt_field",
            label="Ground truth field",
            description="Where there is some: each load notes how good the propagated labels are",
        )

    def _add_outlook(self, ctx: Context, inputs: types.Object, samples: Any) -> None:
        if len(samples) > _MOST_TO_COUNT or value_of(ctx, "engine") == NO_ENGINE:
            return
        try:
            found = outlook(
                samples,
                sort_field=_fields.sort_field_of(ctx.params, samples),
                segments_field=_fields.segments_field_of(_with_defaults(ctx, inputs), samples),
                exemplars=_exemplars(_with_defaults(ctx, inputs)),
            )
        except LabelPropError:
            return
        if found is not None:
            jobs, tasks = counted(found.segments, "job"), counted(found.sequences, "task")
            label = f"{counted(found.frames, 'frame')} will go to CVAT, in {jobs} of {tasks}"
            inputs.view("outlook", types.Notice(label=label))

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        return [*secret_problems(params), *self._wrong(ctx, params)]

    def _wrong(self, ctx: Context, params: Mapping[str, Any]) -> Iterator[Problem]:
        samples = ctx.target_view()
        if len(samples) == 0:
            yield Problem(None, f"There is no sample in this view of {ctx.dataset.name!r}. Widen the view.")
            return
        try:
            check_new_key(ctx.dataset, str(params.get("anno_key") or ""))
        except LabelPropError as error:
            yield Problem("anno_key", str(error))
        if params.get("label_schema") is None:
            yield from self._wrong_labels(samples, params)
        field = _fields.segments_field_of(params, samples)
        if field is not None and ctx.dataset.get_field(field) is None:
            yield Problem(
                "temporal_segments_field",
                f"There is no field {field!r} with temporal segments. Make it by Temporal Segmentation, or leave it "
                f"empty: the frames are searched for cuts.",
            )
        for param, check in (("exemplars", _exemplars_checked), ("review_frames", _review_frames_checked)):
            try:
                check(params)
            except ConfigurationError as error:
                yield Problem(param, str(error))
        if params.get("missing") not in (None, "", *MISSING_POLICIES):
            names = " or ".join(map(repr, MISSING_POLICIES))
            yield Problem("missing", f"What is missing is {names}, got {params['missing']!r}.")
        if params.get("engine") != NO_ENGINE:
            problem = _fields.engine_problem(params)
            if problem is not None:
                yield problem

    def _wrong_labels(self, samples: Any, params: Mapping[str, Any]) -> Iterator[Problem]:
        field, label_type = str(params.get("label_field") or "").strip(), params.get("label_type")
        if not field:
            yield Problem("label_field", "No label field was named. Name one, new or not.")
            return
        if label_type is not None and label_type not in LABEL_TYPES:
            there = ", ".join(LABEL_TYPES)
            yield Problem("label_type", f"There is no label type {label_type!r}. Choose one of: {there}.")
            return
        try:
            checked_labels(samples, field, label_type, _classes(params) or ["any"])
        except LabelPropError as error:
            yield Problem("label_field", str(error))
            return
        try:
            checked_labels(samples, field, label_type, _classes(params))
        except LabelPropError:
            yield Problem("classes", f"{field!r} holds no labels yet. Name the classes that people annotate there.")

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        samples, key = ctx.target_view(), str(params["anno_key"])
        url, username = params.get("url") or None, params.get("username") or None
        check_login(ctx, url, username)
        results = annotate(samples, key, **_asked(samples, params), **login_of(ctx, url, username))
        rows = results.get_status(refresh=False)
        tasks, frames = len({row["task_id"] for row in rows}), sum(row["frames"] for row in rows)
        return {
            "message": f"The run {key!r} is in CVAT: {counted(frames, 'frame')} in {counted(len(rows), 'job')} of "
            f"{counted(tasks, 'task')}. When people have completed jobs, run Load Annotations.",
            "anno_key": key,
            "tasks": tasks,
            "jobs": len(rows),
            "links": links_of(rows),
            "urls": [row["url"] for row in rows],
            "output_fields": list(results.config.outputs().values()),
            "samples_processed": frames,
        }

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        return with_links(super()._shown(result, state), result)


def _asked(samples: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """What annotate() is asked for, besides how to connect."""
    asked: dict[str, Any] = {"engine": NO_ENGINE}
    if params.get("engine") != NO_ENGINE:
        asked = {"engine": _fields.engine_of(params), "engine_options": _fields.engine_options_of(params) or None}
    if params.get("label_schema") is None:
        asked["label_field"] = str(params["label_field"]).strip()
        asked["classes"] = _classes(params) or None
    asked |= {
        "label_type": params.get("label_type") if params.get("label_schema") is None else None,
        "sort_field": _fields.sort_field_of(params, samples),
        "segments_field": _fields.segments_field_of(params, samples),
        "exemplars": _exemplars(params),
        "review": bool(params.get("review")),
        "review_frames": str(params.get("review_frames") or "all"),
        "review_as": "polygons" if params.get("as_polygons") else params.get("review_as"),
    }
    asked |= {name: str(params[name]).strip() for name in _TEXTS if str(params.get(name) or "").strip()}
    asked |= {name: _texts(params[name]) for name in _LISTS if params.get(name)}
    asked |= {name: int(params[name]) for name in _NUMBERS if params.get(name) is not None}
    asked |= {name: params[name] for name in _OTHERS if params.get(name) is not None and name not in _READ_ABOVE}
    return {name: value for name, value in asked.items() if value is not None}


def _likely_key(ctx: Context) -> str:
    """The run whose upload was cut off, or a name that is free."""
    keys = run_keys(ctx.dataset)
    if keys and is_cut_off(ctx.dataset, keys[-1]):
        return keys[-1]
    taken = set(ctx.dataset.list_annotation_runs())
    return next(name for name in (f"run{number}" for number in count(1)) if name not in taken)


def _likely_field(samples: Any, known: list[str]) -> str | None:
    """The field that people annotate by all appearances: never one that is complete, or holds the truth."""
    dataset = samples._root_dataset
    mine = [name for name in known if name.removeprefix(_fields.FRAMES_PREFIX) not in _TRUTH]
    if not mine or len(samples) > _MOST_TO_COUNT:
        return None
    frames = dataset.count("frames") if is_video(samples) else len(every_sample(dataset))
    return likely_input_field(_fields.label_fields(samples), labelled_frames(dataset, mine), frames)


def _with_defaults(ctx: Context, inputs: types.Object) -> dict[str, Any]:
    return {**{name: prop.default for name, prop in inputs.properties.items()}, **ctx.params}


def _classes(params: Mapping[str, Any]) -> list[Any]:
    """The classes, of which several may have been typed into one entry; descriptions of classes as they are."""
    given = params.get("classes") or ()
    found: list[Any] = []
    for entry in [given] if isinstance(given, str) else given:
        found += _texts(entry) if isinstance(entry, str) else [entry]
    return found


def _texts(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    return [text for text in (str(part).strip() for part in parts) if text]


def _exemplars(params: Mapping[str, Any]) -> str | None:
    """How exemplars are chosen; None for what is stored."""
    method = str(params.get("exemplars") or params.get("exemplar_scoring_method") or "").strip()
    if method == "first_frame":
        return "first"
    return method if method not in ("", _STORED) else None


def _exemplars_checked(params: Mapping[str, Any]) -> None:
    method = _exemplars(params)
    if method is not None:
        ExemplarSpec.parse(method)


def _review_frames_checked(params: Mapping[str, Any]) -> None:
    checked_frames(str(params.get("review_frames") or "all"))


OPERATORS = (RequestAnnotations,)

__all__ = ["OPERATORS", "RequestAnnotations"]
