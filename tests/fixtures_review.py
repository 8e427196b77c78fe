"""A run whose propagated labels are with a reviewer, and what becomes of every label when the review comes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fiftyone as fo
import numpy as np
from bson import json_util
from fixtures_roundtrip import (
    SIZE,
    client_of,
    image_dataset,
    login,
    video_dataset,
    write_images,
    write_video,
)

from labelprop_cvat.backend.ledger import JobRecord, RoundRecord, SegmentRecord
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage, ScriptedAnnotator, TruthObject
from labelprop_cvat.propagation.types import Box, ObjectMask

FRAMES = 7
EXEMPLARS = frozenset({0, 3, 6})
HEIGHT, WIDTH = SIZE

#: Objects live each in a cell of its own, counted from 1 like they are, and move to the right by a pixel a frame.
CELLS = 20
_COLUMNS, _CELL = 5, (25, 18)
BOX = (12, 10)

SHAPES = {"detections": "rectangle", "polygons": "polygon", "instances": "mask"}

#: Sequence, position and index of a label.
Place = tuple[str, int, int | None]
#: Everything that a field holds: a label's id, and all that is stored of it.
Held = dict[Place, tuple[str, str]]


def cell_box(cell: int, frame: int, right: float = 0, down: float = 0) -> Box:
    """``(x1, y1, x2, y2)`` of the object of a cell, or of one somewhat to the right or further down."""
    x = (cell - 1) % _COLUMNS * _CELL[0] + 2 + frame + right
    y = (cell - 1) // _COLUMNS * _CELL[1] + 2 + down
    return (float(x), float(y), float(x + BOX[0]), float(y + BOX[1]))


def cell_mask(cell: int, frame: int, right: int = 0, down: int = 0) -> ObjectMask:
    """The same as a mask without its upper left corner."""
    x, y, _, _ = (int(value) for value in cell_box(cell, frame, right, down))
    crop = np.ones(BOX[::-1], bool)
    crop[0, 0] = False
    return ObjectMask(x, y, crop)


def cell_outline(cell: int, frame: int, right: float = 0, down: float = 0) -> list[float]:
    """The same as a polygon, CVAT's numbers."""
    x1, y1, x2, y2 = cell_box(cell, frame, right, down)
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def cell_of(label: fo.Label) -> int:
    """The cell that a label lies in."""
    if isinstance(label, fo.Polyline):
        (ring,) = label.points
        x, y = (sum(values) / len(ring) for values in zip(*ring, strict=True))
    else:
        x, y = (start + side / 2 for start, side in zip(label.bounding_box[:2], label.bounding_box[2:], strict=True))
    return 1 + int(x * WIDTH) // _CELL[0] + int(y * HEIGHT) // _CELL[1] * _COLUMNS


def class_of(cell: int) -> str:
    """The class of an object."""
    return "car" if cell % 2 else "person"


@dataclass
class Media:
    """Files of one scene, made once."""

    images: list[Path]
    video: Path

    @classmethod
    def of(cls, folder: Path) -> Media:
        """Makes them."""
        return cls(write_images(folder / "images", FRAMES), write_video(folder / "video.mp4", FRAMES))

    def dataset(self, media: str) -> fo.core.collections.SampleCollection:
        """A new dataset of them, or for "group" a grouped view of two scenes."""
        if media == "video":
            return video_dataset(self.video)
        if media == "image":
            return image_dataset(self.images)
        dataset = image_dataset(self.images, scene=lambda number: "north")
        dataset.add_samples(
            [fo.Sample(str(path), number=number, scene="south") for number, path in enumerate(self.images)],
            progress=False,
        )
        return dataset.group_by("scene", order_by="number")


