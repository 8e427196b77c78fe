"""The scripted annotator draws every kind of shape and tag: new, in place of old ones, on chosen frames, as tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from labelprop_cvat.backend.cvat import Credentials, CVATClient, LabelMap, RetryPolicy, UploadFile
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import (
    SHAPE_KINDS,
    AnnotatorCounts,
    ScriptedAnnotator,
    ShapeKind,
    Sloppiness,
    TruthObject,
)
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import ObjectMask

WIDTH, HEIGHT, FRAMES = 80, 60, 4
INDEX = {"name": "index", "mutable": False, "input_type": "number", "values": ["0", "99", "1"], "default_value": "0"}
POSE = {"name": "pose", "mutable": True, "input_type": "text", "values": [], "default_value": "none"}
NODES = ("nose", "hand", "foot")
SKELETON = {
    "name": "person",
    "type": "skeleton",
    "attributes": [INDEX],
    "sublabels": [{"name": name, "type": "points", "attributes": []} for name in NODES],
    "svg": "".join(
        f'<circle r="1" cx="{n}" cy="{n}" data-type="element node" data-element-id="{n}" data-node-id="{n}" '
        f'data-label-name="{name}"></circle>'
        for n, name in enumerate(NODES, 1)
    ),
}
LABELS = [
    {"name": "thing", "type": "any", "attributes": [INDEX, POSE]},
    {"name": "other", "type": "any", "attributes": [INDEX]},
    {"name": "weather", "type": "tag", "attributes": [{**POSE, "name": "sky"}]},
    SKELETON,
]


@pytest.fixture(scope="module")
def client() -> Iterator[CVATClient]:
    with LocalCVAT(users={"admin": "pw"}, anonymous_rate=None) as server:
        retry = RetryPolicy(first_delay=0.01, max_delay=0.05, total=20.0)
        with CVATClient(server.url, Credentials("admin", "pw"), retry=retry) as client:
            yield client


@pytest.fixture
def task(client: CVATClient, tmp_path: Path) -> int:
    """One job of four frames, with labels for everything."""
    path = tmp_path / "any.png"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    made = client._session.json("POST", "/api/tasks", json={"name": "kinds", "labels": LABELS})
    client.upload_images(made["id"], [UploadFile(f"f_{n}.png", path) for n in range(FRAMES)], jobs=None)
    return int(made["id"])


def number(frame: str) -> int:
    return int(frame.removesuffix(".png").rpartition("_")[2])


def course(n: int) -> list[tuple[float, float]]:
    return [(10.0 + n, 10.0), (30.0 + n, 12.5), (25.0, 40.0), (12.0, 30.25)]


def truth_of(kind: str, gone: Sequence[int] = ()) -> Callable[[str, str], list[TruthObject]]:
    def truth(task: str, frame: str) -> list[TruthObject]:
        n = number(frame)
        if n in gone:
            return []
        if kind == "tag":
            return [TruthObject(1, "weather", whole_frame=True, attributes={"sky": f"blue {n}"})]
        if kind == "skeleton":
            return [TruthObject(1, "person", points=[(10.0 + n, 20.0), None if n == 2 else (15.0, 25.0), (30.0, 50.5)])]
        if kind == "mask":
            crop = np.ones((8, 12), bool)
            return [TruthObject(1, "thing", ObjectMask(5 + n, 6, crop), attributes={"pose": f"at {n}"})]
        return [TruthObject(1, "thing", points=course(n), attributes={"pose": f"at {n}"})]

    return truth


def flat(points: Sequence[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def values(client: CVATClient, task: int, item: Mapping[str, Any]) -> dict[str, str]:
    label = LabelMap(client.labels(task)).by_id(item["label_id"])
    names = {a.id: a.name for a in label.attributes}
    return {names[a["spec_id"]]: a["value"] for a in item["attributes"]}


def annotate(client: CVATClient, task: int, kind: Any, truth: Any = None, **options: Any) -> AnnotatorCounts:
    sloppiness = options.pop("sloppiness", None)
    annotator = ScriptedAnnotator(client, truth or truth_of(kind), sloppiness)
    return annotator.annotate_task(task, shape=kind, complete=False, **options)


@pytest.mark.parametrize("kind", ["polygon", "polyline", "points"])
@pytest.mark.parametrize("tracks", [False, True])
def test_points_are_drawn_where_they_are(client: CVATClient, task: int, kind: ShapeKind, tracks: bool) -> None:
    counts = annotate(client, task, kind, tracks=tracks)
    assert counts == AnnotatorCounts(jobs=1, frames=FRAMES, drawn=FRAMES)
    there = client.annotations(task_id=task)
    shapes = there["tracks"][0]["shapes"] if tracks else there["shapes"]
    assert len(there["tracks"]) == int(tracks)
    assert {s["frame"]: s["points"] for s in shapes} == {n: flat(course(n)) for n in range(FRAMES)}
    assert {s["type"] for s in shapes} == {kind}
    assert [values(client, task, {**there["tracks"][0], **s} if tracks else s)["pose"] for s in shapes] == [
        f"at {n}" for n in range(FRAMES)
    ]
    assert {values(client, task, o)["index"] for o in there["tracks" if tracks else "shapes"]} == {"1"}


def test_polygons_and_polylines_are_tracks_of_themselves_points_are_not(client: CVATClient, task: int) -> None:
    for kind, tracked in (("polygon", 1), ("polyline", 2), ("points", 2)):
        annotate(client, task, kind)
        assert len(client.annotations(task_id=task)["tracks"]) == tracked
    assert {s["type"] for s in client.annotations(task_id=task)["shapes"]} == {"points"}


def test_a_track_ends_where_the_object_goes(client: CVATClient, task: int) -> None:
    annotate(client, task, "polygon", truth_of("polygon", gone=[2]))
    (track,) = client.annotations(task_id=task)["tracks"]
    assert [(s["frame"], s["outside"]) for s in track["shapes"]] == [(0, False), (1, False), (2, True), (3, False)]
    assert track["shapes"][2]["points"] == flat(course(1))


def test_a_polygon_without_points_goes_around_the_mask(client: CVATClient, task: int) -> None:
    rows, columns = np.mgrid[:31, :31] - 15
    disc = ObjectMask(20, 10, np.asarray(rows**2 + columns**2 <= 15**2))
    annotate(client, task, "polygon", lambda t, f: [TruthObject(1, "thing", disc)], tracks=False)
    shape = client.annotations(task_id=task)["shapes"][0]
    corners = np.asarray(shape["points"]).reshape(-1, 2)
    canvas = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)
    cv2.fillPoly(canvas, [np.rint(corners * 8).astype(np.int32)], (1,))
    drawn = canvas.reshape(HEIGHT, 8, WIDTH, 8).mean(axis=(1, 3)) >= 0.5
    true = np.zeros((HEIGHT, WIDTH), bool)
    true[10:41, 20:51] = disc.crop
    assert (drawn & true).sum() / (drawn | true).sum() > 0.95
    assert 8 <= len(corners) <= 60


def test_a_polygon_of_a_box_has_four_corners(client: CVATClient, task: int) -> None:
    annotate(client, task, "polygon", lambda t, f: [TruthObject(1, "thing", box=(1, 2, 30, 20))], tracks=False)
    assert client.annotations(task_id=task)["shapes"][0]["points"] == [1, 2, 30, 2, 30, 20, 1, 20]


def test_skeletons_have_their_nodes_and_hide_those_that_do_not_show(client: CVATClient, task: int) -> None:
    counts = annotate(client, task, "skeleton")
    assert counts.drawn == FRAMES
    label = LabelMap(client.labels(task)).label("person")
    shapes = client.annotations(task_id=task)["shapes"]
    for shape in shapes:
        assert (shape["type"], shape["points"]) == ("skeleton", [])
        assert [e["label_id"] for e in shape["elements"]] == [sub.id for sub in label.sublabels]
        assert [e["outside"] for e in shape["elements"]] == [False, shape["frame"] == 2, False]
        assert shape["elements"][0]["points"] == [10.0 + shape["frame"], 20.0]
    assert {values(client, task, s)["index"] for s in shapes} == {"1"}


def test_a_node_that_hides_keeps_its_place(client: CVATClient, task: int) -> None:
    def person(hand: tuple[float, float] | None) -> Callable[[str, str], list[TruthObject]]:
        return lambda t, f: [TruthObject(1, "person", points=[(10.0, 20.0), hand, (30.0, 50.5)])]

    annotate(client, task, "skeleton", person((15.0, 25.0)))
    assert annotate(client, task, "skeleton", person(None)).changed == FRAMES
    for shape in client.annotations(task_id=task)["shapes"]:
        assert [(e["points"], e["outside"]) for e in shape["elements"]] == [
            ([10.0, 20.0], False),
            ([15.0, 25.0], True),
            ([30.0, 50.5], False),
        ]


def test_skeleton_tracks(client: CVATClient, task: int) -> None:
    annotate(client, task, "skeleton", truth_of("skeleton", gone=[3]), tracks=True)
    (track,) = client.annotations(task_id=task)["tracks"]
    assert [(s["type"], s["frame"], s["outside"]) for s in track["shapes"]] == [
        ("skeleton", n, n == 3) for n in range(FRAMES)
    ]
    nose, hand, _ = track["elements"]
    assert [s["points"] for s in nose["shapes"]] == [[10.0, 20.0], [11.0, 20.0], [12.0, 20.0], [12.0, 20.0]]
    assert [s["outside"] for s in nose["shapes"]] == [False, False, False, True]
    assert [s["outside"] for s in hand["shapes"]] == [False, False, True, True]
    again = annotate(client, task, "skeleton", truth_of("skeleton", gone=[3]), tracks=True)
    assert (again.drawn, again.changed, again.confirmed) == (0, 0, FRAMES)


def test_tags_say_something_of_a_frame(client: CVATClient, task: int) -> None:
    assert annotate(client, task, "tag", truth_of("tag", gone=[1])).drawn == 3
    tags = client.annotations(task_id=task)["tags"]
    assert {t["frame"]: values(client, task, t) for t in tags} == {n: {"sky": f"blue {n}"} for n in (0, 2, 3)}


def test_tags_may_be_of_objects_with_an_index(client: CVATClient, task: int) -> None:
    def two(task: str, frame: str) -> list[TruthObject]:
        return [TruthObject(n, "thing", box=(0, 0, 9, 9)) for n in (1, 2)]

    annotate(client, task, "tag", two)
    tags = client.annotations(task_id=task)["tags"]
    assert sorted((t["frame"], values(client, task, t)["index"]) for t in tags) == [
        (n, index) for n in range(FRAMES) for index in ("1", "2")
    ]
    assert annotate(client, task, "tag", two).confirmed == 2 * FRAMES


@pytest.mark.parametrize("kind", [kind for kind in SHAPE_KINDS if kind not in ("tag", "mask")])
@pytest.mark.parametrize("tracks", [False, True])
def test_what_is_there_is_corrected_in_place(client: CVATClient, task: int, kind: ShapeKind, tracks: bool) -> None:
    annotate(client, task, kind, sloppiness=Sloppiness(box_jitter_px=3.0), tracks=tracks)
    before = client.annotations(task_id=task)
    counts = annotate(client, task, kind, tracks=tracks)
    after = client.annotations(task_id=task)
    assert (counts.drawn, counts.changed) == (0, FRAMES)
    assert before != after
    for name in ("shapes", "tracks"):
        assert [o["id"] for o in after[name]] == [o["id"] for o in before[name]]
    assert annotate(client, task, kind, tracks=tracks).confirmed == FRAMES
    assert client.annotations(task_id=task) == after


def test_tags_are_corrected_in_place(client: CVATClient, task: int) -> None:
    annotate(
        client, task, "tag", lambda t, f: [TruthObject(1, "weather", whole_frame=True, attributes={"sky": "grey"})]
    )
    before = client.annotations(task_id=task)["tags"]
    assert annotate(client, task, "tag").changed == FRAMES
    after = client.annotations(task_id=task)["tags"]
    assert [t["id"] for t in after] == [t["id"] for t in before]
    assert {values(client, task, t)["sky"] for t in after} == {f"blue {n}" for n in range(FRAMES)}


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_only_on_the_frames_it_is_given(client: CVATClient, task: int, kind: ShapeKind) -> None:
    assert annotate(client, task, kind, frames=[1, 3]).frames == 2
    there = client.annotations(task_id=task)
    found = {s["frame"] for s in there["shapes"] + there["tags"] + [s for t in there["tracks"] for s in t["shapes"]]}
    assert found == {1, 3}


def test_keyframes_on_other_frames_stay(client: CVATClient, task: int) -> None:
    annotate(client, task, "rectangle")
    before = client.annotations(task_id=task)["tracks"][0]["shapes"]
    moved = [TruthObject(1, "thing", box=(1, 1, 5, 5))]
    annotate(client, task, "rectangle", lambda t, f: moved if number(f) == 1 else [], frames=[1, 2])
    after = client.annotations(task_id=task)["tracks"][0]["shapes"]
    assert [s["outside"] for s in after] == [False, False, True, False]
    assert [after[n] for n in (0, 3)] == [before[n] for n in (0, 3)]
    assert after[1]["points"] == after[2]["points"] == [1, 1, 5, 5]


def test_kinds_by_label(client: CVATClient, task: int) -> None:
    def mixed(task: str, frame: str) -> list[TruthObject]:
        found = [
            TruthObject(1, "thing", box=(10, 10, 30, 30)),
            TruthObject(1, "other", box=(20, 20, 40, 40)),
            TruthObject(2, "other", box=(5, 20, 15, 40)),
        ]
        return [*found, *truth_of("tag")(task, frame), *truth_of("skeleton")(task, frame)]

    kinds: dict[str, ShapeKind] = {"thing": "rectangle", "other": "rectangle", "weather": "tag"}
    counts = annotate(client, task, kinds, mixed)
    assert counts.drawn == 4 * FRAMES
    there = client.annotations(task_id=task)
    names = LabelMap(client.labels(task))
    tracks = [(names.by_id(t["label_id"]).name, values(client, task, t)["index"]) for t in there["tracks"]]
    assert sorted(tracks) == [("other", "1"), ("other", "2"), ("thing", "1")]
    assert (len(there["tags"]), there["shapes"]) == (FRAMES, [])
    assert annotate(client, task, kinds, mixed).confirmed == 4 * FRAMES


def test_occlusion_and_groups(client: CVATClient, task: int) -> None:
    def covered(occluded: bool | None) -> Callable[[str, str], list[TruthObject]]:
        return lambda t, f: [TruthObject(1, "thing", box=(1, 1, 9, 9), occluded=occluded, group=4)]

    for tracks in (False, True):
        annotate(client, task, "rectangle", covered(True), tracks=tracks)
        kept = annotate(client, task, "rectangle", covered(None), tracks=tracks)
        assert kept.confirmed == FRAMES
        there = client.annotations(task_id=task)
        shapes = there["tracks"][0]["shapes"] if tracks else there["shapes"]
        assert [s["occluded"] for s in shapes] == [True] * FRAMES
        assert there["tracks" if tracks else "shapes"][0]["group"] == 4
        assert annotate(client, task, "rectangle", covered(False), tracks=tracks).changed == FRAMES


def test_wrong_labels_are_of_the_same_type(client: CVATClient, task: int) -> None:
    sloppy = Sloppiness(wrong_label=1.0)
    assert annotate(client, task, "points", sloppiness=sloppy).wrong_labels == FRAMES
    assert annotate(client, task, "skeleton", sloppiness=sloppy).wrong_labels == 0
    names = LabelMap(client.labels(task))
    found = {(s["type"], names.by_id(s["label_id"]).name) for s in client.annotations(task_id=task)["shapes"]}
    assert found == {("points", "other"), ("skeleton", "person")}


def test_points_are_off_by_as_much_as_told_and_inside_the_frame(client: CVATClient, task: int) -> None:
    def many(task: str, frame: str) -> list[TruthObject]:
        return [TruthObject(n, "thing", points=[(1.0, 1.0), (40.0, 30.0), (WIDTH - 1.0, 30.0)]) for n in range(1, 60)]

    annotate(client, task, "points", many, sloppiness=Sloppiness(box_jitter_px=1.5))
    points = np.asarray([s["points"] for s in client.annotations(task_id=task)["shapes"]]).reshape(-1, 3, 2)
    assert np.std(points[:, 1, 0]) == pytest.approx(1.5, rel=0.1)
    assert points.min() >= 0
    assert points[..., 0].max() <= WIDTH


@pytest.mark.parametrize(
    ("kind", "found", "message"),
    [
        ("polyline", TruthObject(1, "thing", points=[(1, 2)]), "has 1 points for object 1, a polyline needs 2"),
        ("points", TruthObject(1, "thing", box=(1, 2, 3, 4)), "has no points"),
        ("rectangle", TruthObject(1, "thing", whole_frame=True), "has no points"),
        ("skeleton", TruthObject(1, "person", points=[(1, 2)]), 'the skeleton "person" has 3 nodes'),
        ("skeleton", TruthObject(1, "thing", points=[(1, 2)]), 'the skeleton "thing" has 0 nodes'),
    ],
)
def test_geometry_that_a_kind_needs(
    client: CVATClient, task: int, kind: ShapeKind, found: TruthObject, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        annotate(client, task, kind, lambda t, f: [found])
    there = client.annotations(task_id=task)
    assert (there["shapes"], there["tracks"]) == ([], [])


def test_points_that_all_hide_are_no_object() -> None:
    with pytest.raises(DataError, match="shows no point"):
        TruthObject(1, "person", points=[None, None])
