"""A whole job in small - a dataset, a CVAT, a person who draws - on which faults are provoked.

Four images, two temporal segments, one object that FiftyOne knows (a car) and one that a person draws (a person).
Nothing here knows of any fault.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import cv2
import fiftyone as fo
import numpy as np
import numpy.typing as npt

import labelprop_cvat  # noqa: F401 - registers the backend
from benchmarks.faults_kill import Forks
from benchmarks.faults_proxy import Proxy
from labelprop_cvat.backend.cvat import Credentials, CVATClient, LabelMap, RetryPolicy, mask_to_points
from labelprop_cvat.backend.cvat import session as session_module
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.errors import LabelPropError

KEY = "run"
FIELD = "objects"
FRAMES = 4
SIZE = 48, 64
LOGIN = {"username": "admin", "password": "a password"}
OPTIONS: dict[str, Any] = {
    "backend": "labelprop",
    "label_field": FIELD,
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:2",
    "exemplars": "every:1",
    "engine": "interpolate",
    "timeout": 5,
}
BoolArray = npt.NDArray[np.bool_]
_QUICK = RetryPolicy(attempts=6, first_delay=0.02, max_delay=0.1, total=30.0)


def car_mask(frame: int) -> tuple[int, int, BoolArray]:
    """Left, top and crop of the object that FiftyOne knows."""
    crop = np.ones((10, 16), bool)
    crop[0, frame] = False
    return 4 + frame, 30, crop


def person_mask(frame: int) -> tuple[int, int, BoolArray]:
    """Left, top and crop of the object that a person draws."""
    crop = np.ones((20, 8), bool)
    crop[frame, 0] = False
    return 40 - frame, 5, crop


class Stage:
    """A server, a proxy before it and datasets; ``with Stage() as stage``.

    Attributes:
        proxy: what the backend talks to
        url, port: the server behind it
        folder: of images and of the server; deleted at the end
    """

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="labelprop-faults-")))
            self._images = [self._write_image(number) for number in range(FRAMES)]
            self._server = self._started(0)
            self.url = self._server.url
            self.port = int(urlsplit(self.url).port or 0)
            stack.callback(self.stop)
            self.proxy = stack.enter_context(Proxy(self.port))
            stack.enter_context(mock.patch.object(session_module, "RetryPolicy", return_value=_QUICK))
            stack.enter_context(_quiet())
            self._forks: Forks | None = None
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _started(self, port: int) -> LocalCVAT:
        users = {LOGIN["username"]: LOGIN["password"]}
        return LocalCVAT(self.folder / "server", port, users, anonymous_rate=None).start()

    def forks(self) -> Forks:
        """Runs steps in processes of their own; starting takes seconds, so there is one for all rows."""
        if self._forks is None:
            self._forks = self._stack.enter_context(Forks())
        return self._forks

    def restart(self) -> None:
        """Stops the server and starts it again at the same port; what it had finished writing is there."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stops the server."""
        self._server.stop()

    def start(self) -> None:
        """Starts the server at the port where it was."""
        self._server = self._started(self.port)

    def _write_image(self, number: int, size: tuple[int, int] = SIZE) -> Path:
        path = self.folder / f"{number:04d}.png"
        noise = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(path), noise)
        return path

    # The job

    def dataset(self, images: list[Path] | None = None) -> fo.Dataset:
        """A new dataset in which every image has the car."""
        dataset = fo.Dataset()
        samples = []
        for number, path in enumerate(images or self._images):
            left, top, crop = car_mask(number)
            height, width = SIZE
            box = [left / width, top / height, crop.shape[1] / width, crop.shape[0] / height]
            car = fo.Detection(label="car", bounding_box=box, mask=crop, index=1)
            samples.append(fo.Sample(str(path), number=number, objects=fo.Detections(detections=[car])))
        dataset.add_samples(samples, progress=False)
        return dataset

    def annotate(self, dataset: fo.Dataset, **options: Any) -> Any:
        """``dataset.annotate()`` through the proxy."""
        given = {**OPTIONS, "url": self.proxy.url, **({} if "token" in options else LOGIN), **options}
        return dataset.annotate(KEY, **given)

    def load(self, dataset: fo.Dataset) -> None:
        """``dataset.load_annotations()`` through the proxy."""
        dataset.load_annotations(KEY, **LOGIN)

    def draw(self, dataset: fo.Dataset) -> None:
        """A person adds the person to every frame of every job that is open, and completes it."""
        with self.person() as client:
            for task in self.tasks(dataset):
                for job in client.jobs(task):
                    if job.state == "completed":
                        continue
                    label = LabelMap(client.labels(task)).label("person")
                    index = [{"spec_id": label.attribute("index").id, "value": "2"}]
                    shapes = [
                        {
                            "type": "mask",
                            "frame": frame,
                            "label_id": label.id,
                            "points": mask_to_points(*person_mask(frame)),
                            "attributes": index,
                        }
                        for frame in job.frames
                    ]
                    client.create_annotations({"shapes": shapes}, job_id=job.id)
                    client.update_job(job.id, state="completed")

    @contextmanager
    def person(self) -> Iterator[CVATClient]:
        """Somebody who works on the server and is spared all faults."""
        with CVATClient(self.url, Credentials(**LOGIN)) as client:
            yield client

    def tasks(self, dataset: fo.Dataset) -> list[int]:
        """Ids of the server's tasks that belong to a dataset."""
        with self.person() as client:
            listed = client._session.json("GET", "/api/tasks", params={"page_size": 500})["results"]
        return sorted(int(task["id"]) for task in listed if str(task["name"]).startswith(dataset.name))

    # What came of it

    def attempt(self, dataset: fo.Dataset, act: Callable[[], object], *, tasks: bool = True) -> str:
        """Does something that fails.

        Args:
            tasks: whether the server can be asked for its tasks, which shall be the same then, too

        Returns:
            the error's name, and whether anything changed; "" when nothing failed
        """
        before, there = self.state(dataset), self.tasks(dataset) if tasks else []
        try:
            act()
        except LabelPropError as error:
            kept = KEY in dataset.list_annotation_runs()
            same = before == self.state(dataset) and there == (self.tasks(dataset) if tasks else [])
            changed = "nothing changed" if same else "the run is kept" if kept else "something is left behind"
            text = str(error)
            readable = 20 < len(text) < 900 and "\n" not in text and LOGIN["password"] not in text
            return f"{type(error).__name__}{'' if readable else ' without a readable sentence'}, {changed}"
        return ""

    def state(self, dataset: fo.Dataset) -> str:
        """The labels of a dataset and its runs, to compare."""
        labels = [
            sorted((d.id, d.label, d.index) for d in found or ()) for found in dataset.values(f"{FIELD}.detections")
        ]
        filled = dataset.has_sample_field(f"{FIELD}_propagated")
        return json.dumps([labels, filled, dataset.list_annotation_runs()], default=str)

    def finish(self, dataset: fo.Dataset, original: list[str]) -> str:
        """The rest of a job: the person draws, the labels are loaded and compared.

        Args:
            dataset: whose tasks are on the server
            original: ids of its cars, by frame

        Returns:
            "complete", or what is wrong
        """
        self.draw(dataset)
        self.load(dataset)
        return self.verdict(dataset, original)

    def verdict(self, dataset: fo.Dataset, original: list[str], more: Mapping[int, int] | None = None) -> str:
        """ "complete" when everything is there once and as it was drawn, else what is wrong.

        Args:
            dataset: its labels were loaded
            original: ids of its cars, by frame
            more: number of further labels that belong there, by frame
        """
        more = more or {}
        tasks = self.tasks(dataset)
        if len(tasks) != 1:
            return f"{len(tasks)} tasks instead of 1"
        with self.person() as client:
            there = client.annotations(task_id=tasks[0])
        places = sorted((s["frame"], s["label_id"]) for s in there["shapes"] if s["frame"] < FRAMES)
        if len(places) != len(set(places)) or len(places) != 2 * FRAMES:
            return f"{len(places)} shapes on the server instead of {2 * FRAMES}"
        dataset.reload()
        ordered = dataset.sort_by("number")
        for frame, sample in enumerate(ordered):
            found = {d.label: d for d in sample[FIELD].detections if d.index in (1, 2)}
            if len(sample[FIELD].detections) != 2 + more.get(frame, 0) or set(found) != {"car", "person"}:
                return f"frame {frame} has {[d.label for d in sample[FIELD].detections]}"
            if found["car"].id != original[frame]:
                return f"the car of frame {frame} has another id"
            for name, expected in (("car", car_mask(frame)), ("person", person_mask(frame))):
                if not _same_mask(found[name], expected):
                    return f"the {name} of frame {frame} has another mask"
            if found["car"].index != 1 or found["person"].index != 2:
                return f"the indices of frame {frame} are {found['car'].index} and {found['person'].index}"
            if len(sample[f"{FIELD}_propagated"].detections) < 2:
                return f"frame {frame} is not filled"
        return "complete"


def ids_of(dataset: fo.Dataset) -> list[str]:
    """Ids of the cars, by frame."""
    return [ids[0] for ids in dataset.sort_by("number").values(f"{FIELD}.detections.id")]


def _same_mask(label: fo.Detection, expected: tuple[int, int, BoolArray]) -> bool:
    left, top, crop = expected
    height, width = SIZE
    full = np.zeros(SIZE, bool)
    full[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    x, y, w, h = (round(v * s) for v, s in zip(label.bounding_box, (width, height, width, height), strict=True))
    mask = np.asarray(label.mask, bool)
    if mask.shape != (h, w):
        return False
    got = np.zeros(SIZE, bool)
    got[y : y + h, x : x + w] = mask
    return bool((got == full).all())


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings of the faults that are provoked."""
    shown = fo.config.show_progress_bars
    logger = logging.getLogger("labelprop_cvat")
    level = logger.level
    fo.config.show_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        fo.config.show_progress_bars = shown
        logger.setLevel(level)


__all__ = ["FIELD", "FRAMES", "KEY", "LOGIN", "OPTIONS", "Stage", "ids_of"]
