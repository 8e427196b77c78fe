"""Only what changed is filled anew: which stretches of which objects, and everything else stays bit for bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from fixtures_roundtrip import (
    SIZE,
    annotate_by_script,
    image_dataset,
    login,
    scene_masks,
    video_dataset,
    write_images,
    write_video,
)
from fixtures_sam2_product import Engines
from hypothesis import given, settings
from hypothesis import strategies as st

import labelprop_cvat  # noqa: F401 - registers the backend
import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.filling import Filling
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import DataError, EngineError
from labelprop_cvat.labels import ObjectWriter, detection_to_mask, mark_labels, mask_to_detection
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, Segment
from labelprop_cvat.sequences import Sequence, sequences_of

FRAMES = 13
PERSON, CAR = 1, 2
SPAN = Segment(0, FRAMES)

Stored = list[dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


@pytest.fixture
def dataset(files: list[Path]) -> Iterator[fo.Dataset]:
    made = image_dataset(files)
    yield made
    made.delete()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    return Engines(monkeypatch)


def loaded(server: LocalCVAT, dataset: fo.Dataset, engine: str = "hold", **options: Any) -> Any:
    """A run that was annotated on the frames 0, 6 and 12, and loaded."""
    asked = {
        "label_field": "objects",
        "label_type": "instances",
        "classes": ["person", "car"],
        "sort_field": "number",
        "segmentation": "none",
        "exemplars": "every:6",
        "engine": engine,
        **options,
    }
    shape = {"instances": "mask", "detections": "rectangle"}[asked["label_type"]]
    if dataset.media_type == "video":
        asked |= {"label_field": "frames.objects"}
        del asked["sort_field"]
    results = dataset.annotate("run", backend="labelprop", **asked, **login(server))
    annotate_by_script(server, results, shape=shape, first_number=int(dataset.media_type == "video"))
    dataset.load_annotations("run")
    return dataset.load_annotation_results("run")


def stored(dataset: fo.Dataset, field: str = "objects_propagated") -> Stored:
    """What the database holds, frame by frame, by index."""
    if dataset.media_type == "video":
        documents = dataset._frame_collection.find({}).sort("frame_number")
    else:
        documents = dataset._sample_collection.find({}).sort("number")
    values = [document.get(field) or {"detections": []} for document in documents]
    return [{label["index"]: label for label in value["detections"]} for value in values]


def changed(before: Stored, after: Stored) -> dict[int, list[int]]:
    """The frames, by index, on which a label is another one than before, be it by a bit."""
    found: dict[int, list[int]] = {}
    for frame, (old, new) in enumerate(zip(before, after, strict=True)):
        for index in old.keys() | new.keys():
            if old.get(index) != new.get(index):
                found.setdefault(index, []).append(frame)
    return dict(sorted(found.items()))


def renewed(before: Stored, after: Stored) -> dict[int, list[int]]:
    """The frames, by index, on which a label has another id than before."""
    ids = [[{index: label["_id"] for index, label in frame.items()} for frame in side] for side in (before, after)]
    return changed(*ids)


def without_ids(labels: Stored, *others: str) -> Stored:
    without = ("_id", "instance", *others)
    return [
        {index: {k: v for k, v in label.items() if k not in without} for index, label in frame.items()}
        for frame in labels
    ]


def mask_label(index: int, mask: ObjectMask, **values: Any) -> fo.Detection:
    box, crop = mask_to_detection(mask, SIZE) or ([], None)
    given = {"label": {PERSON: "person", CAR: "car"}.get(index, "person"), "keyframe": True, **values}
    return fo.Detection(index=index, bounding_box=box, mask=crop, **given)


def drawn(index: int, frame: int, shift: int = 0) -> ObjectMask:
    mask = ObjectMask.from_full(np.roll(scene_masks(frame)[index], shift, axis=1))
    assert mask is not None
    return mask


def correct(dataset: fo.Dataset, frame: int, index: int, mask: ObjectMask | None, **values: Any) -> None:
    """Sets, or takes away, what people say of one object on one frame of images."""
    sample = dataset.match(fo.ViewField("number") == frame).first()
    held = sample["objects"].detections if sample["objects"] is not None else []
    kept = [label for label in held if label.index != index]
    instance = next((label.instance for label in dataset.first()["objects"].detections if label.index == index), None)
    if mask is not None:
        kept.append(mask_label(index, mask, instance=instance or fo.Instance(), **values))
    sample["objects"] = fo.Detections(detections=kept)
    sample.save()


def fill_of(results: Any) -> Any:
    results.refresh()
    ((segment,),) = [record.segments for record in results.ledger.sequences.values()]
    return segment.fill(next(iter(segment.fills)))


# --- what changed, and how far it reaches --------------------------------------------------------------------------


DIGESTS = st.dictionaries(
    st.integers(1, 2),
    st.dictionaries(
        st.integers(0, FRAMES - 1),
        st.sampled_from(["a:c:x:manual", "b:c:x:manual", "absent:::", "hidden:::", "hidden:::"]),
        min_size=1,
    ),
)


@settings(max_examples=300, deadline=None)
@given(DIGESTS, DIGESTS)
def test_frames_are_filled_anew_where_what_is_next_to_them_changed(
    before: dict[int, dict[int, str]], after: dict[int, dict[int, str]]
) -> None:
    changes = lp.changed_objects(before, after, SPAN)
    for index in before.keys() | after.keys():
        old, new = before.get(index, {}), after.get(index, {})
        change = changes.get(index, lp.ObjectChange())
        if not new:
            assert change == lp.ObjectChange(gone=frozenset(SPAN.frames))
            continue
        hidden = {frame for frame, digest in new.items() if digest == "hidden:::"}
        was_hidden = {frame for frame, digest in old.items() if digest == "hidden:::"}
        shown, was_shown = ({at for at, digest in side.items() if ":c:" in digest} for side in (new, old))
        assert change.gone == (hidden - was_hidden) | (was_shown - shown - change.frames)
        for frame in SPAN.frames:
            beside = [next_to(frame, side, hidden) for side in (old, new)]
            is_followed = any(
                new.get(at, "hidden") not in ("hidden:::", "absent:::", "hidden") for at in piece(frame, hidden)
            )
            assert (frame in change.frames) == (frame not in hidden and is_followed and beside[0] != beside[1])


def test_a_label_that_was_taken_back_goes_also_where_nothing_is_filled() -> None:
    before = {1: {0: "a:c:x:manual", 8: "b:c:x:manual"}}
    after = {1: {0: "a:c:x:manual", 4: "hidden:::"}}
    change = lp.changed_objects(before, after, SPAN)[1]
    assert change.gone == {4, 8}
    assert not change.frames & {5, 6, 7, 8}


def piece(frame: int, hidden: set[int]) -> list[int]:
    """The frames around one that no hidden frame parts from it."""
    before = [at for at in hidden if at <= frame]
    behind = [at for at in hidden if at >= frame]
    return list(range(max(before, default=-1) + 1, min(behind, default=FRAMES)))


def next_to(frame: int, side: dict[int, str], hidden: set[int]) -> tuple[Any, Any]:
    """What stands next to a frame, or on it, on either side, where nothing that is hidden now comes between."""
    there = [(at, side[at]) for at in piece(frame, hidden) if at in side]
    return max((e for e in there if e[0] <= frame), default=None), min(
        (e for e in there if e[0] >= frame), default=None
    )


def test_what_labels_say_reaches_as_far_as_it_holds() -> None:
    def said(*values: tuple[int, str, str, str]) -> dict[int, dict[int, str]]:
        return {1: {frame: f"shape{frame}:{name}:{colour}:{source}" for frame, name, colour, source in values}}

    before = said((2, "car", "red", "manual"), (6, "car", "red", "manual"), (9, "car", "red", "manual"))
    other = said((2, "car", "red", "manual"), (6, "car", "blue", "manual"), (9, "car", "red", "reviewed"))
    assert lp.changed_objects(before, other, SPAN) == {1: lp.ObjectChange(marked=frozenset({6, 7, 8, 9}))}
    first = said((2, "car", "blue", "manual"), (6, "car", "red", "manual"), (9, "car", "red", "manual"))
    assert lp.changed_objects(before, first, SPAN) == {1: lp.ObjectChange(marked=frozenset(range(6)))}
    one = said((2, "van", "red", "manual"), (6, "car", "red", "manual"), (9, "car", "red", "manual"))
    assert lp.changed_objects(before, one, SPAN) == {}
    two = said((2, "van", "red", "manual"), (6, "van", "red", "manual"), (9, "car", "red", "manual"))
    assert lp.changed_objects(before, two, SPAN) == {1: lp.ObjectChange(marked=frozenset(SPAN.frames))}
    assert lp.changed_objects(before, {}, SPAN) == {1: lp.ObjectChange(gone=frozenset(SPAN.frames))}


# --- the same as filling all of it ---------------------------------------------------------------------------------


class Page:
    """Keyframes of a sequence outside any run, filled into a field from where they changed, or all anew."""

    def __init__(self, dataset: fo.Dataset, engine: str, **options: Any) -> None:
        self.dataset, self.engine = dataset, get_propagator(engine, **options)
        (self.sequence,) = sequences_of(dataset, sort_field="number")
        self.labels: dict[tuple[int, int], fo.Detection | None] = {}
        self._digests: lp.Digests | None = None

    def fill(self, field: str, *, all_of_it: bool) -> dict[int, lp.ObjectChange]:
        exemplars: dict[int, list[fo.Detection]] = {}
        for (frame, _), label in sorted(self.labels.items(), key=lambda item: item[0]):
            if label is not None:
                exemplars.setdefault(frame, []).append(label)
        absences = [[index, frame] for (frame, index), label in self.labels.items() if label is None]
        digests = lp.prompt_digests(lp.make_prompts(exemplars, SIZE, absences), exemplars)
        asked: dict[str, Any] = {"start": 0, "stop": FRAMES, "exemplars": exemplars, "absences": absences}
        asked |= {"engine": self.engine, "output_field": field}
        if all_of_it:
            lp.fill_segment(self.dataset, self.sequence, **asked)
            return {}
        changes = lp.changed_objects(self._digests or {}, digests, SPAN)
        if self._digests is None:
            lp.fill_segment(self.dataset, self.sequence, **asked)
        else:
            lp.refill_segment(self.dataset, self.sequence, changes=changes, attribute_names=["colour"], **asked)
        self._digests = digests
        return changes


def square(index: int, x: int, rng: random.Random) -> fo.Detection:
    mask = ObjectMask(x, 20 * index, np.ones((rng.randint(4, 9), rng.randint(4, 9)), dtype=bool))
    return mask_label(index, mask, label=rng.choice(["person", "car"]), colour=rng.choice(["red", "blue"]))


def box(index: int, x: int, rng: random.Random) -> fo.Detection:
    values = {"label": rng.choice(["person", "car"]), "colour": rng.choice(["red", "blue"]), "keyframe": True}
    return fo.Detection(index=index, bounding_box=[x / 200, 0.2 * index, 0.1, rng.choice([0.1, 0.15])], **values)


@pytest.mark.parametrize(
    ("engine", "make", "indices", "steps"),
    [
        ("hold", square, (1, 2, 3), 12),
        ("interpolate", box, (1, 2, 3), 12),
        ("flow", box, (1, 2), 4),
        ("flow", square, (1,), 4),
    ],
    ids=["hold", "interpolate", "flow boxes", "flow mask"],
)
def test_filling_step_by_step_is_filling_at_once(
    dataset: fo.Dataset, engine: str, make: Callable[..., fo.Detection], indices: tuple[int, ...], steps: int
) -> None:
    rng = random.Random(4)
    page = Page(dataset, engine)
    for index in indices:
        page.labels[0, index], page.labels[8, index] = make(index, 20, rng), make(index, 30, rng)
    page.fill("steps", all_of_it=False)
    for _ in range(steps):
        before = stored(dataset, "steps")
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(FRAMES), rng.choice(indices)
            what = rng.choice(["draw", "draw", "draw", "say", "absent", "take away"])
            if what == "draw" or (what == "say" and page.labels.get(place) is None):
                page.labels[place] = make(place[1], 20 + place[0], rng)
            elif what == "say":
                label = copy.deepcopy(page.labels[place])
                assert label is not None
                label.label, label["colour"] = rng.choice(["person", "car"]), rng.choice(["red", "blue", "green"])
                page.labels[place] = label
            elif what == "absent":
                page.labels[place] = None
            else:
                page.labels.pop(place, None)
        changes = page.fill("steps", all_of_it=False)
        after = stored(dataset, "steps")
        page.fill("at_once", all_of_it=True)
        # How sure a box is that nobody filled anew is not asked again when a keyframe further off says more of its way.
        ours = ("confidence",) if (engine, make) == ("flow", box) else ()
        assert without_ids(after, *ours) == without_ids(stored(dataset, "at_once"), *ours)
        filled = {(index, frame) for index, change in changes.items() for frame in change.frames}
        assert {(i, frame) for i, frames in renewed(before, after).items() for frame in frames} <= filled
        # One object, one instance, however often parts of it are made anew.
        for index in indices:
            assert len({str(frame[index]["instance"]["_id"]) for frame in after if index in frame}) <= 1


def test_objects_are_looked_for_on_their_own_stretches_only(dataset: fo.Dataset, engines: Engines) -> None:
    rng = random.Random(1)
    page = Page(dataset, "hold")
    for index in (1, 2):
        for frame in (0, 4, 8, 12):
            page.labels[frame, index] = square(index, 20, rng)
    page.fill("out", all_of_it=False)
    page.labels[2, 1], page.labels[10, 2] = square(1, 25, rng), square(2, 25, rng)
    asked: list[Segment] = []
    hold = page.engine

    class Watched:
        spec = replace(hold.spec, reads_frames=True)

        def propagate(self, frames: Any, prompts: Any, span: Any) -> Iterator[FrameObjects]:
            asked.append(span)
            for answer in hold.propagate(frames, prompts, span):
                shown.append({number for number, state in answer.objects.items() if not state.keyframe})
                yield answer

    shown: list[set[int]] = []
    page.engine = Watched()
    page.fill("out", all_of_it=False)
    # One call, which ends with the last frame that is asked for, and looks for nothing beyond the stretches.
    assert asked == [SPAN]
    looked_for = {frame: found for frame, found in enumerate(shown) if found}
    assert looked_for == {1: {1}, 3: {1}, 9: {2}, 11: {2}}
    assert len(shown) == FRAMES - 1


def test_new_masks_give_way_to_what_people_drew_of_other_objects(dataset: fo.Dataset) -> None:
    page = Page(dataset, "flow", threads=1)
    for frame in (0, 12):
        page.labels[frame, PERSON] = mask_label(PERSON, drawn(PERSON, frame))
    inside = drawn(PERSON, 6).to_full(SIZE)
    inside[:30] = False
    apple = ObjectMask.from_full(inside)
    assert apple is not None
    page.labels[6, CAR] = mask_label(CAR, apple)
    page.fill("out", all_of_it=False)
    page.labels[3, PERSON] = mask_label(PERSON, drawn(PERSON, 3, shift=1))
    page.labels[9, PERSON] = mask_label(PERSON, drawn(PERSON, 9, shift=1))
    page.fill("out", all_of_it=False)
    found = dataset.match(fo.ViewField("number") == 6).first()["out"].detections
    masks = {label.index: pixels(label) for label in found}
    assert (masks[CAR] == apple.to_full(SIZE)).all()
    assert masks[PERSON].any()
    assert not (masks[PERSON] & masks[CAR]).any()


def pixels(label: fo.Detection) -> np.ndarray:
    mask = detection_to_mask(label, SIZE)
    assert mask is not None
    return mask.to_full(SIZE)


# --- over a run ----------------------------------------------------------------------------------------------------


def test_a_correction_moves_its_own_stretch_and_nothing_else(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = loaded(server, dataset, "flow", engine_options={"threads": 1})
    before = stored(dataset)
    assert renewed(before, stored(dataset)) == {}
    correct(dataset, 3, PERSON, drawn(PERSON, 3, shift=3))
    dates = dataset.sort_by("number").values("last_modified_at")
    assert results.propagate() == [fill_label(results)]
    later = dataset.sort_by("number").values("last_modified_at")
    assert [number for number in range(FRAMES) if dates[number] != later[number]] == [1, 2, 3, 4, 5]
    after = stored(dataset)
    assert renewed(before, after) == {PERSON: [1, 2, 3, 4, 5]}
    assert changed(before, after) == {PERSON: [1, 2, 3, 4, 5]}
    assert after[3][PERSON]["keyframe"]
    assert [after[frame][PERSON]["exemplar_frames"] for frame in (2, 4)] == [[0, 3], [3, 6]]
    assert {str(frame[PERSON]["instance"]) for frame in after} == {str(before[0][PERSON]["instance"])}
    # Nothing changed, nothing is done, also by another process.
    assert results.propagate() == []
    dataset.load_annotations("run")
    assert stored(dataset) == after

    # Back again: what is made of the same prompts is the same, and the rest never moved.
    correct(dataset, 3, PERSON, None)
    results.propagate()
    back = stored(dataset)
    assert without_ids(back) == without_ids(before)
    assert renewed(before, back) == {PERSON: [1, 2, 3, 4, 5]}


def fill_label(results: Any) -> str:
    ((segment,),) = [record.segments for record in results.ledger.sequences.values()]
    return str(segment.label)


def test_boxes_of_a_video(server: LocalCVAT, tmp_path: Path) -> None:
    dataset = video_dataset(write_video(tmp_path / "street.mp4", FRAMES))
    results = loaded(server, dataset, "interpolate", label_type="detections")
    before = stored(dataset)
    sample = dataset.first()
    held = sample.frames[1]["objects"].detections
    person = next(label for label in held if label.label == "person")
    index = person.index
    sample.frames[10]["objects"] = fo.Detections(
        detections=[
            fo.Detection(
                label="person", index=index, bounding_box=[0.1, 0.1, 0.2, 0.2], keyframe=True, instance=person.instance
            )
        ]
    )
    sample.save()
    results.propagate()
    after = stored(dataset)
    assert changed(before, after) == renewed(before, after) == {index: [7, 8, 9, 10, 11]}
    # Labels of videos name frames as FiftyOne does, from 1.
    assert after[8][index]["exemplar_frames"] == [7, 10]
    dataset.delete()


def test_what_is_said_of_an_object_needs_no_engine(server: LocalCVAT, dataset: fo.Dataset, engines: Engines) -> None:
    engine = engines.record("recorder")
    results = loaded(server, dataset, "recorder", attributes={"colour": {"type": "text"}})
    made = len(engine.spans), len(engine.made)
    mark_labels(dataset, only_sequence(dataset), "objects_propagated", {4: {PERSON: {"verdict": "fix"}}})
    before = stored(dataset)
    for sample in dataset:
        for label in sample["objects"].detections if sample["objects"] is not None else ():
            if label.index == PERSON:
                label.label = "car"
                if sample["number"] == 6:
                    label["colour"] = "green"
        sample.save()
    assert results.propagate() == [fill_label(results)]
    after = stored(dataset)
    assert (len(engine.spans), len(engine.made)) == made
    assert renewed(before, after) == {}
    assert {frame[PERSON]["label"] for frame in after} == {"car"}
    assert [frame[PERSON].get("colour") for frame in after] == [None] * 6 + ["green"] * 6 + [None]
    assert after[4][PERSON]["verdict"] == "fix"
    assert list(changed(before, after)) == [PERSON]
    assert dataset.get_field("objects_propagated.detections.colour") is not None
    # Taken back, it goes from the labels too.
    sample = dataset.match(fo.ViewField("number") == 6).first()
    next(label for label in sample["objects"].detections if label.index == PERSON)["colour"] = None
    sample.save()
    results.propagate()
    assert {frame[PERSON].get("colour") for frame in stored(dataset)} == {None}
    assert (len(engine.spans), len(engine.made)) == made


def only_sequence(dataset: fo.Dataset) -> Sequence:
    (sequence,) = sequences_of(dataset, sort_field=None if dataset.media_type == "video" else "number")
    return sequence


def test_absences_and_rejections(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = loaded(server, dataset)
    before = stored(dataset)
    fill_of(results).absences = [[CAR, 3]]
    results.save()
    results.propagate()
    after = stored(dataset)
    assert list(changed(before, after)) == [CAR]
    assert set(renewed(before, after)[CAR]) <= {1, 2, 3, 4, 5}
    assert CAR not in after[3]
    fill_of(results).rejected = [CAR]
    results.save()
    results.propagate()
    rejected = stored(dataset)
    assert not any(CAR in frame for frame in rejected)
    assert list(changed(before, rejected)) == [CAR]
    assert dataset.count("objects.detections") == 6
    fill = fill_of(results)
    fill.rejected, fill.absences = [], []
    results.save()
    results.propagate()
    back = stored(dataset)
    assert without_ids(back) == without_ids(before)
    assert list(renewed(before, back)) == [CAR]


@pytest.mark.parametrize("engine", ["hold", "flow"])
def test_what_a_reviewer_hid(server: LocalCVAT, dataset: fo.Dataset, engine: str) -> None:
    results = loaded(server, dataset, engine)

    def say(*hidden: int) -> tuple[Stored, dict[int, list[int]]]:
        before, fill = stored(dataset), fill_of(results)
        others = [place for place in fill.said_absent if place[0] != PERSON]
        fill.said_absent = others + [[PERSON, frame] for frame in hidden]
        results.save()
        results.propagate()
        return stored(dataset), renewed(before, stored(dataset))

    # Everything else was seen and left.
    first, signature = stored(dataset), fill_of(results).signature
    hidden, new = say(3, 8, 9)
    assert fill_of(results).signature != signature
    assert new == {PERSON: [3, 8, 9]}
    assert changed(first, hidden) == {PERSON: [3, 8, 9]}
    # A keyframe goes as far as the next hidden frame. Behind 9 there is 12, before 8 there is 6.
    correct(dataset, 7, PERSON, drawn(PERSON, 7, shift=2))
    _, new = say(3, 8, 9)
    assert new == {PERSON: [7]}
    correct(dataset, 5, PERSON, drawn(PERSON, 5, shift=2))
    fifth, new = say(3, 8, 9)
    assert new == {PERSON: [4, 5]}
    assert [fifth[frame][PERSON]["exemplar_frames"] for frame in (2, 4)] == [first[2][PERSON]["exemplar_frames"], [5]]
    assert PERSON not in fifth[3]
    # A piece without a keyframe keeps what it has, also where all of it is filled anew.
    _, new = say(3, 4, 8, 9, 11)
    assert new == {PERSON: [4, 11]}
    assert fill_of(results).prompts is not None
    before = stored(dataset)
    stray = dataset.match(fo.ViewField("number") == 2).first()
    stray["objects_propagated"].detections.append(mask_label(9, drawn(CAR, 2), source="propagated"))
    stray.save()
    fill_of(results).said_absent += [[CAR, frame] for frame in (4, 8)]
    results.save()
    dataset.match(fo.ViewField("number") == 4).set_field("objects_propagated", None).save()
    results.propagate(again=True)
    whole = stored(dataset)
    assert not any(9 in frame for frame in whole)
    assert dataset.match(fo.ViewField("number") == 4).first()["objects_propagated"].detections == []
    assert {i: [f for f, frame in enumerate(whole) if i in frame] for i in (PERSON, CAR)} == {
        PERSON: [0, 1, 2, 5, 6, 7, 10, 12],
        CAR: [frame for frame in range(FRAMES) if CAR in first[frame] and frame not in (4, 8)],
    }
    assert renewed(before, whole)[PERSON] == [0, 1, 2, 5, 6, 7, 12]
    assert without_ids(whole)[10][PERSON] == without_ids(first)[10][PERSON]
    # What is there after all is looked for again.
    again, new = say(3, 4)
    assert new == {PERSON: [8, 9, 10, 11]}
    assert all(PERSON in again[frame] for frame in (8, 9, 10, 11))
    assert list(changed(whole, again)) == [PERSON]
    # A label of a person wins.
    correct(dataset, 3, PERSON, drawn(PERSON, 3))
    drawn_again, _ = say(3, 4)
    assert drawn_again[3][PERSON]["keyframe"]
    assert PERSON not in drawn_again[4]


def test_an_engine_that_knows_no_object_before_its_first_keyframe(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = loaded(server, dataset, "interpolate")
    fill = fill_of(results)
    fill.said_absent = [[PERSON, 3]]
    results.save()
    results.propagate()
    before = stored(dataset)
    correct(dataset, 6, PERSON, drawn(PERSON, 6, shift=2))
    results.propagate()
    # The reviewer saw the object on 4 and 5.
    assert renewed(before, stored(dataset)) == {PERSON: [6, 7, 8, 9, 10, 11]}
    before = stored(dataset)
    results.propagate(again=True)
    assert [PERSON in frame for frame in stored(dataset)] == [PERSON in frame for frame in before]


def test_a_new_object_comes_beside_the_others(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = loaded(server, dataset)
    before = stored(dataset)
    mask = ObjectMask(3, 3, np.ones((5, 5), dtype=bool))
    correct(dataset, 2, 7, mask)
    correct(dataset, 2, 8, mask)
    results.propagate()
    after = stored(dataset)
    assert changed(before, after) == {7: list(range(FRAMES)), 8: list(range(FRAMES))}
    assert all(list(frame) == sorted(frame) for frame in after)


def test_a_failing_engine_leaves_all_as_it_was(server: LocalCVAT, dataset: fo.Dataset, engines: Engines) -> None:
    engine = engines.record("recorder")
    results = loaded(server, dataset, "recorder")
    before, record = stored(dataset), results.serialize()
    correct(dataset, 3, PERSON, drawn(PERSON, 3, shift=3))
    engine.fails_at = 4
    with pytest.raises(EngineError, match=r"frames 0\.\.12 .*as they were"):
        results.propagate()
    assert stored(dataset) == before
    assert results.serialize()["ledger"] == record["ledger"]
    engine.fails_at = None
    results.propagate()
    assert set(changed(before, stored(dataset))) == {PERSON}


def test_a_process_that_ends_before_it_wrote_that_down_does_it_again(
    server: LocalCVAT, dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = loaded(server, dataset)
    before = stored(dataset)
    correct(dataset, 3, PERSON, drawn(PERSON, 3, shift=3))
    with monkeypatch.context() as patch:
        patch.setattr(type(results), "save", killed)
        with pytest.raises(KeyboardInterrupt):
            results.propagate()
    once = stored(dataset)
    assert renewed(before, once) == {PERSON: [1, 2, 3, 4, 5]}
    del results
    results = fo.load_dataset(dataset.name).load_annotation_results("run", cache=False)
    results.propagate()
    twice = stored(dataset)
    assert without_ids(twice) == without_ids(once)
    assert renewed(once, twice) == {PERSON: [1, 2, 3, 4, 5]}
    assert results.propagate() == []


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_write_that_is_cut_off_is_undone(
    server: LocalCVAT, dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = loaded(server, dataset)
    before = stored(dataset)
    correct(dataset, 3, PERSON, drawn(PERSON, 3, shift=3))
    monkeypatch.setattr("labelprop_cvat.labels._BATCH_FRAMES", 2)
    bulk, calls = fo.Dataset._bulk_write, iter(range(99))

    def cut_off(self: fo.Dataset, *args: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return bulk(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fo.Dataset, "_bulk_write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            results.propagate()
    assert next(calls) > 2
    assert stored(dataset) == before


def test_segments_under_review_wait(server: LocalCVAT, dataset: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    results = loaded(server, dataset)
    before = stored(dataset)
    correct(dataset, 3, PERSON, drawn(PERSON, 3, shift=3))
    (key,) = results.ledger.sequences

    def filling(**held: Any) -> Filling:
        return Filling(dataset, results.ledger, results.config, lambda _: results.sequence(key), results.save, **held)

    with caplog.at_level("INFO", "labelprop_cvat.backend.filling"):
        for again in (False, True):
            assert filling(held={(key, 0)}).run({"objects": "objects"}, again=again).segments == []
    assert caplog.text.count("under review") == 2
    assert stored(dataset) == before
    filling().run({"objects": "objects"})
    assert renewed(before, stored(dataset)) == {PERSON: [1, 2, 3, 4, 5]}


def test_when_all_of_it_is_filled(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = loaded(server, dataset)
    everything = {PERSON: list(range(FRAMES)), CAR: list(range(FRAMES))}

    def after(change: Callable[[], Any]) -> dict[int, list[int]]:
        before = stored(dataset)
        change()
        results.propagate()
        return renewed(before, stored(dataset))

    def by_an_earlier_version() -> None:
        fill = fill_of(results)
        fill.prompts, fill.made_with = None, ""
        results.save()

    # It kept no prompts, but a name of all of them: what nobody changed stays, and the next change is a small one.
    assert after(by_an_earlier_version) == {}
    assert fill_of(results).prompts is not None
    assert after(lambda: correct(dataset, 3, CAR, drawn(CAR, 3, shift=2))) == {CAR: [1, 2, 3, 4, 5]}

    def by_an_earlier_version_and_then_changed() -> None:
        by_an_earlier_version()
        correct(dataset, 3, CAR, drawn(CAR, 3))

    assert after(by_an_earlier_version_and_then_changed) == everything
    before = stored(dataset)
    results.propagate(again=True)
    assert renewed(before, stored(dataset)) == everything

    def asks_for_another_engine() -> None:
        results.config.engine = "interpolate"

    assert after(asks_for_another_engine) == everything

    def loses_a_frame() -> None:
        dataset.match(fo.ViewField("number") == 0).set_field("objects_propagated", None).save()

    assert after(loses_a_frame) == everything


# --- marks ---------------------------------------------------------------------------------------------------------


def test_marks_on_images(dataset: fo.Dataset) -> None:
    page = Page(dataset, "hold")
    rng = random.Random(1)
    page.labels[0, 1], page.labels[0, 2] = square(1, 20, rng), square(2, 20, rng)
    page.fill("out", all_of_it=False)
    before = stored(dataset, "out")
    marks = {3: {1: {"source": "reviewed", "verdict": "fix"}, 9: {"verdict": "fix"}}, 5: {2: {"verdict": "reject"}}}
    assert mark_labels(dataset, page.sequence, "out", marks) == 2
    after = stored(dataset, "out")
    assert changed(before, after) == {1: [3], 2: [5]}
    assert renewed(before, after) == {}
    assert {**before[3][1], "source": "reviewed", "verdict": "fix"} == after[3][1]
    assert dataset.get_field("out.detections.verdict").__class__ is fo.StringField
    # What is said already is not written again.
    dates = dataset.values("last_modified_at")
    assert mark_labels(dataset, page.sequence, "out", marks) == 2
    assert dataset.values("last_modified_at") == dates
    # Samples that somebody holds see it.
    sample = dataset[dataset.match(fo.ViewField("number") == 3).first().id]
    assert sample["out"].detections[0]["verdict"] == "fix"
    assert mark_labels(dataset, page.sequence, "out", {3: {1: {"verdict": None}}}) == 1
    assert sample["out"].detections[0]["verdict"] is None
    assert mark_labels(dataset, page.sequence, "out", {}) == 0


def test_marks_on_videos_and_groups(tmp_path: Path, files: list[Path]) -> None:
    video = video_dataset(write_video(tmp_path / "street.mp4", 4))
    sample = video.first()
    for number in (1, 3):
        sample.frames[number]["out"] = fo.Detections(
            detections=[fo.Detection(label="car", index=4, bounding_box=[0, 0, 0.5, 0.5])]
        )
    sample.save()
    sequence = only_sequence(video)
    # Frames without a label, or without a document, stay so.
    assert mark_labels(video, sequence, "frames.out", {p: {4: {"score": 0.5}} for p in range(4)}) == 2
    video.reload()
    assert [frame["out"] and frame["out"].detections[0]["score"] for frame in video.first().frames.values()] in (
        [0.5, 0.5],
        [0.5, None, 0.5],
    )
    assert video.get_field("frames.out.detections.score").__class__ is fo.FloatField
    video.delete()

    grouped = fo.Dataset()
    grouped.add_group_field("group", default="left")
    samples = []
    for number, path in enumerate(files[:2]):
        group = fo.Group()
        for side in ("left", "right"):
            held = fo.Detections(detections=[fo.Detection(label="car", index=1, bounding_box=[0, 0, 0.5, 0.5])])
            samples.append(fo.Sample(str(path), number=number, group=group.element(side), out=held))
    grouped.add_samples(samples, progress=False)
    (sequence,) = sequences_of(grouped.select_group_slices("right"), sort_field="number")
    assert mark_labels(grouped, sequence, "out", {0: {1: {"verdict": "fix"}}, 1: {1: {"verdict": "fix"}}}) == 2
    grouped.group_slice = "right"
    assert grouped.values("out.detections.verdict") == [["fix"], ["fix"]]
    grouped.group_slice = "left"
    assert grouped.values("out.detections.verdict") == [[None], [None]]
    grouped.delete()


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({0: {1: {"index": 3}}}, "index of a label can't be set"),
        ({0: {1: {"mask": None, "bounding_box": None}}}, "bounding_box, mask of a label"),
        ({FRAMES: {1: {"verdict": "fix"}}}, "frame 13 is not in"),
        ({0: {1: {"verdict": object()}}}, "cannot keep a label of the frame 0"),
        ({0: {1: {"verdict": "fix"}}, 1: {1: {"keyframe": "yes"}}}, "'keyframe' .* declared as BooleanField"),
    ],
)
def test_marks_that_cannot_be(dataset: fo.Dataset, marks: Mapping[int, Any], said: str) -> None:
    page = Page(dataset, "hold")
    page.labels[0, 1] = square(1, 20, random.Random(1))
    with pytest.raises(DataError, match="no field 'out'"):
        mark_labels(dataset, page.sequence, "out", {})
    page.fill("out", all_of_it=False)
    before = stored(dataset, "out")
    with pytest.raises(DataError, match=said):
        mark_labels(dataset, page.sequence, "out", marks)
    assert stored(dataset, "out") == before
    assert dataset.get_field("out.detections.verdict") is None


def test_a_frame_is_changed_once(dataset: fo.Dataset) -> None:
    page = Page(dataset, "hold")
    page.labels[0, 1] = square(1, 20, random.Random(1))
    page.fill("out", all_of_it=False)
    with ObjectWriter(dataset, page.sequence, "out") as writer:
        writer.write(FrameObjects(2), [1])
        with pytest.raises(DataError, match="frame 2 was written before"):
            writer.write(FrameObjects(2), [1])
        writer.commit()
        with pytest.raises(DataError, match="was closed"):
            writer.commit()
    assert [1 in frame for frame in stored(dataset, "out")] == [frame != 2 for frame in range(FRAMES)]
    assert ObjectId.is_valid(dataset.first()["out"].detections[0].id)
