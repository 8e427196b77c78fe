"""Single edits of the web page, as scripts make them, beside recordings of the real page."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures_ui_edits import Payload, Recording, empty, names, objects_of, recording

from labelprop_cvat.backend.cvat import (
    AttributeSpec,
    Credentials,
    CVATClient,
    LabelMap,
    LabelSpec,
    UploadFile,
    mask_to_points,
)
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage
from labelprop_cvat.errors import DataError

FRAMES = 60
ATTRIBUTES = (
    AttributeSpec("index", False, "number", ("0", "100000", "1"), "0"),
    AttributeSpec("verdict", False, "select", ("unset", "accept", "fix"), "unset"),
    AttributeSpec("note", True, "text", (), ""),
)


@pytest.fixture(scope="module")
def client() -> Iterator[CVATClient]:
    with (
        LocalCVAT(anonymous_rate=None) as server,
        CVATClient(server.url, Credentials(server.username, server.password)) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def job_id(client: CVATClient, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("frames") / "frame.png"
    cv2.imwrite(str(path), np.zeros((480, 854, 3), np.uint8))
    task = client.create_task("edited", [LabelSpec("car", ATTRIBUTES), LabelSpec("person", ATTRIBUTES)])
    files = [UploadFile(f"{number:02d}.png", path) for number in range(FRAMES)]
    client.upload_images(task.id, files, jobs=[[file.name for file in files]])
    return client.jobs(task.id)[0].id


@pytest.fixture
def page(client: CVATClient, job_id: int) -> JobPage:
    """The job, empty and new."""
    client.delete_annotations(client.annotations(job_id=job_id), job_id=job_id)
    client.set_deleted_frames([], job_id=job_id)
    client.update_job(job_id, state="new")
    return JobPage(client, job_id)


# --- as recorded ---------------------------------------------------------------------------------------------------


class Scene:
    """What a recording says, on the local server."""

    def __init__(self, page: JobPage, edit: Recording, beside: Payload) -> None:
        self.page, self.edit = page, edit
        self.before = {kind: [*edit.before[kind], *beside[kind]] for kind in empty()}
        body = {kind: [self._sent(entry) for entry in self.before[kind]] for kind in empty()}
        made = page.client.create_annotations(body, job_id=page.job.id)
        self.page = JobPage(page.client, page.job.id)
        pairs = [
            (old["id"], new["id"]) for kind in empty() for old, new in zip(self.before[kind], made[kind], strict=True)
        ]
        self.ids = dict(pairs)

    def _sent(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        label = self.page.labels.label(entry["label"])

        def attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
            return [{"spec_id": label.attribute(name).id, "value": value} for name, value in values.items()]

        made = {k: v for k, v in entry.items() if k not in ("id", "label")}
        made |= {"label_id": label.id, "attributes": attributes(entry["attributes"])}
        if "shapes" in entry:
            made["shapes"] = [
                {**{k: v for k, v in shape.items() if k != "id"}, "attributes": attributes(shape["attributes"])}
                for shape in entry["shapes"]
            ]
        return made

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The object that has this id in the recording."""
        return next(o for o in objects_of(there(self.page)) if o["id"] == self.ids[number])

    @property
    def old(self) -> list[dict[str, Any]]:
        """The objects that the edit touched, in order."""
        return [self[entry["id"]] for entry in objects_of(self.before)]


def there(page: JobPage) -> Payload:
    return {kind: page.annotations[kind] for kind in empty()}


def content(entry: Mapping[str, Any], labels: LabelMap | None) -> dict[str, Any]:
    """An object without ids, by names, numbers rounded as far as the page does."""

    def values(item: Mapping[str, Any]) -> dict[str, str]:
        if labels is None:
            return dict(item["attributes"])
        known = {a.id: a.name for a in labels.by_id(entry["label_id"]).attributes}
        return {known[a["spec_id"]]: a["value"] for a in item["attributes"]}

    def geometry(item: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: item[k] for k in ("type", "frame", "occluded", "outside", "z_order")}
        return {**plain, "points": [round(p, 4) for p in item["points"]], "rotation": round(item["rotation"], 3)}

    made = {k: entry[k] for k in ("frame", "group", "source")}
    made |= {"label": entry["label"] if labels is None else labels.by_id(entry["label_id"]).name}
    made |= {"attributes": values(entry)}
    if "shapes" in entry:
        made["shapes"] = [{**geometry(s), "attributes": values(s)} for s in entry["shapes"]]
    elif "type" in entry:
        made |= geometry(entry)
    return made


