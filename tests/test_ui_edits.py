"""Every recorded edit of CVAT's web page, done again on a run: what it means for the labels in FiftyOne."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_ui_edits import (
    FIELDS,
    SIZE,
    Desk,
    FrameFiles,
    Payload,
    Recording,
    bystanders,
    desk_for,
    empty,
    keyframes_of,
    names,
    objects_of,
    recording,
    together,
)

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.cvat import points_to_mask
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import detection_to_box, detection_to_mask
from labelprop_cvat.propagation.types import ObjectMask

pytestmark = pytest.mark.skipif(not names(), reason="The recordings of CVAT's web page are not at hand.")

BYSTANDER = 40
BYSTANDER_ID = 90001


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FrameFiles:
    return FrameFiles(tmp_path_factory.mktemp("frames"))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fo.config, "show_progress_bars", False)


# --- what a label is, and whether it is the one of a shape ---------------------------------------------------------


def is_of(label: Any, entry: dict[str, Any], keyframe: dict[str, Any]) -> bool:
    """Whether a label has the geometry, class and occlusion that CVAT shows."""
    if label.label != entry["label"] or bool(label.hidden) is not keyframe["occluded"]:
        return False
    points = keyframe["points"]
    if keyframe["type"] == "rectangle":
        return bool(detection_to_box(label, SIZE) == pytest.approx(points, abs=1e-3))
    if keyframe["type"] == "polygon":
        height, width = SIZE
        (ring,) = label.points
        flat = [value for x, y in ring for value in (x * width, y * height)]
        return bool(flat == pytest.approx(points, abs=1e-3))
    mask = detection_to_mask(label, SIZE)
    wanted = ObjectMask.from_crop(*points_to_mask(points))
    return mask is not None and wanted is not None and np.array_equal(mask.to_full(SIZE), wanted.to_full(SIZE))


def values_of(label: Any, *but: str) -> dict[str, Any]:
    """Everything of a label, but for some of it."""
    return {k: v for k, v in label.to_dict().items() if k not in but and v is not None}


@dataclass
class Scene:
    """One recorded edit that was done and loaded.

    Attributes:
        before: field -> frame number -> index -> label, before the edit was loaded
        after: the same afterwards
    """

    desk: Desk
    edit: Recording
    loaded: bool
    before: dict[str, dict[int, dict[int, Any]]] = field(default_factory=dict)
    after: dict[str, dict[int, dict[int, Any]]] = field(default_factory=dict)

    def was(self, index: int, field: str = "boxes") -> dict[int, Any]:
        return {number: labels[index] for number, labels in self.before[field].items() if index in labels}

    def now(self, index: int, field: str = "boxes") -> dict[int, Any]:
        return {number: labels[index] for number, labels in self.after[field].items() if index in labels}

    def propagated(self, index: int, field: str = "boxes") -> list[int]:
        """The frame numbers on which an object was propagated."""
        return sorted(self.desk.track(index, f"{field}_propagated"))

    def index_of(self, number: int) -> int:
        """The index of the labels that are the keyframes of a recorded object."""
        entry = self.edit.object(number)
        (index,) = {
            index
            for keyframe in keyframes_of(entry)
            if not keyframe["outside"]
            for index, label in self.after[FIELDS[keyframe["type"]][0]][keyframe["frame"]].items()
            if is_of(label, entry, keyframe)
        }
        return index

    def new_ones(self, field: str = "boxes") -> dict[int, list[int]]:
        """Indices that were not there before, with their frame numbers."""
        old = {index for labels in self.before[field].values() for index in labels}
        found: dict[int, list[int]] = {}
        for number, labels in self.after[field].items():
            for index in labels.keys() - old:
                found.setdefault(index, []).append(number)
        return found

    def check_kept(
        self, index: int, *, field: str = "boxes", but: Sequence[int] = (), values: Sequence[str] = ()
    ) -> None:
        """Checks that an object's labels are who and what they were.

        Args:
            index: its index
            field: its field
            but: frame numbers that are left out
            values: attributes that may differ
        """
        was, now = self.was(index, field), self.now(index, field)
        assert was.keys() - set(but) == now.keys() - set(but)
        may_differ = (*values, *(() if self.loaded else ("keyframe", "instance")))
        for number in was.keys() - set(but):
            assert values_of(was[number], *may_differ) == values_of(now[number], *may_differ), number

    def check_added(self, index: int, number: int, *, field: str = "boxes") -> Any:
        """Checks that a label is new and belongs to an object that was there; returns it."""
        assert number not in self.was(index, field)
        label = self.now(index, field)[number]
        siblings = [other for at, other in self.now(index, field).items() if at != number]
        assert {other.instance.id for other in siblings} == {label.instance.id}
        assert label.id not in {other.id for other in siblings}
        assert label.keyframe is True
        return label


def ids(labels: dict[int, Any]) -> dict[int, str]:
    return {number: label.id for number, label in labels.items()}


def instances(labels: dict[int, Any]) -> set[str]:
    return {str(label.instance.id) for label in labels.values()}


# --- what each edit means ------------------------------------------------------------------------------------------


def nothing(scene: Scene) -> None:
    """Nothing happened."""


def a_keyframe_is_added(
    index: int, number: int, note: str | None = None, hidden: bool = False
) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        scene.check_kept(index, but=[number])
        label = scene.check_added(index, number)
        assert (label.get_attribute_value("note", None), label.hidden) == (note, hidden)

    return check


def a_keyframe_is_changed(index: int, number: int, field: str = "boxes") -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        scene.check_kept(index, field=field, but=[number])
        was, now = scene.was(index, field)[number], scene.now(index, field)[number]
        geometry = ("bounding_box", "points", "mask", "hidden", "keyframe", "instance")
        assert values_of(was, *geometry) == values_of(now, *geometry)
        assert values_of(was, "keyframe", "instance") != values_of(now, "keyframe", "instance")
        assert now.confidence == 0.5

    return check


def everything_of_a_track_is(index: int, field: str = "boxes", **values: Any) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        scene.check_kept(index, field=field, values=tuple(values))
        for label in scene.now(index, field).values():
            assert {name: label[name] for name in values} == values

    return check


def the_object_ends(index: int, number: int, behind: Collection[int], field: str = "boxes") -> Callable[[Scene], None]:
    """An end that a person set holds until a keyframe that a person touched; labels behind it stay where they are."""

    def check(scene: Scene) -> None:
        scene.check_kept(index, field=field, but=[number, *behind])
        assert number not in scene.now(index, field)
        assert ids(scene.was(index, field)) == {**ids(scene.now(index, field)), **_at(scene.was(index, field), number)}
        assert set(behind) <= scene.now(index, field).keys()
        assert max(scene.propagated(index, field)) == max(n for n in scene.now(index, field) if n < number)

    return check


def _at(labels: dict[int, Any], number: int) -> dict[int, str]:
    return {number: labels[number].id} if number in labels else {}


def an_end_is_taken_back(scene: Scene) -> None:
    # Behind its end the object was not taken for confirmed; now it is.
    scene.check_kept(1, but=[50], values=["keyframe"])
    scene.check_added(1, 50)
    assert {label.keyframe for label in scene.now(1).values()} == {True}
    assert scene.propagated(1) == scene.desk.numbers


def a_keyframe_is_removed(scene: Scene) -> None:
    assert 24 in scene.was(1)
    scene.check_kept(1, but=[24])
    assert 24 not in scene.now(1)
    # CVAT shows it there still, between its other keyframes.
    assert 24 in scene.propagated(1)


def a_mask_gets_another_number(scene: Scene) -> None:
    was, now = scene.was(2, "masks")[20], scene.now(43, "masks")[20]
    assert values_of(was, "index", "instance", "keyframe") == values_of(now, "index", "instance", "keyframe")
    assert 20 not in scene.now(2, "masks")


def a_mask_is_deleted(scene: Scene) -> None:
    assert scene.was(2, "masks").keys() == {30}
    assert not scene.now(2, "masks")


def a_track_is_deleted(scene: Scene) -> None:
    assert sorted(scene.was(3, "outlines")) == DENSE
    assert not scene.now(3, "outlines")
    assert not scene.propagated(3, "outlines")


def a_track_is_split(scene: Scene) -> None:
    """The first part is the object still, the second one a new object of the same labels."""
    first, second = scene.index_of(134), scene.index_of(135)
    assert first == 1
    assert second not in (1, BYSTANDER)
    was, one, other = scene.was(1), scene.now(1), scene.now(second)
    assert sorted(one) == [0, 3, 8, 16]
    assert sorted(other) == [30, 32, 40, 48, 50, 56, 59]
    assert ids({**one, **other}) == {**ids(was), 30: other[30].id}
    for number, label in {**one, **other}.items():
        if number != 30:
            assert values_of(label, "index", "instance", "keyframe") == values_of(
                was[number], "index", "instance", "keyframe"
            )
    assert len(instances(one)) == len(instances(other)) == 1
    assert instances(one) != instances(other)
    if scene.loaded:
        assert instances(one) == instances(was)
    assert max(scene.propagated(1)) < 30
    assert min(scene.propagated(second)) == 30


def halves_are_merged(scene: Scene) -> None:
    assert scene.index_of(136) == 1
    now = scene.now(1)
    assert sorted(now) == [0, 3, 8, 16, 30, 32, 40, 48, 50, 56, 59]
    assert len(instances(now)) == 1
    assert not scene.new_ones()
    # All labels that were sent are there, and what CVAT knows nothing of is with them.
    assert all(label.confidence == 0.5 and label.tags == ["kept"] for number, label in now.items() if number != 30)
    if scene.loaded:
        was = {**scene.was(1), **scene.was(BYSTANDER + 1)}
        assert ids(now) == ids(was)
        assert instances(now) == instances(scene.was(1))


def it_is_restored(index: int, field: str = "boxes") -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        scene.check_kept(index, field=field)

    return check


def a_track_is_drawn(number: int) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        index = scene.index_of(number)
        assert scene.new_ones() == {index: [scene.edit.object(number)["frame"]]}
        (label,) = scene.now(index).values()
        assert instances({0: label}) & instances(scene.now(BYSTANDER)) == set()
        assert label.keyframe is True

    return check


def a_track_is_copied(scene: Scene) -> None:
    """Its index was copied too, but it is on a frame where the object is already."""
    index = scene.index_of(140)
    assert scene.new_ones() == {index: [14]}
    scene.check_kept(3)
    copy = scene.now(index)[14]
    assert copy.verdict == "accept"
    assert not instances({14: copy}) & instances(scene.now(3))


def a_mask_is_propagated_onto_itself(scene: Scene) -> None:
    """Copies on frames where the object is already are another object, one and the same on all of them."""
    (index,) = {scene.index_of(number) for number in (2614, 2615, 2616)}
    assert scene.new_ones("masks") == {index: [57, 58, 59]}
    scene.check_kept(2, field="masks")
    assert len(instances(scene.now(index, "masks"))) == 1


def a_label_is_changed(scene: Scene) -> None:
    """CVAT takes all attributes away with it; the object keeps them, and its number."""
    scene.check_kept(3, values=["label"])
    assert {label.label for label in scene.now(3).values()} == {"person"}
    assert {label.verdict for label in scene.now(3).values()} == {"accept"}
    assert scene.now(3)[20].note == "tree"


def tracks_of_two_numbers_are_merged(scene: Scene) -> None:
    """The merged object is the one that was clicked first, the copy; it is not the one that it was a copy of."""
    index = scene.index_of(150)
    now = scene.now(index)
    assert sorted(now) == [12, 14]
    assert len(instances(now)) == 1
    assert {label.verdict for label in now.values()} == {"accept"}
    scene.check_kept(3)
    if scene.loaded:
        (copied,) = (i for i, label in scene.before["boxes"][14].items() if i not in (3, BYSTANDER))
        (drawn,) = (i for i, label in scene.before["boxes"][12].items() if i not in (3, BYSTANDER))
        assert index == copied
        assert ids(now) == {12: scene.before["boxes"][12][drawn].id, 14: scene.before["boxes"][14][copied].id}
        assert instances(now) == instances(scene.was(copied))
    else:
        assert index not in (3, BYSTANDER)


def both_edits_survive(scene: Scene) -> None:
    scene.check_kept(9, but=[4])
    assert (scene.was(9)[4].hidden, scene.now(9)[4].hidden) == (True, False)
    assert scene.was(9)[4].id == scene.now(9)[4].id
    assert ids(scene.was(7, "outlines")) == ids(scene.now(77, "outlines"))
    assert not scene.now(7, "outlines")
    if scene.loaded:
        assert instances(scene.was(7, "outlines")) == instances(scene.now(77, "outlines"))


def a_stale_page_was_saved(scene: Scene) -> None:
    """Objects are there again under new ids; the one that the page brought back beside them is one more."""
    scene.check_kept(7, field="outlines")
    scene.check_kept(7, field="masks")
    # What the page held of box 123 is what counts for it; what the script had made of it is a second object.
    assert ids(scene.was(7)) == ids(scene.now(7))
    assert scene.now(7)[1].hidden is False
    ((index, frames),) = scene.new_ones().items()
    assert frames == [0, 1, 2]
    assert scene.now(index)[1].hidden is True
    assert not instances(scene.now(index)) & instances(scene.now(7))
    assert not set(ids(scene.now(index)).values()) & set(ids(scene.now(7)).values())


def everything_is_removed(scene: Scene) -> None:
    for name in scene.desk.fields.values():
        assert scene.before[name]
        assert not scene.after[name]


def the_edit_waits_for_the_validator(scene: Scene) -> None:
    a_keyframe_is_changed(7, 1)(scene)
    assert scene.now(7)[1].hidden is True


def a_turned_box_is_occluded(scene: Scene) -> None:
    a_keyframe_is_changed(11, 6)(scene)
    assert scene.now(11)[0].rotation == 12.3456789


def a_turned_shape_is_occluded(scene: Scene) -> None:
    """CVAT rounds the angle of a shape whenever it is edited; nobody turned it."""
    (index,) = scene.after["boxes"][3].keys() - {BYSTANDER}
    label = scene.after["boxes"][3][index]
    assert label.hidden is True
    if scene.loaded:
        was = scene.before["boxes"][3][index]
        assert values_of(was, "hidden") == values_of(label, "hidden")
        assert label.rotation == 33.33333333


def a_shape_is_moved(scene: Scene) -> None:
    was, now = scene.was(3)[0], scene.now(3)[0]
    assert values_of(was, "bounding_box") == values_of(now, "bounding_box")
    assert was.bounding_box != now.bounding_box


def a_track_is_renumbered(scene: Scene) -> None:
    was, now = scene.was(7), scene.now(9)
    assert not scene.now(7)
    assert ids(was) == ids(now)
    for number in was:
        may_differ = ("index",) if scene.loaded else ("index", "keyframe", "instance")
        assert values_of(was[number], *may_differ) == values_of(now[number], *may_differ)


def a_vertex_is_moved(scene: Scene) -> None:
    ((before, after),) = scene.edit.changed["tracks"]
    pairs = zip(before["shapes"], after["shapes"], strict=True)
    (number,) = (old["frame"] for old, new in pairs if old["points"] != new["points"])
    a_keyframe_is_changed(2, number, "outlines")(scene)


def two_tracks_are_grouped(scene: Scene) -> None:
    for index in (1, 3):
        everything_of_a_track_is(index, team=4)(scene)


@dataclass(frozen=True)
class Case:
    """How a recording is done again.

    Args:
        meaning: what must be true afterwards
        unnumbered: ids of objects that have no index, or lost it by the edit
        beside: objects that were there and stayed as they were
        earlier: recordings that are done before this one
        sent: ids of the objects that were labels of the dataset
        frames: the frames that are done of a track with a keyframe on every frame
        unloaded: whether it is also done on objects that were sent, but never loaded
        engine: what propagates
        do: the edit itself, where it is more than what the recording says
        keeps_bystander: whether the bystander is left alone
    """

    meaning: Callable[[Scene], None]
    unnumbered: tuple[int, ...] = ()
    beside: Callable[[], Payload] = empty
    earlier: tuple[str, ...] = ()
    sent: tuple[int, ...] | None = None
    frames: Collection[int] | None = None
    unloaded: bool = False
    engine: str = "none"
    do: Callable[[Desk, Recording], None] = Desk.do
    keeps_bystander: bool = True


def _as_in(name: str, number: int) -> Callable[[], Payload]:
    """An object as another recording left it."""

    def make() -> Payload:
        return {**empty(), "tracks": [recording(name).object(number)]}

    return make


def _masks_of_object_two() -> Payload:
    """The mask that was propagated, on frame 56, and those that the object had on the next frames already."""
    copy = recording("p3_x_propagate_mask_to_2_frames").object(2614)
    other = recording("p3_j_delete_mask_shape").object(2519)
    masks = [{**copy, "id": 80056, "frame": 56, "group": 2}]
    masks += [{**other, "id": 80000 + frame, "frame": frame} for frame in (57, 58, 59)]
    return {**empty(), "shapes": masks}


def _delete_a_frame(desk: Desk, edit: Recording) -> None:
    desk.client._session.json("PATCH", f"/api/jobs/{desk.job.id}/data/meta", json={"deleted_frames": [0]})


def _remove_everything(desk: Desk, edit: Recording) -> None:
    desk.client._session.json("PUT", f"/api/jobs/{desk.job.id}/annotations", json={"version": 0, **empty()})


def _edit_in_validation(desk: Desk, edit: Recording) -> None:
    desk.client.update_job(desk.job.id, stage="validation")
    before = desk.everything()
    desk.do(edit)
    desk.load()
    assert desk.everything() == before
    desk.finish()


def _edit_what_is_completed(desk: Desk, edit: Recording) -> None:
    desk.do(edit)
    assert desk.client.job(desk.job.id).state == "completed"


# What is done of the tracks with a keyframe on each of 60 frames.
DENSE = [0, 7, 10, 19, 20, 21, 22, 40, 59]

CASES = {
    "p1_draw_new_track_imagetask": Case(a_track_is_drawn(139), unnumbered=(139,)),
    "p1_move_box_imagetask": Case(a_keyframe_is_added(7, 1, note="init")),
    "p1_number_attr_on_track_imagetask": Case(a_track_is_renumbered),
    "p3_a_move_box_between_keyframes": Case(a_keyframe_is_added(1, 3)),
    "p3_ac_outside_on_dense_polygon_track": Case(
        the_object_ends(1, 20, (21, 22, 40, 59), "outlines"), frames=DENSE, unloaded=True, engine="interpolate"
    ),
    "p3_ad_delete_saved_then_undo_saved": Case(it_is_restored(3, "masks"), unloaded=True),
    "p3_ae_merge_two_tracks_of_different_index": Case(
        tracks_of_two_numbers_are_merged,
        unnumbered=(138,),
        beside=_as_in("p3_f_attr_immutable_verdict", 130),
        sent=(130,),
        unloaded=True,
    ),
    "p3_af_rest_update_other_track_while_ui_open": Case(both_edits_survive),
    "p3_b_move_box_on_keyframe": Case(a_keyframe_is_changed(1, 16)),
    "p3_c_outside_from_frame": Case(the_object_ends(1, 50, (56, 59)), unloaded=True, engine="interpolate"),
    "p3_d_outside_undone_at_its_keyframe": Case(an_end_is_taken_back, unloaded=True, engine="interpolate"),
    "p3_e_attr_mutable": Case(a_keyframe_is_added(3, 20, note="tree")),
    "p3_f_attr_immutable_verdict": Case(everything_of_a_track_is(3, verdict="accept")),
    "p3_g_occluded": Case(a_keyframe_is_added(2, 12, hidden=True)),
    "p3_h_keyframe_removed": Case(a_keyframe_is_removed, engine="interpolate"),
    "p3_i_attr_immutable_on_mask_shape": Case(a_mask_gets_another_number),
    "p3_j_delete_mask_shape": Case(a_mask_is_deleted),
    "p3_k_delete_track": Case(a_track_is_deleted, frames=DENSE, engine="interpolate"),
    "p3_l_split_rect_track": Case(a_track_is_split, unloaded=True, engine="interpolate"),
    "p3_m_merge_split_halves": Case(halves_are_merged, earlier=("p3_l_split_rect_track",), unloaded=True),
    "p3_n_resize_corner_handle": Case(a_keyframe_is_added(1, 5), sent=(136,)),
    "p3_o_polygon_vertex_drag": Case(a_vertex_is_moved, frames=DENSE),
    "p3_p_group_two_tracks": Case(two_tracks_are_grouped, sent=(130, 136)),
    "p3_q_delete_then_undo_before_save": Case(it_is_restored(2), unloaded=True),
    "p3_r_merge_overlapping_tracks_refused": Case(nothing),
    "p3_s_draw_new_rect_track": Case(a_track_is_drawn(138), unnumbered=(138,)),
    "p3_scale600_move_box": Case(a_keyframe_is_added(1, 555)),
    "p3_t_save_nothing_changed": Case(nothing),
    "p3_u_mask_brush_edit": Case(a_keyframe_is_changed(1, 9, "masks")),
    "p3_v_delete_frame": Case(nothing, do=_delete_a_frame),
    "p3_w_make_a_copy_of_track": Case(a_track_is_copied, beside=_as_in("p3_f_attr_immutable_verdict", 130)),
    "p3_x_propagate_mask_to_2_frames": Case(a_mask_is_propagated_onto_itself, beside=_masks_of_object_two),
    "p3_y2_change_label_of_mask": Case(everything_of_a_track_is(3, "masks", label="person")),
    "p3_y_change_label_of_track": Case(a_label_is_changed, unloaded=True, unnumbered=(130,)),
    "p3_z_rest_put_while_ui_open": Case(a_stale_page_was_saved, unloaded=True),
    "p3_zz_remove_annotations_then_save": Case(
        everything_is_removed, sent=(123, 142, 2617, 2618, 2619), do=_remove_everything, keeps_bystander=False
    ),
    "p5_edit_after_completed": Case(a_keyframe_is_added(9, 4, note="init", hidden=True), do=_edit_what_is_completed),
    "p5_validation_stage_edit": Case(the_edit_waits_for_the_validator, do=_edit_in_validation),
    "p6_source_move": Case(a_shape_is_moved, sent=()),
    "p6b_precision_sparse_attributes": Case(a_turned_box_is_occluded),
    "p6c_precision_shape": Case(a_turned_shape_is_occluded, sent=()),
}


def test_every_recording_has_a_meaning() -> None:
    assert sorted(CASES) == names()


def done(desk: Desk, case: Case, edit: Recording, loaded: bool) -> Scene:
    """Does an edit, loads it, and looks twice."""
    scene = Scene(desk, edit, loaded)
    scene.before = {name: desk.labels(name) for name in desk.fields.values()}
    case.do(desk, edit)
    desk.load()
    scene.after = {name: desk.labels(name) for name in desk.fields.values()}
    everything = desk.everything()
    desk.load()
    assert desk.everything() == everything
    return scene


DONE = [(name, True) for name in sorted(CASES)] + [(name, False) for name in sorted(CASES) if CASES[name].unloaded]


@pytest.mark.parametrize(
    ("name", "loaded"), DONE, ids=lambda value: value if isinstance(value, str) else f"loaded={value}"
)
def test_what_an_edit_means(server: LocalCVAT, files: FrameFiles, name: str, loaded: bool) -> None:
    case = CASES[name]
    edits = [recording(each, unnumbered=case.unnumbered, frames=case.frames) for each in (*case.earlier, name)]
    laid_out = together(edits[0].before, case.beside())
    payloads = [laid_out, *(edit.after for edit in edits)]
    shapes = [keyframe for payload in payloads for entry in objects_of(payload) for keyframe in keyframes_of(entry)]
    types = {keyframe["type"] for keyframe in shapes} or {"rectangle"}
    others = bystanders(BYSTANDER_ID, BYSTANDER, types, [keyframe["frame"] for keyframe in shapes] or [0, 5])
    sent = None if case.sent is None else {*case.sent, *(entry["id"] for entry in objects_of(others))}
    with desk_for(
        server, files, together(laid_out, others), *payloads, sent=sent, loaded=loaded, engine=case.engine
    ) as desk:
        for edit in edits[:-1]:
            desk.do(edit)
            if loaded:
                desk.load()
        scene = done(desk, case, edits[-1], loaded)
    if case.keeps_bystander:
        for field_name in desk.fields.values():
            scene.check_kept(BYSTANDER, field=field_name)
    case.meaning(scene)
    labels = [label for found in scene.after.values() for by_index in found.values() for label in by_index.values()]
    assert len({label.id for label in labels}) == len(labels)
