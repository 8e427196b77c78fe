"""Every kind of edit that reviewers make, all at once on twenty objects: what each means, and that the rest stays.

One review a kind of media and label, in which each object is edited in another way; each test looks at one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import json_util
from fixtures_review import (
    EXEMPLARS,
    FRAMES,
    HEIGHT,
    WIDTH,
    Held,
    Media,
    Review,
    begin,
    cell_box,
    cell_mask,
    cell_of,
    cell_outline,
    class_of,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage
from labelprop_cvat.labels import detection_to_box, detection_to_mask

EVERY = {*range(FRAMES)}

# What is done to whom.
UNTOUCHED, MOVED, MOVED_KEYFRAME, HIDDEN, KEYFRAME_GONE, RELABELLED, RENUMBERED, SPLIT, DELETED, UNDONE = range(1, 11)
COPIED, REJECTED, SATISFIED, TO_FIX, MERGED, TAKEN_OVER = range(11, 17)
# Cells in which reviewers draw.
COPY, DRAWN, NUMBERED = 17, 18, 19
LATER = 20
NEW_NUMBER, OWN_NUMBER, HALF_NUMBER = 70, 90, 80

TRACKS = [
    ("image", "detections", None),
    ("video", "detections", None),
    ("image", "polygons", None),
    ("image", "instances", "polygons"),
]
MASKS = [("image", "instances", None), ("video", "instances", None)]


def exemplars_of(kind: str, review_as: str | None) -> dict[int, frozenset[int]]:
    """Two objects are one that was lost on the way and found again; on the others, everything is there."""
    found = dict.fromkeys(range(1, 17), EXEMPLARS)
    return {**found, MERGED: frozenset({0}), TAKEN_OVER: frozenset({6}), LATER: frozenset({6})}


class Drawing:
    """What reviewers draw, as the label type has it."""

    def __init__(self, kind: str, review_as: str | None) -> None:
        self.is_box = kind == "detections"
        self.type = "rectangle" if self.is_box else "polygon"

    def points(self, cell: int, frame: int, right: int = 0, down: int = 0) -> list[float]:
        make = cell_box if self.is_box else cell_outline
        return [*make(cell, frame, right, down)]


def edit_tracks(page: JobPage, drawing: Drawing) -> None:
    page.redraw(page.track(MOVED), drawing.points(MOVED, 2, 3, 2), 2)
    page.redraw(page.track(MOVED_KEYFRAME), drawing.points(MOVED_KEYFRAME, 3, 3, 2), 3)
    page.set_outside(page.track(HIDDEN), 4)
    page.remove_keyframe(page.track(KEYFRAME_GONE), 3)
    page.relabel(page.track(RELABELLED), class_of(RELABELLED + 1))
    page.set_index(page.track(RENUMBERED), NEW_NUMBER)
    page.split(page.track(SPLIT), 4)
    page.delete(page.track(DELETED))
    page.delete_and_undo(page.track(UNDONE))
    page.copy_track(page.track(COPIED), 2, drawing.points(COPY, 2))
    page.set_verdict(page.track(REJECTED), "reject")
    page.set_verdict(page.track(SATISFIED), "satisfactory")
    page.set_verdict(page.track(TO_FIX), "fix")
    page.merge(page.track(MERGED), page.track(TAKEN_OVER))
    page.draw_track(class_of(DRAWN), 2, drawing.points(DRAWN, 2), drawing.type)
    page.draw_track(class_of(NUMBERED), 2, drawing.points(NUMBERED, 2), drawing.type, index=OWN_NUMBER)


def edit_masks(page: JobPage) -> None:
    page.brush_mask(page.shape(MOVED, 2), cell_mask(MOVED, 2, 3, 2))
    page.brush_mask(page.shape(MOVED_KEYFRAME, 3), cell_mask(MOVED_KEYFRAME, 3, 3, 2))
    for frame in (4, 5):
        page.delete(page.shape(HIDDEN, frame))
    page.delete(page.shape(KEYFRAME_GONE, 3))
    page.relabel(page.shape(RELABELLED, 2), class_of(RELABELLED + 1))
    for frame in range(FRAMES):
        page.set_index(page.shape(RENUMBERED, frame), NEW_NUMBER)
        page.delete(page.shape(DELETED, frame))
    for frame in (4, 5, 6):
        page.set_index(page.shape(SPLIT, frame), HALF_NUMBER)
    for frame in (2, 3):
        page.delete_and_undo(page.shape(UNDONE, frame))
    page.propagate_mask(page.shape(COPIED, 2), [3, 4])
    page.set_verdict(page.shape(REJECTED, 2), "reject")
    page.set_verdict(page.shape(SATISFIED, 2), "satisfactory")
    page.set_verdict(page.shape(TO_FIX, 2), "fix")
    for shape in page.shapes:
        if page.index_of(shape) == TAKEN_OVER:
            page.set_index(shape, MERGED)
    page.draw_mask(class_of(DRAWN), 2, cell_mask(DRAWN, 2))
    page.draw_mask(class_of(NUMBERED), 2, cell_mask(NUMBERED, 2), index=OWN_NUMBER)
    # Drawn anew in the place of what was deleted, without saying that it is the same.
    page.delete(page.shape(LATER, 6))
    page.draw_mask(class_of(LATER), 6, cell_mask(LATER, 6, 2, 0))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media.of(tmp_path_factory.mktemp("media"))


def reviewed(server: LocalCVAT, media: Media, what: str, kind: str, review_as: str | None) -> Review:
    options = {"review_as": review_as} if review_as else {}
    review = begin(server, media, what, kind, exemplars_of(kind, review_as), missing="absent", **options)
    with review.page() as page:
        if page.tracks:
            edit_tracks(page, Drawing(kind, review_as))
        else:
            edit_masks(page)
    review.load()
    return review


@pytest.fixture(scope="module")
def reviews() -> dict[Any, Review]:
    """Those that were made already."""
    return {}


@pytest.fixture(scope="module")
def review(request: pytest.FixtureRequest, server: LocalCVAT, media: Media, reviews: dict[Any, Review]) -> Review:
    if request.param not in reviews:
        reviews[request.param] = reviewed(server, media, *request.param)
    return reviews[request.param]


def of(*cases: tuple[str, str, str | None]) -> pytest.MarkDecorator:
    """Looks at the review of each of these."""
    ids = ["-".join(part for part in case if part) for case in cases]
    return pytest.mark.parametrize("review", cases, indirect=True, ids=ids)


def changed(review: Review, index: int) -> tuple[set[int], set[int]]:
    """Where any bit of an object's labels changed: in the run's own field, in the output field."""
    own, output = (review.changed(name).get(index, set()) for name in (review.label_field, review.output_field))
    return own, output


def there(review: Review, index: int) -> tuple[set[int], set[int]]:
    """Where an object has labels: in the run's own field, in the output field."""
    return review.there(review.label_field, index), review.there(review.output_field, index)


