"""Where a dataset stands in the loop: its frames, its run, its worst places, and the step that comes next."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.core.media as fom
import numpy as np
import numpy.typing as npt

from labelprop_cvat.sequences import COLLECTION_KEY, FrameRef, normal_field, plain_view, sequences_of
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.workflow._filling import OUTPUT_SUFFIX
from labelprop_cvat.workflow._frame_facts import (
    EXEMPLAR_FROM,
    FactFields,
    Facts,
    FrameFacts,
    frames_of,
    labelled_frames,
    labelled_runs,
    read_facts,
    stored_segments,
)
from labelprop_cvat.workflow._guessing import (
    label_fields,
    likely_input_field,
    likely_segments_field,
    likely_sort_field,
)
from labelprop_cvat.workflow._next_step import NextStep, Step, Totals, next_step
from labelprop_cvat.workflow._run_facts import JobOverview, RunOverview, frame_marks, look_at_run
from labelprop_cvat.workflow._runs import run_keys
from labelprop_cvat.workflow._worst_frames import WorstFrame, worst_places

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

logger = logging.getLogger(__name__)

_METHOD = "labelprop"

#: Stands for no field at all, where None would have one be found.
NO_FIELD = ""


class FrameState(IntEnum):
    """How far a frame is; of several that hold, the last one."""

    EMPTY = 0
    """Nothing is known of it."""
    EXEMPLAR = 1
    """It was chosen to be annotated."""
    SENT = 2
    """People have it: its job was not loaded yet."""
    PROPAGATED = 3
    """Its labels were filled in."""
    REVIEWED = 4
    """A reviewer looked through them."""
    ANNOTATED = 5
    """People set its labels."""


@dataclass(frozen=True)
class SegmentOverview:
    """One temporal segment: positions ``start <= position < stop`` of its sequence, 0-based."""

    label: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class SequenceOverview:
    """One sequence. Arrays have one entry per frame.

    Args:
        key: as :class:`~labelprop_cvat.sequences.Sequence` has it
        name: for people
        media_type: ``"image"`` or ``"video"``
        frames: where FiftyOne keeps each frame; of a whole video as many as its header counts
        segments: in order; none where none are stored and no run knows any
        states: :class:`FrameState` of each frame, uint8
        exemplars: whether each frame was chosen as an exemplar, bool
        lowest: lowest confidence of the labels of each frame, float; NaN where nothing says any
        mean: mean confidence, likewise
        quality: J of each frame by the evaluation, float; NaN where none says it
        filepaths: the images, or the one video
    """

    key: str
    name: str
    media_type: str
    frames: tuple[FrameRef, ...]
    segments: tuple[SegmentOverview, ...]
    states: npt.NDArray[np.uint8]
    exemplars: npt.NDArray[np.bool_]
    lowest: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    quality: npt.NDArray[np.float64]
    filepaths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def count(self, *states: FrameState) -> int:
        """How many frames are in one of some states."""
        return int(np.isin(self.states, [int(state) for state in states]).sum())

    def frame_name(self, position: int) -> str:
        """What people call a frame: its number in a video, the name of an image's file."""
        number = self.frames[position].frame_number
        return Path(self.filepaths[position]).name if number is None else str(number)

    def segment_at(self, position: int) -> SegmentOverview | None:
        """The temporal segment of a frame, if it is in one."""
        return next((segment for segment in self.segments if segment.start <= position < segment.stop), None)


@dataclass(frozen=True)
class EvaluationOverview:
    """An evaluation that :func:`labelprop_cvat.workflow.evaluate` stored.

    Args:
        eval_key: its key
        pred_field: what was judged
        gt_field: by what
        summary: what :meth:`~labelprop_cvat.evaluation.Evaluation.to_dict` gave, without the single object-frames
    """

    eval_key: str
    pred_field: str
    gt_field: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class OverviewFields:
    """The fields, the run and the evaluation that an overview is about, given or found; None where there is none.

    Args:
        sort_field: what orders images
        segments_field: where temporal segments are stored
        input_field: what people set
        output_field: what is filled from it
        anno_key: the run
        eval_key: the evaluation
    """

    sort_field: str | None = None
    segments_field: str | None = None
    input_field: str | None = None
    output_field: str | None = None
    anno_key: str | None = None
    eval_key: str | None = None