def in_order(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: (item["frame"], len(item.get("shapes", ())), str(item)))


def changed_keyframe(edit: Recording) -> dict[str, Any]:
    """The one keyframe that is new or has other content."""
    (old, new) = edit.changed["tracks"][0]
    before = {shape["frame"]: shape for shape in old["shapes"]}
    found = [s for s in new["shapes"] if {**s, "id": 0} != {**before.get(s["frame"], {}), "id": 0}]
    assert len(found) == 1
    return found[0]


def moved(scene: Scene) -> None:
    keyframe = changed_keyframe(scene.edit)
    scene.page.redraw(scene.old[0], keyframe["points"], keyframe["frame"])


def dragged(scene: Scene) -> None:
    keyframe = changed_keyframe(scene.edit)
    (old, _) = scene.edit.changed["tracks"][0]
    before = next(s["points"] for s in old["shapes"] if s["frame"] == keyframe["frame"])
    number = next(i for i, (a, b) in enumerate(zip(before, keyframe["points"], strict=True)) if a != b) // 2
    point = keyframe["points"][2 * number : 2 * number + 2]
    scene.page.drag_point(scene.old[0], keyframe["frame"], number, (point[0], point[1]))


def valued(scene: Scene) -> None:
    (kind,) = [kind for kind in empty() if scene.edit.changed[kind]]
    old, new = scene.edit.changed[kind][0]
    ((name, value),) = set(new["attributes"].items()) - set(old["attributes"].items())
    scene.page.set_attribute(scene.old[0], name, value)


def hidden(scene: Scene) -> None:
    keyframe = changed_keyframe(scene.edit)
    scene.page.set_outside(scene.old[0], keyframe["frame"], keyframe["outside"])


def brushed(scene: Scene) -> None:
    (_, new) = scene.edit.changed["shapes"][0]
    scene.page.brush_mask(scene.old[0], new["points"])


def copied(scene: Scene) -> None:
    (made,) = scene.edit.added["tracks"]
    scene.page.copy_track(scene.old[0], made["frame"], made["shapes"][0]["points"])


def drew(scene: Scene) -> None:
    (made,) = scene.edit.added["tracks"]
    scene.page.draw_track("car", made["frame"], made["shapes"][0]["points"])


def propagated(scene: Scene) -> None:
    scene.page.propagate_mask(scene.old[0], [shape["frame"] for shape in scene.edit.added["shapes"]])


def split(scene: Scene) -> None:
    scene.page.split(scene.old[0], max(track["frame"] for track in scene.edit.added["tracks"]))


def merged(scene: Scene) -> None:
    (made,) = scene.edit.added["tracks"]
    # The attributes are those of the one that was clicked on first.
    first, second = scene.edit.removed["tracks"]
    if first["attributes"] != made["attributes"]:
        first, second = second, first
    scene.page.merge(scene[first["id"]], scene[second["id"]])