def own(review: Review, position: int, index: int) -> fo.Label:
    return review.label(review.label_field, position, index)


def output(review: Review, position: int, index: int) -> fo.Label:
    return review.label(review.output_field, position, index)


def is_at(label: fo.Label, cell: int, frame: int, right: int = 0, down: int = 0) -> bool:
    """Whether a label is what was drawn in a cell, or for masks of polygons nearly."""
    if isinstance(label, fo.Polyline):
        (ring,) = label.points
        found = {(round(x * WIDTH, 3), round(y * HEIGHT, 3)) for x, y in ring}
        x1, y1, x2, y2 = cell_box(cell, frame, right, down)
        return found == {(x1, y1), (x2, y1), (x2, y2), (x1, y2)}
    if label.has_mask:
        mask = detection_to_mask(label, (HEIGHT, WIDTH))
        assert mask is not None
        found, wanted = mask.to_full((HEIGHT, WIDTH)), cell_mask(cell, frame, right, down).to_full((HEIGHT, WIDTH))
        return bool((found & wanted).sum() / (found | wanted).sum() > 0.8)
    return bool(detection_to_box(label, (HEIGHT, WIDTH)) == pytest.approx(cell_box(cell, frame, right, down), abs=1e-3))


def geometry(held: Held, index: int) -> dict[int, Any]:
    """What an object's labels show, by position."""
    found = {}
    for (_, position, number), (_, content) in held.items():
        if number == index:
            value = json_util.loads(content)
            found[position] = [value.get(name) for name in ("bounding_box", "mask", "points")]
    return found


def without_marks(held: Held, index: int) -> dict[int, tuple[str, Any]]:
    """An object's labels by position, without what reviewers said of them."""
    found = {}
    for (_, position, number), (label_id, content) in held.items():
        if number == index:
            value = json_util.loads(content)
            found[position] = label_id, {k: v for k, v in value.items() if k not in ("source", "verdict")}
    return found


def only_new_index(review: Review, cell: int) -> int:
    """The number that an object in a cell got, which no object had before."""
    old = {index for held in review.before.values() for _, _, index in held}
    new = {index for _, _, index in review.after[review.label_field]} - old - {None}
    (found,) = (index for index in new if cell_of(own(review, min(there(review, index)[0]), index)) == cell)
    return found