@dataclass
class Review:
    """A run of which a review is out, as ``with reviewing(...)`` makes it.

    Attributes:
        server: where it is
        dataset: what it is of
        label_field, output_field: paths of its fields, without ``frames.``
        kind: the label type
        as_polygons: whether its masks are reviewed as polygons
        before: what the fields held when the review went out
        after: what they held after the last load
    """

    server: LocalCVAT
    dataset: fo.Dataset
    kind: str
    as_polygons: bool = False
    label_field: str = "objects"
    output_field: str = "objects_propagated"
    before: dict[str, Held] = field(default_factory=dict)
    after: dict[str, Held] = field(default_factory=dict)

    @property
    def results(self) -> Any:
        """The run as it is written down."""
        return self.dataset.load_annotation_results("run", cache=False)

    @property
    def rounds(self) -> list[RoundRecord]:
        found: list[RoundRecord] = self.results.ledger.rounds
        return found

    @property
    def is_video(self) -> bool:
        return bool(self.dataset.media_type == "video")

    @property
    def are_tracks(self) -> bool:
        """Whether reviewers see tracks, not masks."""
        return self.kind != "instances" or self.as_polygons

    def segments(self) -> list[SegmentRecord]:
        """The segments of all sequences."""
        return [segment for record in self.results.ledger.sequences.values() for segment in record.segments]

    def jobs(self) -> list[JobRecord]:
        """The jobs of the last round, which is a review."""
        last = self.rounds[-1]
        assert last.kind == "review"
        return [job for task in last.tasks for job in task.jobs]

    @contextmanager
    def page(self, number: int = 0, *, finish: bool = True) -> Iterator[JobPage]:
        """A job of the last round in a reviewer's browser; saved and finished at the end."""
        with client_of(self.server) as client, JobPage(client, self.jobs()[number].id) as page:
            yield page
            if finish:
                page.finish()

    def finish(self) -> None:
        """Every job of the last round is completed as it is."""
        with client_of(self.server) as client:
            for job in self.jobs():
                client.update_job(job.id, state="completed")

    def load(self) -> None:
        self.dataset.load_annotations("run")
        self.after = self.now()

    def held(self, name: str) -> Held:
        """All labels of a field bit for bit, as the database has them."""
        collection = self.dataset._frame_collection if self.is_video else self.dataset._sample_collection
        found: Held = {}
        for document in collection.find({}):
            value = document.get(name)
            labels = () if value is None else value.get("detections", value.get("polylines"))
            position = document["frame_number"] - 1 if self.is_video else document["number"]
            for label in labels:
                place = document.get("scene", ""), position, label.get("index")
                assert place not in found, f"{place} is there twice in {name}"
                found[place] = str(label["_id"]), json_util.dumps(label, sort_keys=True)
        return found

    def now(self) -> dict[str, Held]:
        return {name: self.held(name) for name in (self.label_field, self.output_field)}

    def remember(self) -> None:
        """What is there now is what later loads are compared with."""
        self.before = self.after = self.now()

    def changed(self, name: str, scene: str = "") -> dict[int | None, set[int]]:
        """Index -> positions where a label is new, gone, or any bit of it is not what it was."""
        old, new = self.before[name], self.after[name]
        found: dict[int | None, set[int]] = {}
        for place in old.keys() | new.keys():
            if old.get(place) != new.get(place):
                assert place[0] == scene, f"{place} is of another sequence"
                found.setdefault(place[2], set()).add(place[1])
        return found

    def there(self, name: str, index: int, scene: str = "") -> set[int]:
        """The positions on which an object has a label."""
        return {position for where, position, number in self.after[name] if (where, number) == (scene, index)}

    def label(self, name: str, position: int, index: int, scene: str | None = None) -> fo.Label:
        """One label, as the database has it."""
        # Through samples it takes ten times as long, and tests ask for hundreds.
        if self.is_video:
            document = self.dataset._frame_collection.find_one({"frame_number": position + 1})
        else:
            document = self.dataset._sample_collection.find_one(
                {"number": position, **({} if scene is None else {"scene": scene})}
            )
        value = document[name]
        labels = value.get("detections", value.get("polylines"))
        (label,) = (label for label in labels if label.get("index") == index)
        return getattr(fo, label["_cls"]).from_dict(label)

    def check_settled(self) -> None:
        """Loading again, twice, changes no bit, sends nothing and leaves no task twice."""
        held, rounds = self.after, len(self.rounds)
        for _ in range(2):
            self.load()
            assert self.after == held
        assert len(self.rounds) == rounds


def begin(
    server: LocalCVAT,
    media: Media,
    what: str,
    kind: str,
    exemplars_of: Mapping[int, Collection[int]] = MappingProxyType({1: EXEMPLARS, 2: EXEMPLARS}),
    **options: Any,
) -> Review:
    """A run whose exemplars were drawn and loaded, so that its review is out.

    Args:
        server: where it is
        media: the files
        what: "image", "video" or "group"
        kind: the label type
        exemplars_of: which objects there are, and on which exemplars
        options: of the run
    """
    samples = media.dataset(what)
    dataset = samples._root_dataset
    asked: dict[str, Any] = {
        "label_field": "frames.objects" if what == "video" else "objects",
        "label_type": kind,
        "classes": ["person", "car"],
        "segmentation": "none",
        "exemplars": "every:3",
        "engine": "interpolate",
        "review": True,
        **({"sort_field": "number"} if what == "image" else {}),
        **options,
    }
    results = samples.annotate("run", backend="labelprop", **asked, **login(server))
    draw_exemplars(server, results, kind, exemplars_of)
    dataset.load_annotations("run")
    review = Review(server, dataset, kind, options.get("review_as") == "polygons")
    review.remember()
    return review


def draw_exemplars(server: LocalCVAT, results: Any, kind: str, exemplars_of: Mapping[int, Collection[int]]) -> None:
    """Draws the objects on the exemplars where they are, and finishes the jobs."""
    first = min(number for record in results.ledger.sequences.values() for number in record.frame_numbers or [0])

    def truth(task: str, name: str) -> list[TruthObject]:
        frame = int("".join(c for c in Path(name).stem if c.isdigit())) - first
        return [
            TruthObject(object_id=cell, label=class_of(cell), mask=cell_mask(cell, frame))
            for cell, frames in exemplars_of.items()
            if frame in frames
        ]

    with client_of(server) as client:
        annotator = ScriptedAnnotator(client, truth)
        for task in results.ledger.tasks():
            annotator.annotate_task(task.server_id, shape=SHAPES[kind])