DONE: dict[str, Callable[[Scene], object]] = {
    "p3_a_move_box_between_keyframes": moved,
    "p3_b_move_box_on_keyframe": moved,
    "p3_n_resize_corner_handle": moved,
    "p3_o_polygon_vertex_drag": dragged,
    "p3_c_outside_from_frame": hidden,
    "p3_d_outside_undone_at_its_keyframe": hidden,
    "p3_ac_outside_on_dense_polygon_track": hidden,
    "p3_e_attr_mutable": lambda scene: scene.page.set_attribute(scene.old[0], "note", "tree", 20),
    "p3_f_attr_immutable_verdict": valued,
    "p3_i_attr_immutable_on_mask_shape": valued,
    "p3_g_occluded": lambda scene: scene.page.set_occluded(scene.old[0], 12),
    "p3_h_keyframe_removed": lambda scene: scene.page.remove_keyframe(scene.old[0], 24),
    "p3_j_delete_mask_shape": lambda scene: scene.page.delete(scene.old[0]),
    "p3_k_delete_track": lambda scene: scene.page.delete(scene.old[0]),
    "p3_q_delete_then_undo_before_save": lambda scene: scene.page.delete_and_undo(scene.old[0]),
    "p3_ad_delete_saved_then_undo_saved": lambda scene: scene.page.delete_and_undo(scene.old[0]),
    "p3_l_split_rect_track": split,
    "p3_m_merge_split_halves": merged,
    "p3_ae_merge_two_tracks_of_different_index": merged,
    "p3_s_draw_new_rect_track": drew,
    "p3_w_make_a_copy_of_track": copied,
    "p3_u_mask_brush_edit": brushed,
    "p3_x_propagate_mask_to_2_frames": propagated,
    "p3_y_change_label_of_track": lambda scene: scene.page.relabel(scene.old[0], "person"),
    "p3_y2_change_label_of_mask": lambda scene: scene.page.relabel(scene.old[0], "person"),
    "p3_p_group_two_tracks": lambda scene: scene.page.group(scene.old, scene.edit.changed["tracks"][0][1]["group"]),
}
# Objects of these recordings that lost or never had a number.
UNNUMBERED = {
    "p3_s_draw_new_rect_track": {138},
    "p3_ae_merge_two_tracks_of_different_index": {138},
    "p3_y_change_label_of_track": set(range(120, 160)),
}


def original(edit: Recording) -> Payload:
    """What was copied or propagated, which recordings leave out because it did not change."""
    made = empty()
    if edit.name.startswith("p3_w"):
        (track,) = edit.added["tracks"]
        made["tracks"] = [{**track, "id": 1, "group": 3, "source": "auto"}]
    elif edit.name.startswith("p3_x"):
        shape = edit.added["shapes"][0]
        made["shapes"] = [{**shape, "id": 1, "frame": shape["frame"] - 1, "group": 2}]
    return made


@pytest.mark.skipif(not names(), reason="The recordings of CVAT's web page are not at hand.")
@pytest.mark.parametrize("name", sorted(DONE))
def test_an_edit_does_what_the_page_was_seen_to_do(page: JobPage, name: str) -> None:
    edit = recording(name, unnumbered=UNNUMBERED.get(name, ()))
    beside = original(edit)
    scene = Scene(page, edit, beside)
    before = copy.deepcopy(there(scene.page))
    DONE[name](scene)
    scene.page.save()
    fresh = JobPage(page.client, page.job.id)
    assert there(fresh) == there(scene.page), "what the page holds is what is saved"
    for kind in ("shapes", "tracks"):
        found = [content(entry, fresh.labels) for entry in fresh.annotations[kind]]
        wanted = [content(entry, None) for entry in (*edit.after[kind], *beside[kind])]
        assert in_order(found) == in_order(wanted)
    kept = {scene.ids[old["id"]] for kind in empty() for old, _ in edit.changed[kind]}
    gone = {scene.ids[old["id"]] for kind in empty() for old in edit.removed[kind]}
    ids = {entry["id"] for entry in objects_of(there(fresh))}
    assert kept <= ids
    assert not gone & ids
    # Keyframes that nobody touched are the same ones; one of them at most was taken away.
    now = {shape["id"] for entry in fresh.annotations["tracks"] for shape in entry["shapes"]}
    for entry in before["tracks"]:
        if entry["id"] in kept:
            lost = [shape["frame"] for shape in entry["shapes"] if shape["id"] not in now]
            assert lost == ([24] if name == "p3_h_keyframe_removed" else [])


# --- more of the page ----------------------------------------------------------------------------------------------

BOX, OTHER = (10.0, 10.0, 60.0, 40.0), (20.0, 20.0, 80.0, 60.0)


def keyframes(track: Mapping[str, Any]) -> list[tuple[int, bool, list[float]]]:
    return [(shape["frame"], shape["outside"], shape["points"]) for shape in track["shapes"]]