# --- objects that nobody meant ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [UNTOUCHED, UNDONE, TO_FIX])
@of(*TRACKS, *MASKS)
def test_what_nobody_changed_stays_bit_for_bit(review: Review, index: int) -> None:
    assert changed(review, index) == (set(), set())


@of(*TRACKS, *MASKS)
def test_nothing_else_changed(review: Review) -> None:
    meant = {*range(MOVED, 17), LATER, NEW_NUMBER, OWN_NUMBER, HALF_NUMBER}
    others = {index for name in review.before for index in review.changed(name)} - meant
    # Numbers that new objects got.
    assert None not in others
    assert all(index > NEW_NUMBER for index in others if index is not None)
    assert len(others) == (3 if review.are_tracks else 1)


# --- geometry --------------------------------------------------------------------------------------------------------


@of(*TRACKS, *MASKS)
def test_a_label_that_is_moved_becomes_a_keyframe(review: Review) -> None:
    assert changed(review, MOVED) == ({2}, {1, 2})
    for label in (own(review, 2, MOVED), output(review, 2, MOVED)):
        assert is_at(label, MOVED, 2, 3, 2)
        assert review.are_tracks or np.array_equal(label.mask, cell_mask(MOVED, 2).crop)
        assert (label.keyframe, label.source, label.label) == (True, "manual", class_of(MOVED))
    between = output(review, 1, MOVED)
    assert (between.keyframe, between.source) == (False, "propagated")
    first = int(review.is_video)
    assert set(between.exemplar_frames) <= {first, first + 2}


@of(*TRACKS, *MASKS)
def test_a_persons_label_that_is_moved_stays_who_it_is(review: Review) -> None:
    assert changed(review, MOVED_KEYFRAME) == ({3}, {1, 2, 3, 4, 5})
    label = own(review, 3, MOVED_KEYFRAME)
    assert is_at(label, MOVED_KEYFRAME, 3, 3, 2)
    assert review.before[review.label_field]["", 3, MOVED_KEYFRAME][0] == label.id


@of(*TRACKS, *MASKS)
def test_what_is_hidden_is_absent_until_it_is_shown_again(review: Review) -> None:
    assert changed(review, HIDDEN) == (set(), {4, 5})
    assert there(review, HIDDEN) == (EXEMPLARS, {0, 1, 2, 3, 6})


@of(*TRACKS)
def test_a_keyframe_that_is_taken_away_is_no_prompt_any_more(review: Review) -> None:
    assert changed(review, KEYFRAME_GONE) == ({3}, {1, 2, 3, 4, 5})
    assert there(review, KEYFRAME_GONE) == ({0, 6}, EVERY)
    assert output(review, 3, KEYFRAME_GONE).source == "propagated"


@of(*MASKS)
def test_a_persons_mask_that_is_deleted_is_absent_there(review: Review) -> None:
    assert changed(review, KEYFRAME_GONE) == ({3}, {3})
    assert there(review, KEYFRAME_GONE) == ({0, 6}, EVERY - {3})


@of(*MASKS)
def test_a_mask_that_is_drawn_anew_is_the_same_object(review: Review) -> None:
    assert changed(review, LATER)[0] == {6}
    assert is_at(own(review, 6, LATER), LATER, 6, 2)
    assert there(review, LATER)[0] == {6}


# --- who it is -------------------------------------------------------------------------------------------------------


@of(*TRACKS, *MASKS)
def test_another_class_is_that_of_the_whole_object(review: Review) -> None:
    assert there(review, RELABELLED)[1] == EVERY
    assert there(review, RELABELLED)[0] >= EXEMPLARS
    for name in (review.label_field, review.output_field):
        old, new = (
            {p: i for (_, p, n), (i, _) in h[name].items() if n == RELABELLED} for h in (review.before, review.after)
        )
        # The mask that was given another class is a person's now, and leads to those before it.
        again = set() if review.are_tracks else {1, 2}
        assert {p: i for p, i in new.items() if p in old and p not in again} == {
            p: i for p, i in old.items() if p not in again
        }
        labels = [review.label(name, position, RELABELLED) for position in new]
        assert {label.label for label in labels} == {class_of(RELABELLED + 1)}
        shapes = geometry(review.before[name], RELABELLED)
        assert {p: g for p, g in geometry(review.after[name], RELABELLED).items() if p in shapes} == shapes


@of(*TRACKS, *MASKS)
def test_another_number_goes_through_the_whole_segment(review: Review) -> None:
    assert there(review, RENUMBERED) == (set(), set())
    own_places, output_places = there(review, NEW_NUMBER)
    assert own_places >= EXEMPLARS
    assert output_places == EVERY
    assert all(cell_of(output(review, position, NEW_NUMBER)) == RENUMBERED for position in EVERY)


