"""The real loop: a FiftyOne dataset, a CVAT server, a person made of a script, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fiftyone as fo

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import Sloppiness
from labelprop_cvat.demo.footage import Footage
from labelprop_cvat.demo.measure import Part
from labelprop_cvat.demo.people import ScriptedPeople, truth_of
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.labels import read_states
from labelprop_cvat.propagation.effort import Actions
from labelprop_cvat.propagation.types import FrameObjects, Prompt, Segment
from labelprop_cvat.registration import BACKEND
from labelprop_cvat.sequences import sequences_of

RUN = "labelprop_demo"
FRAME_FIELD = "frame_number_in_sequence"
DEMO_MARK = "labelprop_demo"
#: How often the reviewer looks, in frames, and what has less than this IoU with the truth is mended.
LOOK_EVERY = 4
MEND_BELOW = 0.9

Step = Callable[[str], object]


@dataclass(frozen=True)
class LoopResult:
    """What came out of the loop.

    Args:
        parts: the temporal segments with the frames that were annotated
        keyframes: what the annotator drew and ``load_annotations`` brought back, as prompts
        propagated: the output field before the review, frame by frame
        shapes: how many shapes were drawn
        review: what became of it
        seconds: duration of each step: ``upload``, ``annotate``, ``load`` (which propagates), and those of the review:
            ``review_upload``, ``review``, ``review_load``
    """

    parts: tuple[Part, ...]
    keyframes: tuple[Prompt, ...]
    propagated: Mapping[int, FrameObjects]
    shapes: int
    review: Review
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Review:
    """One look at what was propagated.

    Args:
        propagated: the output field after it, frame by frame
        corrected: frames on which the reviewer set a shape
        edits: what the reviewer changed, by kind
        actions: what that took
        issues: how many doubts were pointed out
        drawing: what the exemplars took before it
    """

    propagated: Mapping[int, FrameObjects]
    corrected: frozenset[int]
    edits: Mapping[str, int]
    actions: Actions
    issues: int
    drawing: Actions


def make_dataset(footage: Footage, name: str | None = None, *, persistent: bool = False) -> fo.Dataset:
    """A dataset of the footage: one video sample, or one image sample a frame, ordered by :data:`FRAME_FIELD`.

    Args:
        footage: the frames
        name: of the dataset; one that an earlier demo left is replaced
        persistent: whether it stays in the database when this process ends

    Raises:
        ConfigurationError: there is a dataset of this name that is not the demo's
    """
    if name is not None and fo.dataset_exists(name) and DEMO_MARK not in fo.load_dataset(name).info:
        raise ConfigurationError(
            f"There is a dataset {name!r} already that the demo did not make, so it is not replaced. Take another name."
        )
    dataset = fo.Dataset(name, persistent=persistent, overwrite=name is not None)
    dataset.info[DEMO_MARK] = True
    dataset.save()
    if footage.video is not None:
        dataset.add_sample(fo.Sample(filepath=str(footage.video)))
    else:
        dataset.add_samples(
            (fo.Sample(filepath=str(path), **{FRAME_FIELD: index}) for index, path in enumerate(footage.images)),
            progress=False,
        )
    return dataset


@contextmanager
def local_server() -> Iterator[LocalCVAT]:
    """A CVAT server that lives as long as the demo."""
    with LocalCVAT(users={"demo": "only-on-this-machine"}) as server:
        yield server


def run_loop(
    footage: Footage,
    dataset: fo.Dataset,
    server: LocalCVAT,
    *,
    engine: str,
    engine_options: Mapping[str, Any] | None = None,
    exemplars: str,
    sloppiness: Sloppiness | None = None,
    step: Step,
) -> LoopResult:
    """Annotates the footage's exemplars through a CVAT server, propagates them, and has that reviewed once.

    Args:
        footage: the frames and the truth, which the scripted annotator draws from
        dataset: one that :func:`make_dataset` made of it
        server: where it is annotated
        engine: what fills the other frames
        engine_options: its options
        exemplars: which frames are annotated, such as ``"every:10"``
        sloppiness: how carelessly the annotator draws the exemplars; perfectly by default
        step: called with a sentence before each step
    """
    prefix = "frames." if footage.video is not None else ""
    classes = sorted({footage.label(object_id) for object_id in _object_ids(footage)})
    seconds: dict[str, float] = {}

    step("Sending the exemplars to CVAT")
    started = time.perf_counter()
    results = dataset.annotate(
        RUN,
        backend=BACKEND,
        label_field=f"{prefix}objects",
        label_type="instances",
        classes=classes,
        engine=engine,
        engine_options=engine_options,
        exemplars=exemplars,
        # The annotator draws everything there is: what is not drawn is not there.
        missing="absent",
        sort_field=None if footage.video is not None else FRAME_FIELD,
        url=server.url,
        username=server.username,
        password=server.password,
    )
    seconds["upload"] = time.perf_counter() - started

    people = ScriptedPeople(server, truth_of(footage), sloppiness=sloppiness, every=LOOK_EVERY, threshold=MEND_BELOW)
    with _timed(seconds, "annotate"):
        step("Drawing on them, as a person would")
        people.work(results)
    with _timed(seconds, "load"):
        step("Loading the annotations, propagating them to every other frame")
        dataset.load_annotations(RUN)

    parts = tuple(
        Part(Segment(segment.start, segment.stop), frozenset(segment.exemplars))
        for record in results.ledger.sequences.values()
        for segment in record.segments
    )
    keyframes = tuple(_read_keyframes(dataset, f"{prefix}objects", parts))
    propagated = dict(_read(dataset, f"{prefix}objects_propagated"))
    return LoopResult(
        parts=parts,
        keyframes=keyframes,
        propagated=propagated,
        shapes=people.drawn,
        review=_review(dataset, results, people, prefix, propagated, seconds, step),
        seconds=seconds,
    )


def _review(
    dataset: fo.Dataset,
    results: Any,
    people: ScriptedPeople,
    prefix: str,
    propagated: Mapping[int, FrameObjects],
    seconds: dict[str, float],
    step: Step,
) -> Review:
    """Sends what was propagated to be reviewed, and brings it back."""
    drawn = dict(_read(dataset, f"{prefix}objects"))
    with _timed(seconds, "review_upload"):
        step("Sending what was propagated to CVAT, to be reviewed")
        number = results.request_review()
    if number is None:
        return Review(propagated, frozenset(), {}, Actions(), 0, results.effort()[0].actions)
    with _timed(seconds, "review"):
        step(f"Looking at every {LOOK_EVERY}th frame and at what is doubtful, mending what is wrong")
        people.work(results)
    with _timed(seconds, "review_load"):
        step("Loading what was mended, filling anew only what follows from it")
        dataset.load_annotations(RUN)
    round_ = results.ledger.rounds[number - 1]
    after = dict(_read(dataset, f"{prefix}objects"))
    corrected = {frame for frame, objects in after.items() if objects != drawn.get(frame, FrameObjects(frame))}
    drawing, reviewing = (cost.actions for cost in results.effort()[:2])
    return Review(
        propagated=dict(_read(dataset, f"{prefix}objects_propagated")),
        corrected=frozenset(corrected),
        edits=dict(round_.edits),
        actions=reviewing,
        issues=sum(len(job.issues) for task in round_.tasks for job in task.jobs),
        drawing=drawing,
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _object_ids(footage: Footage) -> set[int]:
    return {object_id for index in range(len(footage.frames)) for object_id in footage.truth(index)}


def _sequence(dataset: fo.Dataset) -> Any:
    return sequences_of(dataset, sort_field=None if dataset.media_type == "video" else FRAME_FIELD)[0]


def _read(dataset: fo.Dataset, field: str) -> Iterator[tuple[int, FrameObjects]]:
    for objects, _ in read_states(dataset, _sequence(dataset), field):
        yield objects.frame, objects


def _read_keyframes(dataset: fo.Dataset, field: str, parts: tuple[Part, ...]) -> Iterator[Prompt]:
    """What was drawn on the exemplars, and which objects of a segment are absent on which of them."""
    for part in parts:
        drawn = {
            objects.frame: objects.objects
            for objects, _ in read_states(dataset, _sequence(dataset), field, sorted(part.exemplars))
        }
        ids = sorted({object_id for objects in drawn.values() for object_id in objects})
        for frame, objects in drawn.items():
            for object_id in ids:
                state = objects.get(object_id)
                if state is None:
                    yield Prompt(frame, object_id, absent=True)
                else:
                    yield Prompt(frame, object_id, mask=state.mask)


__all__ = ["LOOK_EVERY", "MEND_BELOW", "RUN", "LoopResult", "Review", "local_server", "make_dataset", "run_loop"]
