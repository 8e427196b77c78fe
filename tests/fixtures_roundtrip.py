"""A small moving scene with exact ground truth, as images or a video, and a person who annotates it by script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
from fiftyone.core.odm.utils import create_implied_field

from labelprop_cvat.backend.cvat import Credentials, CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator, TruthObject
from labelprop_cvat.propagation.types import ObjectMask

SIZE = (72, 128)
LABELS = {1: "person", 2: "car"}


def scene_masks(frame: int) -> dict[int, np.ndarray]:
    """Two textured objects that cross the picture; the car is hidden by the person where they meet."""
    _, width = SIZE
    person = np.zeros(SIZE, np.uint8)
    cv2.ellipse(person, (30 + 2 * frame, 36), (10, 22), 0, 0, 360, 1, -1)
    car = np.zeros(SIZE, np.uint8)
    x = width - 40 - 2 * frame
    cv2.rectangle(car, (max(0, x), 44), (max(0, x + 28), 60), 1, -1)
    car[person > 0] = 0
    return {k: m for k, m in {1: person > 0, 2: car > 0}.items() if m.any()}


def scene_image(frame: int, shade: int = 0) -> np.ndarray:
    """Array of shape ``(H, W, 3)``, uint8, BGR."""
    rng = np.random.default_rng(7 + shade)
    image = cv2.GaussianBlur(rng.integers(60, 160, (*SIZE, 3), dtype=np.uint8), (5, 5), 0)
    image = np.roll(image, shade * 20, axis=2) if shade else image
    texture = rng.integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    for object_id, mask in scene_masks(frame).items():
        moved = np.roll(texture, (2 if object_id == 1 else -2) * frame, axis=1)
        colour = np.array([[200, 60, 40], [40, 60, 200]][object_id - 1], np.uint8)
        image[mask] = np.clip(moved[mask].astype(int) + colour, 0, 255).astype(np.uint8)
    return image


def write_images(folder: Path, count: int, extension: str = "png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.{extension}" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), scene_image(number))
    return paths


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 24, (SIZE[1], SIZE[0]))
    for number in range(count):
        writer.write(scene_image(number))
    writer.release()
    return path


def image_dataset(paths: Sequence[Path], **fields: Callable[[int], Any]) -> fo.Dataset:
    samples = [
        fo.Sample(str(path), number=number, **{name: make(number) for name, make in fields.items()})
        for number, path in enumerate(paths)
    ]
    return dataset_of(samples)


def dataset_of(samples: Sequence[fo.Sample]) -> fo.Dataset:
    """A dataset of images. Its fields are declared at once: one by one, twenty of them take half a second."""
    dataset = fo.Dataset()
    dataset.media_type = "image"
    values: dict[str, Any] = {}
    for sample in samples:
        for name in sample.field_names:
            if sample[name] is not None and not dataset.has_field(name):
                values.setdefault(name, sample[name])
    dataset._merge_sample_field_schema({name: create_implied_field(name, value) for name, value in values.items()})
    dataset.add_samples(samples, progress=False)
    return dataset


def video_dataset(*paths: Path) -> fo.Dataset:
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(str(path)) for path in paths], progress=False)
    return dataset


def truth(first_number: int = 0) -> Callable[[str, str], list[TruthObject]]:
    """Ground truth by frame name; ``first_number`` is 1 where names count from 1, as those of videos do."""

    def objects(task: str, name: str) -> list[TruthObject]:
        number = int("".join(c for c in Path(name).stem if c.isdigit())) - first_number
        found = []
        for object_id, mask in scene_masks(number).items():
            tight = ObjectMask.from_full(mask)
            assert tight is not None
            found.append(TruthObject(object_id=object_id, label=LABELS[object_id], mask=tight))
        return found

    return objects


@contextmanager
def client_of(server: LocalCVAT) -> Iterator[CVATClient]:
    with CVATClient(server.url, Credentials(username=server.username, password=server.password)) as client:
        yield client


def annotate_by_script(
    server: LocalCVAT, results: Any, *, shape: str = "mask", first_number: int = 0, **options: Any
) -> None:
    """Draws the ground truth in every task of a run and finishes its jobs."""
    with client_of(server) as client:
        annotator = ScriptedAnnotator(client, truth(first_number))
        for task in results.ledger.tasks():
            annotator.annotate_task(task.server_id, shape=shape, **options)


def login(server: LocalCVAT) -> dict[str, str]:
    return {"url": server.url, "username": server.username, "password": server.password}


def first_round(server: LocalCVAT, dataset: fo.Dataset, **options: Any) -> Any:
    """A loaded run with exemplars at both ends; ``hold`` is wrong enough in between."""
    asked = {
        "label_field": "objects",
        "label_type": "instances",
        "classes": ["person", "car"],
        "sort_field": "number",
        "segmentation": "none",
        "exemplars": "every:12",
        "engine": "hold",
        **options,
    }
    shape = {"instances": "mask", "detections": "rectangle", "polygons": "polygon"}[asked["label_type"]]
    if dataset.media_type == "video":
        asked |= {"label_field": f"frames.{asked['label_field']}"}
        del asked["sort_field"]
    results = dataset.annotate("run", backend="labelprop", **asked, **login(server))
    annotate_by_script(server, results, shape=shape, first_number=int(dataset.media_type == "video"))
    dataset.load_annotations("run")
    return dataset.load_annotation_results("run")