@of(*TRACKS)
def test_a_track_that_is_split_is_two_objects(review: Review) -> None:
    assert there(review, SPLIT) == ({0, 3}, {0, 1, 2, 3})
    assert changed(review, SPLIT) == ({6}, {4, 5, 6})
    other = only_new_index(review, SPLIT)
    assert there(review, other) == ({4, 6}, {4, 5, 6})
    first, second = own(review, 3, SPLIT), own(review, 4, other)
    assert first.label == second.label == class_of(SPLIT)
    assert first.instance.id != second.instance.id


@of(*MASKS)
def test_masks_that_get_another_number_half_way_are_two_objects(review: Review) -> None:
    assert there(review, SPLIT) == ({0, 3}, {0, 1, 2, 3})
    assert changed(review, SPLIT) == ({6}, {4, 5, 6})
    assert there(review, HALF_NUMBER) == ({4, 5, 6}, {4, 5, 6})


@of(*TRACKS, *MASKS)
def test_two_that_are_merged_are_one_object(review: Review) -> None:
    assert there(review, TAKEN_OVER) == (set(), set())
    own_places, output_places = there(review, MERGED)
    assert {0, 6} <= own_places
    assert {0, 1, 2, 6} <= output_places
    assert cell_of(own(review, 6, MERGED)) == TAKEN_OVER
    assert own(review, 6, MERGED).label == class_of(MERGED if review.are_tracks else TAKEN_OVER)


# --- new and gone ----------------------------------------------------------------------------------------------------


@of(*TRACKS, *MASKS)
def test_what_is_deleted_is_gone(review: Review) -> None:
    assert there(review, DELETED) == (set(), set())


@of(*TRACKS, *MASKS)
def test_what_is_rejected_leaves_the_output_only(review: Review) -> None:
    assert changed(review, REJECTED) == (set(), EVERY)
    assert there(review, REJECTED) == (EXEMPLARS, set())


@of(*TRACKS)
def test_a_copy_of_a_track_is_another_object(review: Review) -> None:
    assert changed(review, COPIED) == (set(), set())
    index = only_new_index(review, COPY)
    assert there(review, index) == ({2}, {2, 3, 4, 5, 6})
    assert own(review, 2, index).label == class_of(COPIED)


@of(*MASKS)
def test_a_mask_that_is_propagated_in_cvat_is_the_object(review: Review) -> None:
    # Frame 3 is a person's, over which the copy fell by chance.
    assert changed(review, COPIED) == ({4}, {4, 5})
    copied, shown = own(review, 4, COPIED), output(review, 2, COPIED)
    assert np.array_equal(copied.mask, shown.mask)
    assert copied.bounding_box == shown.bounding_box
    assert copied.keyframe


@of(*TRACKS, *MASKS)
def test_a_new_object_gets_a_number_and_is_propagated(review: Review) -> None:
    index = only_new_index(review, DRAWN)
    for number, cell in ((index, DRAWN), (OWN_NUMBER, NUMBERED)):
        assert there(review, number) == ({2}, {2, 3, 4, 5, 6})
        label = own(review, 2, number)
        assert is_at(label, cell, 2)
        assert (label.label, label.keyframe, label.source) == (class_of(cell), True, "manual")


# --- verdicts --------------------------------------------------------------------------------------------------------


@of(*TRACKS, *MASKS)
def test_what_is_satisfactory_says_so_and_is_otherwise_the_same(review: Review) -> None:
    assert changed(review, SATISFIED)[0] == set()
    name = review.output_field
    before, after = (without_marks(held, SATISFIED) for held in (review.before[name], review.after[name]))
    assert before == after
    assert {output(review, position, SATISFIED).source for position in EVERY - EXEMPLARS} == {"reviewed"}
    (fill,) = (fill for segment in review.segments() for fill in segment.fills.values())
    assert SATISFIED in fill.satisfied
    assert fill.rejected == [REJECTED]


# --- afterwards ------------------------------------------------------------------------------------------------------


@of(*TRACKS, *MASKS)
def test_the_next_review_goes_out_once_and_holds_what_is_there_now(review: Review) -> None:
    assert [round_.kind for round_ in review.rounds] == ["exemplars", "review", "review"]
    review.check_settled()
    held = review.after[review.output_field]
    with review.page(finish=False) as page:
        sent = {page.index_of(item) for item in (*page.tracks, *page.shapes)}
        verdicts = {page.index_of(item): page.value_of(item, "verdict") for item in (*page.tracks, *page.shapes)}
    assert sent == {index for _, _, index in held}
    assert verdicts[SATISFIED] == "satisfactory"
    assert {verdicts[index] for index in (UNTOUCHED, MOVED, TO_FIX)} == {"unreviewed"}
