"""The verbs that a script uses, and the driver of the propagation engines.

A script's usual day::

    import labelprop_cvat.workflow as lp

    lp.segment(view, segments_field="segments")
    lp.select(view, segments_field="segments", method="every:10")
    view.annotate("run1", backend="labelprop", label_field="frames.objects", label_type="instances",
                  classes=["person", "car"], segments_field="segments")
    dataset.load_annotations("run1")
    lp.suggest(dataset, "run1", budget=5, send=True)    # the next round, with propagated labels to be corrected
    dataset.load_annotations("run1")
    lp.review(dataset, "run1")                          # people look through what was propagated
    dataset.load_annotations("run1")

:func:`propagate` fills a field without CVAT, from whatever labels another field holds.
"""

from labelprop_cvat.workflow._adopting import adopt
from labelprop_cvat.workflow._annotating import (
    LABEL_TYPES,
    Outlook,
    annotate,
    check_new_key,
    checked_labels,
    class_names,
    likely_types,
    outlook,
    spelled_field,
)
from labelprop_cvat.workflow._choosing import DEFAULT_EXEMPLARS, plan_exemplars, segment, select
from labelprop_cvat.workflow._evaluating import evaluate
from labelprop_cvat.workflow._filling import (
    OUTPUT_SUFFIX,
    checked_output_field,
    engine_at_work,
    fill_segment,
    make_prompts,
    prompts_signature,
    warn_if_not_ready,
)
from labelprop_cvat.workflow._overview import (
    NO_FIELD,
    EvaluationOverview,
    FrameState,
    JobOverview,
    NextStep,
    Overview,
    OverviewFields,
    RunOverview,
    SegmentOverview,
    SequenceOverview,
    Step,
    Totals,
    WorstFrame,
    overview,
)
from labelprop_cvat.workflow._propagating import propagate
from labelprop_cvat.workflow._refilling import (
    DIRECTIONS,
    Digests,
    ObjectChange,
    changed_objects,
    frames_to_fill,
    prompt_digests,
    refill_segment,
    whole_objects,
)
from labelprop_cvat.workflow._reviewing import review
from labelprop_cvat.workflow._runs import cleanup, is_cut_off, load, run_keys, run_results
from labelprop_cvat.workflow._segment_views import stretch_view
from labelprop_cvat.workflow._suggesting import suggest

__all__ = [
    "DEFAULT_EXEMPLARS",
    "DIRECTIONS",
    "LABEL_TYPES",
    "NO_FIELD",
    "OUTPUT_SUFFIX",
    "Digests",
    "EvaluationOverview",
    "FrameState",
    "JobOverview",
    "NextStep",
    "ObjectChange",
    "Outlook",
    "Overview",
    "OverviewFields",
    "RunOverview",
    "SegmentOverview",
    "SequenceOverview",
    "Step",
    "Totals",
    "WorstFrame",
    "adopt",
    "annotate",
    "changed_objects",
    "check_new_key",
    "checked_labels",
    "checked_output_field",
    "class_names",
    "cleanup",
    "engine_at_work",
    "evaluate",
    "fill_segment",
    "frames_to_fill",
    "is_cut_off",
    "likely_types",
    "load",
    "make_prompts",
    "outlook",
    "overview",
    "plan_exemplars",
    "prompt_digests",
    "prompts_signature",
    "propagate",
    "refill_segment",
    "review",
    "run_keys",
    "run_results",
    "segment",
    "select",
    "spelled_field",
    "stretch_view",
    "suggest",
    "warn_if_not_ready",
    "whole_objects",
]
