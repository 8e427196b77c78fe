"""Annotators who do anything at all, in any order: whatever they leave behind, every label is one object's."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import fiftyone as fo
import pytest
from fixtures_ui_edits import SIZE, Desk, FrameFiles, box_track, desk_for, empty

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.labels import detection_to_box

FRAMES = 8
LOOKS = 9


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


def new(entry: dict[str, Any]) -> dict[str, Any]:
    """An object without the ids that the server gave it."""
    copied = {name: value for name, value in entry.items() if name != "id"}
    copied["shapes"] = [{k: v for k, v in shape.items() if k != "id"} for shape in entry["shapes"]]
    return copied


class Page:
    """CVAT's web page in the hands of somebody who presses buttons by chance."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.chance = random.Random(seed)
        self.edited: set[int] = set()
        self.done: list[str] = []

    def act(self) -> None:
        """Does one thing, whatever it is."""
        edits: list[Callable[[], None]] = [
            self.move,
            self.add_keyframe,
            self.remove_keyframe,
            self.end,
            self.split,
            self.merge,
            self.copy,
            self.delete,
            self.delete_and_undo,
            self.renumber,
            self.change_label,
            self.group,
            self.draw,
        ]
        edit = self.chance.choice(edits)
        self.done.append(edit.__name__)
        edit()

    def tracks(self) -> list[dict[str, Any]]:
        return sorted(self.desk.annotations()["tracks"], key=lambda track: int(track["id"]))

    def _any(self) -> dict[str, Any] | None:
        tracks = self.tracks()
        return self.chance.choice(tracks) if tracks else None

    def _send(self, how: str, *tracks: dict[str, Any]) -> None:
        body: dict[str, Any] = {**empty(), "tracks": list(tracks)}
        getattr(self.desk.client, f"{how}_annotations")(body, job_id=self.desk.job.id)

    def _points(self) -> list[float]:
        left, top = self.chance.randrange(700), self.chance.randrange(350)
        return [left, top, left + self.chance.randrange(10, 100), top + self.chance.randrange(10, 100)]

    def move(self) -> None:
        if track := self._any():
            self.chance.choice(track["shapes"])["points"] = self._points()
            self._send("update", track)

    def add_keyframe(self, outside: bool = False) -> None:
        if track := self._any():
            frame = self.chance.randrange(FRAMES)
            shape = {**track["shapes"][0], "frame": frame, "outside": outside, "points": self._points()}
            shape.pop("id", None)
            kept = [other for other in track["shapes"] if other["frame"] != frame]
            if not any(not other["outside"] for other in (*kept, shape)):
                return
            track["shapes"] = sorted([*kept, shape], key=lambda other: int(other["frame"]))
            self._send("update", track)

    def end(self) -> None:
        self.add_keyframe(outside=True)

    def remove_keyframe(self) -> None:
        track = self._any()
        if track and len(track["shapes"]) > 1:
            track["shapes"].remove(self.chance.choice(track["shapes"]))
            if any(not shape["outside"] for shape in track["shapes"]):
                self._send("update", track)

    def split(self) -> None:
        track = self._any()
        if track is None:
            return
        frames = [shape["frame"] for shape in track["shapes"] if not shape["outside"]]
        if len(frames) < 2:
            return
        frame = self.chance.choice(frames[1:])
        cut = next(shape for shape in track["shapes"] if shape["frame"] == frame)
        plain = {**new(track), "group": 0, "source": "manual"}
        first = [shape for shape in track["shapes"] if shape["frame"] < frame]
        second = [shape for shape in track["shapes"] if shape["frame"] >= frame]
        self._send("delete", track)
        self._send(
            "create",
            new({**plain, "shapes": [*first, {**cut, "outside": True}]}),
            new({**plain, "frame": frame, "shapes": second}),
        )

    def merge(self) -> None:
        tracks = self.tracks()
        self.chance.shuffle(tracks)
        for one in tracks:
            for other in tracks:
                frames = [{s["frame"] for s in track["shapes"] if not s["outside"]} for track in (one, other)]
                if one is other or one["label_id"] != other["label_id"] or frames[0] & frames[1]:
                    continue
                shapes = {shape["frame"]: shape for track in (one, other) for shape in track["shapes"]}
                visible = [s for track in (one, other) for s in track["shapes"] if not s["outside"]]
                shapes |= {shape["frame"]: shape for shape in visible}
                merged = {**one, "group": 0, "source": "manual", "shapes": [shapes[f] for f in sorted(shapes)]}
                self._send("delete", one, other)
                self._send("create", new({**merged, "frame": min(shapes)}))
                return

    def copy(self) -> None:
        if track := self._any():
            frame = self.chance.randrange(FRAMES)
            shape = {**track["shapes"][0], "frame": frame, "outside": False, "points": self._points()}
            self._send("create", new({**track, "group": 0, "source": "manual", "frame": frame, "shapes": [shape]}))

    def delete(self) -> None:
        if track := self._any():
            self._send("delete", track)

    def delete_and_undo(self) -> None:
        if track := self._any():
            self._send("delete", track)
            self._send("create", new(track))

    def _set(self, track: dict[str, Any], name: str, value: str) -> None:
        specs = {record.id: record for record in self.desk.task.labels.values()}[track["label_id"]].attributes
        kept = [a for a in track["attributes"] if a["spec_id"] != specs[name]]
        track["attributes"] = [*kept, {"spec_id": specs[name], "value": value}]

    def renumber(self) -> None:
        if track := self._any():
            self._set(track, "index", str(self.chance.randrange(8)))
            self.edited.add(track["id"])
            self._send("update", track)

    def change_label(self) -> None:
        if track := self._any():
            label = self.desk.task.labels[self.chance.choice(["car", "person"])]
            if label.id == track["label_id"]:
                return
            track.update(label_id=label.id, attributes=[])
            for shape in track["shapes"]:
                shape["attributes"] = []
            self._send("update", track)

    def group(self) -> None:
        if track := self._any():
            track["group"] = self.chance.randrange(1, 4)
            self._send("update", track)

    def draw(self) -> None:
        label = self.desk.task.labels[self.chance.choice(["car", "person"])]
        entry = box_track(0, 0, [self.chance.randrange(FRAMES)], self._points())
        track = {**self.desk.theirs({**entry, "label": "car"}, new=True), "label_id": label.id, "attributes": []}
        for shape in track["shapes"]:
            shape["attributes"] = []
        if self.chance.random() < 0.5:
            self._set(track, "index", str(self.chance.randrange(1, 8)))
        self._send("create", track)