def test_a_box_goes_straight_from_keyframe_to_keyframe_and_hides_until_the_next(page: JobPage) -> None:
    track = page.draw_track("car", 10, BOX, index=4)
    page.move_box(track, 20, OTHER)
    page.set_outside(track, 15)
    page.move_box(track, 17, BOX)
    page.save()
    halfway = [15.0, 15.0, 70.0, 50.0]
    assert keyframes(track) == [(10, False, [*BOX]), (15, True, halfway), (17, False, [*BOX]), (20, False, [*OTHER])]
    assert [page.seen(track, frame) is not None for frame in (9, 10, 14, 15, 16, 17, 59)] == [0, 1, 1, 0, 0, 1, 1]
    assert page.seen(track, 59)["points"] == [*OTHER]


def test_only_what_changed_is_sent(page: JobPage) -> None:
    first = page.draw_track("car", 0, BOX, index=1)
    second = page.draw_track("car", 0, OTHER, index=2)
    page.save()
    sent: list[Any] = []
    update = page.client.update_annotations
    page.client.update_annotations = lambda payload, **to: (sent.append(payload), update(payload, **to))[1]  # type: ignore[method-assign,assignment]
    try:
        page.set_index(second, 7)
        page.save()
        page.save()
    finally:
        del page.client.update_annotations
    assert [[track["id"] for track in payload["tracks"]] for payload in sent] == [[second["id"]]]
    assert (page.index_of(first), page.index_of(page.track(7))) == (1, 7)


def test_saving_begins_a_job_and_leaves_a_finished_one_finished(client: CVATClient, page: JobPage) -> None:
    page.save()
    assert client.job(page.job.id).state == "in progress"
    page.finish()
    with JobPage(client, page.job.id) as again:
        again.draw_mask("car", 3, mask_to_points(5, 6, np.ones((4, 3), bool)))
    assert client.job(page.job.id).state == "completed"
    (shape,) = client.annotations(job_id=page.job.id)["shapes"]
    assert (shape["type"], shape["source"], again.index_of(shape)) == ("mask", "manual", 0)


def test_nothing_is_saved_after_an_error(client: CVATClient, page: JobPage) -> None:
    def fail() -> None:
        with JobPage(client, page.job.id) as other:
            other.draw_track("car", 0, BOX)
            other.track(9)

    with pytest.raises(DataError):
        fail()
    assert client.annotations(job_id=page.job.id)["tracks"] == []


def test_frames_are_deleted_with_the_next_save(client: CVATClient, page: JobPage) -> None:
    page.delete_frame(5)
    page.delete_frame(7)
    page.restore_frame(5)
    page.save()
    assert client.data_meta(job_id=page.job.id).deleted_frames == (7,)
    assert JobPage(client, page.job.id).deleted_frames == {7}


def test_issues_are_resolved_and_opened_again(client: CVATClient, page: JobPage) -> None:
    issue = client.create_issue(page.job.id, 3, (1, 2, 3, 4), "Look here")
    assert page.resolve_issue(issue).resolved
    assert not page.resolve_issue(issue.id, False).resolved
    page.resolve_issue(issue)
    assert [entry.resolved for entry in page.issues()] == [True]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda page, track: page.remove_keyframe(track, 3), r"frames \[2\]; .* not that on 3"),
        (lambda page, track: page.remove_keyframe(track, 2), r"one of several"),
        (lambda page, track: page.split(track, 2), "that is not 2"),
        (lambda page, track: page.split(track, 1), "that is not 1"),
        (lambda page, track: page.merge(track, page.draw_track("car", 2, OTHER)), "seen on frame 2"),
        (lambda page, track: page.copy_track(track, 1), "frame 1 the track shows nothing"),
        (lambda page, track: page.move_box(track, 60, BOX), r"range\(0, 60\).*got 60"),
        (lambda page, track: page.drag_point(track, 1, 0, (1, 1)), "shows no point 0"),
        (lambda page, track: page.set_attribute(track, "note", "x"), "got None"),
        (lambda page, track: page.track(9), r"no track of object 9; its objects there are \[1\]"),
        (lambda page, track: (page.delete(track), page.set_index(track, 3)), "none of this in its tracks"),
    ],
)
def test_what_the_page_does_not_let_one_do(page: JobPage, edit: Callable[..., object], said: str) -> None:
    track = page.draw_track("car", 2, BOX, index=1)
    with pytest.raises(DataError, match=said):
        edit(page, track)
