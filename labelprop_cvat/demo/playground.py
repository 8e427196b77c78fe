"""A small dataset to play with: rendered shots with cuts between them, labels on the first frame of each, the truth."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from labelprop_cvat.demo.scene import FRAME_RATE, HEIGHT, WIDTH, Shot
from labelprop_cvat.demo.video import SUFFIX, VideoWriter
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.labels import mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

MEDIA_FORMATS = ("image", "group", "video")
#: Fields of the dataset, on frames where it is of video.
FIRST_LABELS = "labels_test"
TRUTH = "ground_truth"
ORDER = "frame_number"
GROUP = "sequence_id"
#: The saved view of ``media_format="group"``, in which each shot is a group.
GROUPED_VIEW = "sequences"

_MARK = "labelprop_playground"


@dataclass(frozen=True)
class _Frame:
    """A rendered frame: the shot, its image, its objects by id, and whether it is the shot's first."""

    shot: Shot
    image: npt.NDArray[np.uint8]
    objects: Mapping[int, ObjectMask]
    is_first: bool


def make_playground(
    name: str | None = None,
    *,
    scenes: int = 2,
    media_format: str = "image",
    length: int = 24,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    folder: Path | None = None,
    overwrite: bool = False,
    on_frame: Callable[[], object] = lambda: None,
) -> fo.Dataset:
    """Renders a few shots and makes a persistent dataset of them, the same on every run.

    ``labels_test`` has instance masks with ``index`` and ``instance`` on the first frame of each shot only, and
    ``ground_truth`` on every frame: an object that comes into view later is in the truth alone. Objects count through
    all shots, from 1.

    - ``image``: one sample a frame, ``frame_number`` counts from 1 through all shots, ``sequence_id`` names the shot
    - ``group``: the same, with the saved view ``"sequences"`` in which each shot is a group
    - ``video``: one video sample, which browsers play; the labels are on its frames

    Args:
        name: of the dataset; by default :func:`playground_name`
        scenes: number of shots
        media_format: one of :data:`MEDIA_FORMATS`
        length: frames of each shot, from 5 on: shorter ones are no temporal segments of their own
        size: ``(height, width)`` of the frames in pixels; both even
        folder: where its files go; by default the folder of that name where FiftyOne keeps datasets
        overwrite: whether a dataset of this name that an earlier call made, and its files, are replaced
        on_frame: called once a frame

    Raises:
        ConfigurationError: an option is out of range, there is a dataset of this name that may not be replaced, or
            there are files in the folder already
        DataError: the files cannot be written
    """
    _check(scenes, media_format, length, size)
    name = name or playground_name(scenes, media_format)
    folder = (folder or Path(fo.config.default_dataset_dir) / name).resolve()
    _make_room(name, folder, overwrite)
    media = folder / "data"
    media.mkdir(parents=True)
    dataset = fo.Dataset(name)
    try:
        frames = _rendered([Shot(number) for number in range(scenes)], length, size, on_frame)
        if media_format == "video":
            _add_video(dataset, media / f"video{SUFFIX}", frames, size)
        else:
            _add_images(dataset, media, frames)
        if media_format == "group":
            dataset.save_view(GROUPED_VIEW, dataset.group_by(GROUP, order_by=ORDER))
            dataset.app_config.dynamic_groups_target_frame_rate = round(FRAME_RATE)
        dataset.info[_MARK] = str(folder)
        dataset.persistent = True
        dataset.save()
    except BaseException as error:
        dataset.delete()
        _delete_files(folder)
        if isinstance(error, OSError):
            raise DataError(
                f"The files of {name!r} cannot be written to {media}: {error}. Name another folder."
            ) from error
        raise
    return dataset


def playground_name(scenes: int, media_format: str) -> str:
    """What the dataset is called that nobody gave a name: ``"playground-image-2"``."""
    return f"playground-{media_format}-{scenes}"


def playground_view(dataset: fo.Dataset) -> Any:
    """What to look at first: the dataset, or its view of groups where it has one."""
    grouped = dataset.has_saved_view(GROUPED_VIEW)
    return dataset.load_saved_view(GROUPED_VIEW) if grouped else dataset


def _check(scenes: int, media_format: str, length: int, size: tuple[int, int]) -> None:
    if media_format not in MEDIA_FORMATS:
        raise ConfigurationError(f"media_format is one of {', '.join(MEDIA_FORMATS)}, got {media_format!r}.")
    for what, value, least in (("scenes", scenes, 1), ("length", length, 5)):
        if value < least:
            raise ConfigurationError(f"{what} is a whole number from {least} on, got {value}.")
    if any(side < 16 or side % 2 for side in size):
        raise ConfigurationError(f"The frames' height and width are even numbers from 16 on, got {size[0]}x{size[1]}.")