def drawn_in(desk: Desk) -> dict[tuple[int, int], tuple[str, list[float]]]:
    """Class and box of every visible keyframe by the id of its track and its frame."""
    names = {record.id: name for name, record in desk.task.labels.items()}
    return {
        (track["id"], shape["frame"]): (names[track["label_id"]], shape["points"])
        for track in desk.annotations()["tracks"]
        for shape in track["shapes"]
        if not shape["outside"]
    }


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do(server: LocalCVAT, files: FrameFiles, seed: int) -> None:
    track = box_track(1, 1, range(FRAMES), [10, 10, 60, 60])
    other = box_track(2, 2, [0, 2, 4, 7], [200, 10, 260, 60], label="person", group=2)
    third = box_track(3, 3, [1, 3, 5], [400, 10, 460, 60])
    before: dict[tuple[int, int], tuple[int, str]] = {}
    with desk_for(server, files, {**empty(), "tracks": [track, other, third]}) as desk:
        page = Page(desk, seed)
        for _ in range(LOOKS):
            page.edited.clear()
            shapes_before = drawn_in(desk)
            for _ in range(page.chance.randrange(1, 4)):
                page.act()
            desk.load()
            before = check(desk, page, shapes_before, before)
            everything = desk.everything()
            desk.load()
            assert desk.everything() == everything, page.done


def check(
    desk: Desk,
    page: Page,
    shapes_before: dict[tuple[int, int], tuple[str, list[float]]],
    before: dict[tuple[int, int], tuple[int, str]],
) -> dict[tuple[int, int], tuple[int, str]]:
    """Checks what a load brought; returns index and label id of every keyframe by track and frame."""
    shapes = drawn_in(desk)
    labels = [
        (frame, label) for frame, by_index in desk.labels().items() for label in by_index.values()
    ]  # desk.labels() fails where an index stands twice on a frame
    assert len({label.id for _, label in labels}) == len(labels), page.done
    # There is a label for every keyframe, and none else.
    found: dict[tuple[int, int], tuple[int, str]] = {}
    left = list(labels)
    for (track, frame), (name, points) in shapes.items():
        same = [
            (at, label)
            for at, label in left
            if at == frame and label.label == name and detection_to_box(label, SIZE) == pytest.approx(points, abs=1e-3)
        ]
        assert same, (page.done, track, frame)
        known = before.get((track, frame), (0, ""))[1]
        at, label = next((entry for entry in same if entry[1].id == known), same[0])
        left.remove((at, label))
        found[track, frame] = (label.index, label.id)
    assert not left, page.done
    # A track is one object, and so is everything that shares its instance.
    indices: dict[int, set[int]] = defaultdict(set)
    for (track, _), (index, _) in found.items():
        indices[track].add(index)
    assert all(len(values) == 1 for values in indices.values()), page.done
    pairs = {(label.index, str(label.instance.id)) for _, label in labels}
    assert len(pairs) == len({index for index, _ in pairs}) == len({instance for _, instance in pairs}), page.done
    # What kept its id in CVAT is who it was, and its keyframes are the labels that they were.
    for (track, frame), (index, label_id) in before.items():
        if (track, frame) in found and track not in page.edited:
            assert found[track, frame] == (index, label_id), (page.done, track, frame)
        elif (track, frame) in found:
            assert found[track, frame][1] == label_id, (page.done, track, frame)
    # What was split, merged or restored is under another id in CVAT, and each keyframe is the label that it was.
    ids = {place: found[key][1] for place, key in unique(shapes).items()}
    for place, key in unique(shapes_before).items():
        if place in ids and key in before:
            assert ids[place] == before[key][1], (page.done, place)
    return found


def unique(
    shapes: dict[tuple[int, int], tuple[str, list[float]]],
) -> dict[tuple[int, tuple[float, ...]], tuple[int, int]]:
    """Track and frame of every keyframe by frame and box, where there are no two."""
    places: dict[tuple[int, tuple[float, ...]], list[tuple[int, int]]] = defaultdict(list)
    for key, (_, points) in shapes.items():
        places[key[1], tuple(points)].append(key)
    return {place: keys[0] for place, keys in places.items() if len(keys) == 1}
