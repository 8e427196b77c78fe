"""The places that deserve a look first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import numpy as np
from bson import ObjectId

from labelprop_cvat.sequences import FRAMES_PREFIX, FrameRef

if TYPE_CHECKING:
    from labelprop_cvat.backend.doubts import Doubt
    from labelprop_cvat.backend.results import LabelPropResults
    from labelprop_cvat.workflow._overview import Overview, SequenceOverview


# Doubts are worked out for so many segments: those that say least of themselves.
_MOST_SEGMENTS = 8
# Neighbours show the same.
_APART, _SHARE_APART = 5, 20
_PROPAGATED = 3


@dataclass(frozen=True)
class WorstFrame:
    """A frame on which an object is bad, or expected to be.

    Args:
        sequence: key of its sequence
        sequence_name: its name for people
        segment: label of its temporal segment; empty where it is in none
        position: 0-based position in the sequence
        frame: what people call it: its number in a video, the name of an image's file
        sample_id: the image's or the video's sample
        frame_number: FiftyOne's 1-based number in the video; None for images
        index: the object's number; None where it has none
        label: its class; empty where that is not known
        measure: what ``value`` is: ``"J"`` as an evaluation found it, ``"expected J"``, or ``"confidence"``
        value: in [0, 1]
        why: a sentence
    """

    sequence: str
    sequence_name: str
    segment: str
    position: int
    frame: str
    sample_id: str
    frame_number: int | None
    index: int | None
    label: str
    measure: str
    value: float
    why: str


def worst_places(
    dataset: fo.Dataset, found: Overview, results: LabelPropResults | None, count: int
) -> Iterator[WorstFrame]:
    """The worst frames first: by the evaluation of the filled field, by what a run doubts, or else by confidence.

    Args:
        dataset: the dataset
        found: the overview of it
        results: its run
        count: at most so many
    """
    if found.fields.output_field is None or count < 1:
        return
    if found.evaluation is not None and found.evaluation.pred_field == found.fields.output_field:
        frames = list(_by_evaluation(found))
    elif results is not None and found.fields.output_field in results.config.outputs().values():
        frames = list(_by_doubts(found, results))
    else:
        frames = []
    yield from frames[:count] or _by_confidence(dataset, found, found.fields.output_field, count)


def _at(sequence: SequenceOverview, position: int, **said: Any) -> WorstFrame:
    ref, segment = sequence.frames[position], sequence.segment_at(position)
    return WorstFrame(
        sequence=sequence.key,
        sequence_name=sequence.name,
        segment="" if segment is None else segment.label,
        position=position,
        frame=sequence.frame_name(position),
        sample_id=ref.sample_id,
        frame_number=ref.frame_number,
        **said,
    )


def _by_evaluation(found: Overview) -> Iterator[WorstFrame]:
    from labelprop_cvat.workflow._overview import FrameState

    evaluation = found.evaluation
    if evaluation is None:
        return
    # What was judged although people looked at it is still worth a look; what they looked at since is not.
    is_left_to_people = evaluation.summary["options"].get("leave_out") == "frames"
    of_people = (FrameState.ANNOTATED, FrameState.REVIEWED)
    known = {sequence.key: sequence for sequence in found.sequences}
    labels = {
        (entry["key"], thing["index"]): thing["label"] or ""
        for entry in evaluation.summary["sequences"]
        for thing in entry["objects"]
    }
    for entry in evaluation.summary["worst"]:
        sequence, position = known.get(entry["sequence"]), int(entry["position"])
        if sequence is None or position >= len(sequence) or entry["quality"] is None:
            continue
        if is_left_to_people and FrameState(sequence.states[position]) in of_people:
            continue
        if not entry["predicted"]:
            why = "it is there and has no label"
        elif not entry["true"]:
            why = "it has a label and is not there"
        else:
            said = entry["confidence"]
            why = "labelled badly" if said is None else f"its label says {said:.2f} of itself"
        near = entry["distance"]
        why += f"; {near} frame{'' if near == 1 else 's'} from the nearest annotated one" if near and near > 0 else ""
        yield _at(
            sequence,
            position,
            index=entry["index"],
            label=labels.get((entry["sequence"], entry["index"]), ""),
            measure="J",
            value=float(entry["quality"]),
            why=why,
        )


def _by_doubts(found: Overview, results: LabelPropResults) -> Iterator[WorstFrame]:
    from labelprop_cvat.backend.doubts import doubts

    place_of: dict[FrameRef, tuple[SequenceOverview, int]] = {
        ref: (sequence, position) for sequence in found.sequences for position, ref in enumerate(sequence.frames)
    }
    candidates = []
    for key, record in results.ledger.sequences.items():
        for number, segment in enumerate(record.segments):
            if not any(fill.signature is not None for fill in segment.fills.values()):
                continue
            places = [place_of.get(record.ref(position)) for position in range(segment.start, segment.stop)]
            said = [sequence.lowest[at] for sequence, at in filter(None, places) if not np.isnan(sequence.lowest[at])]
            if said:
                candidates.append((min(said), key, number))
    worst: list[tuple[float, int, Doubt, tuple[SequenceOverview, int]]] = []
    for _, key, number in heapq.nsmallest(_MOST_SEGMENTS, candidates):
        record = results.ledger.sequences[key]
        for doubt in doubts(results, key, number):
            place = place_of.get(record.ref(doubt.worst))
            if place is not None:
                worst.append((-doubt.loss, len(worst), doubt, place))
    for _, _, doubt, (sequence, position) in sorted(worst, key=lambda entry: entry[:2]):
        yield _at(
            sequence,
            position,
            index=doubt.index,
            label=doubt.label,
            measure="expected J",
            value=float(doubt.confidence),
            why=doubt.why,
        )


def _by_confidence(dataset: fo.Dataset, found: Overview, output: str, count: int) -> Iterator[WorstFrame]:
    chosen: list[tuple[float, SequenceOverview, int]] = []
    for sequence in found.sequences:
        low = np.where(sequence.states == _PROPAGATED, sequence.lowest, np.nan)
        apart = max(_APART, len(sequence) // _SHARE_APART)
        taken: list[int] = []
        for position in np.argsort(low, kind="stable"):
            if np.isnan(low[position]) or len(taken) >= count:
                break
            if all(abs(int(position) - other) >= apart for other in taken):
                taken.append(int(position))
        chosen += [(float(low[position]), sequence, position) for position in taken]
    chosen = heapq.nsmallest(count, chosen, key=lambda entry: entry[0])
    labels = _lowest_labels(dataset, output, [sequence.frames[position] for _, sequence, position in chosen])
    for value, sequence, position in chosen:
        label = labels.get(sequence.frames[position], {})
        yield _at(
            sequence,
            position,
            index=label.get("index"),
            label=str(label.get("label") or ""),
            measure="confidence",
            value=value,
            why="the lowest confidence nearby",
        )


def _lowest_labels(dataset: fo.Dataset, name: str, refs: list[FrameRef]) -> dict[FrameRef, Mapping[str, Any]]:
    """Index, class and confidence of the label with the lowest confidence, by frame."""
    known = dataset.get_field(name)
    kind = getattr(known, "document_type", None)
    held = getattr(kind, "_LABEL_LIST_FIELD", None)
    if held is None or not refs:
        return {}
    in_frames = name.startswith(FRAMES_PREFIX)
    path = known.db_field or name.removeprefix(FRAMES_PREFIX)
    parts = {part: f"$$this.{part}" for part in ("index", "label", "confidence")}
    project = {
        "_sample_id": 1,
        "frame_number": 1,
        "labels": {"$map": {"input": {"$ifNull": [f"${path}.{held}", []]}, "in": parts}},
    }
    collection = dataset._frame_collection if in_frames else dataset._sample_collection
    if in_frames:
        places = [{"_sample_id": ObjectId(ref.sample_id), "frame_number": ref.frame_number} for ref in refs]
        match: dict[str, Any] = {"$or": places}
    else:
        match = {"_id": {"$in": [ObjectId(ref.sample_id) for ref in refs]}}
    found = {}
    for row in collection.aggregate([{"$match": match}, {"$project": project}]):
        labels = [label for label in row["labels"] if label.get("confidence") is not None]
        ref = FrameRef(str(row["_sample_id"]), row["frame_number"]) if in_frames else FrameRef(str(row["_id"]))
        if labels:
            found[ref] = min(labels, key=lambda label: float(label["confidence"]))
    return found


__all__ = ["WorstFrame", "worst_places"]