def _make_room(name: str, folder: Path, overwrite: bool) -> None:
    """Refuses what is in the way, or deletes it where it is an earlier playground that may go."""
    if fo.dataset_exists(name):
        earlier = fo.load_dataset(name).info.get(_MARK)
        if earlier is None:
            raise ConfigurationError(
                f"There is a dataset {name!r} already that is no playground, so it is not replaced. Take another name."
            )
        if not overwrite:
            raise ConfigurationError(
                f"There is a dataset {name!r} already. Take another name, or replace it, and everything that was added "
                f"to it, with --overwrite."
            )
        fo.delete_dataset(name)
        _delete_files(Path(earlier))
    if (folder / "data").exists():
        raise ConfigurationError(f"There are files in {folder / 'data'} already. Name another folder.")


def _delete_files(folder: Path) -> None:
    """Deletes what :func:`make_playground` made in its folder, and the folder if there is nothing else in it."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _rendered(
    shots: list[Shot], length: int, size: tuple[int, int], on_frame: Callable[[], object]
) -> Iterator[_Frame]:
    for shot in shots:
        for index, frame in enumerate(shot.render(length, size)):
            found = {int(value): ObjectMask.from_full(frame.ids == value) for value in np.unique(frame.ids) if value}
            objects = {object_id: mask for object_id, mask in found.items() if mask is not None}
            yield _Frame(shot, frame.image, objects, index == 0)
            on_frame()


def _add_images(dataset: fo.Dataset, folder: Path, frames: Iterator[_Frame]) -> None:
    instances: dict[int, fo.Instance] = {}
    samples = []
    for number, frame in enumerate(frames, 1):
        path = folder / frame.shot.name / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Picture.fromarray(frame.image).save(path, quality=92)
        height, width = frame.image.shape[:2]
        samples.append(
            fo.Sample(
                filepath=str(path),
                metadata=fo.ImageMetadata(width=width, height=height, num_channels=3, mime_type="image/jpeg"),
                **{ORDER: number, GROUP: frame.shot.name},
                **_labels(frame, instances),
            )
        )
    dataset.add_samples(samples, progress=False)


def _add_video(dataset: fo.Dataset, path: Path, frames: Iterator[_Frame], size: tuple[int, int]) -> None:
    instances: dict[int, fo.Instance] = {}
    sample = fo.Sample(filepath=str(path))
    number = 0
    with VideoWriter(path, size, FRAME_RATE) as writer:
        for number, frame in enumerate(frames, 1):
            writer.write(frame.image)
            sample.frames[number] = fo.Frame(**_labels(frame, instances))
    height, width = size
    # FiftyOne would ask ffprobe, which not everybody has; without the rate, the App cannot place the labels in time.
    sample.metadata = fo.VideoMetadata(
        frame_width=width,
        frame_height=height,
        frame_rate=FRAME_RATE,
        total_frame_count=number,
        duration=number / FRAME_RATE,
        mime_type="video/webm",
        size_bytes=path.stat().st_size,
    )
    dataset.add_sample(sample)


def _labels(frame: _Frame, instances: dict[int, fo.Instance]) -> dict[str, fo.Detections]:
    """The fields of a frame; one ``fo.Instance`` an object."""
    fields = {TRUTH: _detections(frame, instances)}
    return {**fields, FIRST_LABELS: _detections(frame, instances)} if frame.is_first else fields


def _detections(frame: _Frame, instances: dict[int, fo.Instance]) -> fo.Detections:
    labels = []
    for object_id, mask in frame.objects.items():
        placed = mask_to_detection(mask, frame.image.shape[:2])
        if placed is not None:
            box, pixels = placed
            instance = instances.setdefault(object_id, fo.Instance())
            labels.append(
                fo.Detection(
                    label=frame.shot.labels[object_id],
                    bounding_box=box,
                    mask=pixels,
                    index=object_id,
                    instance=instance,
                )
            )
    return fo.Detections(detections=labels)


__all__ = [
    "FIRST_LABELS",
    "GROUP",
    "GROUPED_VIEW",
    "MEDIA_FORMATS",
    "ORDER",
    "TRUTH",
    "make_playground",
    "playground_name",
    "playground_view",
]