@dataclass(frozen=True)
class Overview:
    """Where a collection stands.

    Args:
        dataset: name of the dataset
        fields: what was looked at
        sequences: the sequences, as far as they can be told
        totals: counts over all of them
        run: the run; None where there is none
        evaluation: the evaluation; None where there is none
        worst: the worst places first
        step: what comes next, and why
        notes: sentences about what could not be read
    """

    dataset: str
    fields: OverviewFields
    sequences: tuple[SequenceOverview, ...]
    totals: Totals
    run: RunOverview | None
    evaluation: EvaluationOverview | None
    worst: tuple[WorstFrame, ...]
    step: NextStep
    notes: tuple[str, ...] = field(default=())

    def sequence(self, key: str) -> SequenceOverview:
        """One of the sequences.

        Raises:
            KeyError: there is none of this key
        """
        found = next((sequence for sequence in self.sequences if sequence.key == key), None)
        if found is None:
            raise KeyError(key)
        return found

    def print(self) -> None:
        """Prints a table of the sequences, one of the worst places, and the next step."""
        from labelprop_cvat.workflow._printing import print_overview

        print_overview(self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without the single frames."""
        return {
            "dataset": self.dataset,
            "fields": dict(vars(self.fields)),
            "totals": dict(vars(self.totals)),
            "sequences": [
                {
                    "key": sequence.key,
                    "name": sequence.name,
                    "media_type": sequence.media_type,
                    "frames": len(sequence),
                    "exemplars": int(sequence.exemplars.sum()),
                    "states": {state.name.lower(): sequence.count(state) for state in FrameState},
                    "segments": [dict(vars(segment)) for segment in sequence.segments],
                }
                for sequence in self.sequences
            ],
            "run": None if self.run is None else self.run.to_dict(),
            "evaluation": None if self.evaluation is None else self.evaluation.eval_key,
            "worst": [dict(vars(frame)) for frame in self.worst],
            "next": {"step": self.step.step.value, "why": self.step.why},
            "notes": list(self.notes),
        }


def overview(
    samples: fo.core.collections.SampleCollection,
    *,
    sort_field: str | None = None,
    segments_field: str | None = None,
    input_field: str | None = None,
    output_field: str | None = None,
    anno_key: str | None = None,
    eval_key: str | None = None,
    media_field: str = "filepath",
    refresh: bool = False,
    worst: int = 20,
    **login: Any,
) -> Overview:
    """Says how far a collection is: what is annotated, filled and reviewed, what is worst, and what comes next.

    Nothing is changed, no picture is read and no video decoded, so that it is quick on thousands of frames. What is not
    named is found: the newest run and its fields, or fields that look like it. Fields, runs and evaluations that are
    not there count as none.

    Args:
        samples: images, videos, groups, clips, frames or patches; may be empty
        sort_field: what orders an image collection; :data:`NO_FIELD` for the order of the view
        segments_field: where temporal segments are stored; without any, those of the run are shown
        input_field: labels that people set
        output_field: labels that are filled from them; by default as the run, or ``<input_field>_propagated``
        anno_key: the run; by default the newest one of this backend
        eval_key: the evaluation; by default the newest one of the output field
        media_field: field with the media's paths
        refresh: ask the CVAT server how far people are; otherwise, and where it cannot be reached, it is told as it
            was last seen
        worst: at most so many of the worst places
        login: as ``load_annotations()`` takes it

    Returns:
        the overview

    Raises:
        DataError: the samples do not make sequences by this sort field
    """
    view = plain_view(samples)
    dataset = samples._root_dataset
    keys = run_keys(dataset)
    key = anno_key if anno_key in keys else (keys[-1] if keys and anno_key is None else None)
    notes: list[str] = []
    run, results = None, None
    if key is not None:
        run, results = look_at_run(dataset, key, refresh=refresh, **login)
        notes += [run.trouble] if run.trouble else []
    sequences = _of_run(_sequences(view, _sort_field(view, sort_field), media_field), results)
    fields = _fields(view, sequences, run, sort_field, segments_field, input_field, output_field)
    evaluation = _evaluation(dataset, eval_key, fields.output_field)
    fields = replace(fields, anno_key=key, eval_key=None if evaluation is None else evaluation.eval_key)
    shown = _shown(dataset, sequences, fields, results, evaluation)
    totals = _totals(shown)
    candidates = [
        name
        for name in label_fields(view)
        if name not in (fields.input_field, fields.output_field) and not name.endswith(OUTPUT_SUFFIX)
    ]
    found = Overview(
        dataset=dataset.name,
        fields=fields,
        sequences=tuple(shown),
        totals=totals,
        run=run,
        evaluation=evaluation,
        worst=(),
        step=next_step(totals, run, is_evaluated=evaluation is not None, has_truth=bool(candidates)),
        notes=tuple(notes),
    )
    return replace(found, worst=tuple(worst_places(dataset, found, results, worst)))


def _sort_field(samples: fo.core.collections.SampleCollection, sort_field: str | None) -> str | None:
    """The field that images are ordered by; one that is not there orders nothing."""
    if sort_field is None:
        return likely_sort_field(samples)
    name = sort_field.removeprefix("frames.")
    return name if name and samples.get_field(name) is not None else None


def _sequences(
    samples: fo.core.collections.SampleCollection, sort_field: str | None, media_field: str
) -> list[FrameSequence]:
    if not len(samples):
        return []
    return sequences_of(samples, sort_field=sort_field, media_field=media_field)


def _of_run(sequences: list[FrameSequence], results: LabelPropResults | None) -> list[FrameSequence]:
    """The sequences of a run, where a flat view shows just what it grouped; otherwise those of the view."""
    if results is None or len(sequences) != 1 or sequences[0].key != COLLECTION_KEY:
        return sequences
    records = results.ledger.sequences
    grouped = [sample_id for record in records.values() for sample_id in record.sample_ids]
    if len(records) < 2 or set(grouped) != set(sequences[0].sample_ids):
        return sequences
    return list(results.sequences().values())


def _fields(
    samples: fo.core.collections.SampleCollection,
    sequences: Sequence[FrameSequence],
    run: RunOverview | None,
    sort_field: str | None,
    segments_field: str | None,
    input_field: str | None,
    output_field: str | None,
) -> OverviewFields:
    dataset = samples._root_dataset
    there = label_fields(samples)
    given = _there(samples, input_field, there)
    if given is None and input_field is None:
        given = next((name for name in (run.outputs if run else ()) if name in there), None)
        if given is None and run is not None:
            given = next((name for name in run.label_fields if name in there), None)
    if given is None and input_field is None and sequences:
        is_counted = all(sequence.media_type != fom.VIDEO for sequence in sequences)
        frames = sum(map(len, sequences)) if is_counted else None
        sources = [name for name in there if not name.endswith(OUTPUT_SUFFIX)]
        given = likely_input_field(there, labelled_frames(dataset, sources), frames)
    filled = _there(samples, output_field, there)
    if filled is None and output_field is None and given is not None:
        wanted = run.outputs.get(given) if run else None
        filled = wanted or f"{given}{OUTPUT_SUFFIX}"
    stored = segments_field if segments_field and dataset.get_field(segments_field) is not None else None
    return OverviewFields(
        sort_field=_sort_field(samples, sort_field),
        segments_field=stored or (likely_segments_field(samples) if segments_field is None else None),
        input_field=given,
        output_field=filled if filled in there else None,
    )


def _there(samples: fo.core.collections.SampleCollection, name: str | None, fields: Sequence[str]) -> str | None:
    """A field as the dataset spells it, with or without its prefix; None where it is none of those."""
    if name is None:
        return None
    return next((n for n in (normal_field(samples, name), name, f"frames.{name}") if n in fields), None)


def _evaluation(dataset: fo.Dataset, eval_key: str | None, output_field: str | None) -> EvaluationOverview | None:
    """The evaluation of this package that was asked for, or the newest one of a field."""
    own = []
    for key in dataset.list_evaluations():
        info = dataset.get_evaluation_info(key)
        if info.config.method == _METHOD and getattr(info.config, "pred_field", None) is not None:
            own.append((info.timestamp, key, info.config))
    for _, key, config in sorted(own, key=lambda entry: entry[0], reverse=True):
        if key != eval_key and (eval_key is not None or config.pred_field != output_field):
            continue
        results = dataset.load_evaluation_results(key)
        if results is not None:
            return EvaluationOverview(key, config.pred_field, config.gt_field, results.summary)
    return None


def _shown(
    dataset: fo.Dataset,
    sequences: Sequence[FrameSequence],
    fields: OverviewFields,
    results: LabelPropResults | None,
    evaluation: EvaluationOverview | None,
) -> list[SequenceOverview]:
    quality = None
    if evaluation is not None:
        prefix = "frames." if evaluation.pred_field.startswith("frames.") else ""
        quality = f"{prefix}{evaluation.eval_key}_j"
    facts = read_facts(
        dataset,
        sequences,
        FactFields(fields.segments_field, fields.input_field, fields.output_field, quality),
    )
    marks = frame_marks(results) if results is not None else {}
    return [_shown_sequence(sequence, facts, marks) for sequence in sequences]


def _shown_sequence(sequence: FrameSequence, facts: Facts, marks: Mapping[FrameRef, Any]) -> SequenceOverview:
    frames = frames_of(sequence, facts)
    nothing = FrameFacts()
    known = [facts.frames.get(ref, nothing) for ref in frames]
    of_run = [marks.get(ref) for ref in frames]
    runs, scores = stored_segments(frames, facts)
    segments = [SegmentOverview(label, start, stop) for start, stop, label in runs]
    if not segments and sequence.given_segments:
        segments = [SegmentOverview(e.label, e.segment.start, e.segment.stop) for e in sequence.given_segments]
    if not segments:
        places = [None if mark is None else mark.segment for mark in of_run]
        segments = [SegmentOverview(place[1], start, stop) for start, stop, place in labelled_runs(places)]
    exemplars = np.zeros(len(frames), bool)
    if any(mark is not None and mark.exemplar for mark in of_run):
        exemplars[:] = [mark is not None and mark.exemplar for mark in of_run]
    else:
        for position, score in scores.items():
            exemplars[position] = score is not None and score >= EXEMPLAR_FROM
    states = [_state(fact, mark, bool(exemplar)) for fact, mark, exemplar in zip(known, of_run, exemplars, strict=True)]
    return SequenceOverview(
        key=sequence.key,
        name=sequence.name,
        media_type=sequence.media_type,
        frames=frames,
        segments=tuple(segments),
        states=np.array(states, np.uint8),
        exemplars=exemplars,
        lowest=_numbers(fact.lowest for fact in known),
        mean=_numbers(fact.mean for fact in known),
        quality=_numbers(fact.quality for fact in known),
        filepaths=sequence.filepaths,
    )


def _state(fact: FrameFacts, mark: Any | None, exemplar: bool) -> FrameState:
    if mark is not None and mark.sent and mark.annotating:
        return FrameState.SENT
    if fact.given or fact.by_people:
        return FrameState.ANNOTATED
    if mark is not None and mark.sent:
        return FrameState.SENT
    if fact.reviewed or (fact.filled and mark is not None and mark.reviewed):
        return FrameState.REVIEWED
    if fact.filled:
        return FrameState.PROPAGATED
    return FrameState.EXEMPLAR if exemplar else FrameState.EMPTY


def _numbers(values: Iterator[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _totals(sequences: Sequence[SequenceOverview]) -> Totals:
    from labelprop_cvat.backend.doubts import DOUBTED_BELOW

    return Totals(
        sequences=len(sequences),
        frames=sum(map(len, sequences)),
        segments=sum(len(sequence.segments) for sequence in sequences),
        exemplars=sum(int(sequence.exemplars.sum()) for sequence in sequences),
        waiting=sum(sequence.count(FrameState.EXEMPLAR) for sequence in sequences),
        annotated=sum(sequence.count(FrameState.ANNOTATED) for sequence in sequences),
        sent=sum(sequence.count(FrameState.SENT) for sequence in sequences),
        propagated=sum(sequence.count(FrameState.PROPAGATED) for sequence in sequences),
        reviewed=sum(sequence.count(FrameState.REVIEWED) for sequence in sequences),
        doubtful=sum(
            int(((sequence.states == FrameState.PROPAGATED) & (sequence.lowest < DOUBTED_BELOW)).sum())
            for sequence in sequences
        ),
    )


__all__ = [
    "NO_FIELD",
    "EvaluationOverview",
    "FrameState",
    "JobOverview",
    "NextStep",
    "Overview",
    "OverviewFields",
    "RunOverview",
    "SegmentOverview",
    "SequenceOverview",
    "Step",
    "Totals",
    "WorstFrame",
    "overview",
]
