"""What the demo runs on: frames together with the truth about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from labelprop_cvat.demo import scene
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import FrameSource, ImageSequenceSource, VideoSource
from labelprop_cvat.propagation.types import ObjectMask

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

OnFrame = Callable[[], object]


@dataclass(frozen=True)
class Footage:
    """Frames, and what is truly on each.

    Args:
        name: for people
        frames: the frames
        masks: one PNG a frame, pixel value = object id, 0 = background
        labels: the class of each object by its id; :data:`DEFAULT_LABEL` for those that are not named
        frame_rate: frames a second
        video: the video file; None when the frames are images
        images: the image files; empty when they are a video
    """

    name: str
    frames: FrameSource
    masks: tuple[Path, ...]
    labels: Mapping[int, str]
    frame_rate: float
    video: Path | None = None
    images: tuple[Path, ...] = ()
    _read: dict[int, dict[int, ObjectMask]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.masks) != len(self.frames):
            raise DataError(
                f"The demo needs one mask a frame, got {len(self.masks)} masks and {len(self.frames)} frames of "
                f"{self.name!r}. A mask is a PNG in which the pixel value is the object's id and 0 the background."
            )

    def truth(self, index: int) -> dict[int, ObjectMask]:
        """The visible objects of frame ``index`` by their id.

        Raises:
            DataError: the mask cannot be read, or has another size than the frames
        """
        if index not in self._read:
            if len(self._read) >= _KEPT:
                self._read.clear()
            self._read[index] = self._objects(self.masks[index])
        return dict(self._read[index])

    def _objects(self, path: Path) -> dict[int, ObjectMask]:
        ids = read_ids(path)
        if ids.shape != self.frames.size:
            height, width = self.frames.size
            raise DataError(
                f"The mask {path} is {ids.shape[1]}x{ids.shape[0]} pixels, but the frames are {width}x{height}."
            )
        found = {int(value): ObjectMask.from_full(ids == value) for value in np.unique(ids) if value}
        return {object_id: mask for object_id, mask in found.items() if mask is not None}

    def label(self, object_id: int) -> str:
        """The class of an object."""
        return self.labels.get(object_id, DEFAULT_LABEL)


DEFAULT_LABEL = "object"

# Frames whose truth is kept: it is asked for many times, and decoding it takes longer than most of what follows.
_KEPT = 512


def read_ids(path: Path) -> npt.NDArray[np.int64]:
    """Reads the object id of every pixel, array of shape ``(H, W)``; of palette images the palette's indices.

    Raises:
        DataError: the file is no image with one value a pixel
    """
    try:
        with Picture.open(path) as picture:
            values = np.asarray(picture)
    except OSError as error:
        raise DataError(f"The mask {path} cannot be read: {error}.") from error
    if values.ndim != 2:
        raise DataError(
            f"The mask {path} has {values.shape[-1]} channels; a mask has one value a pixel, the object's id."
        )
    return values.astype(np.int64)


def render_footage(
    folder: Path, frames_per_scene: int, on_frame: OnFrame, size: tuple[int, int] | None = None
) -> Footage:
    """Renders the demo's own video and its masks into ``folder``.

    Args:
        folder: where ``video.mp4`` and ``masks/`` go
        frames_per_scene: length of each of the two scenes
        on_frame: called once a frame
        size: ``(height, width)`` of the frames in pixels; by default that of :mod:`labelprop_cvat.demo.scene`

    Raises:
        DataError: the video cannot be written
    """
    height, width = size or (scene.HEIGHT, scene.WIDTH)
    _new_folder(folder / "masks")
    video = folder / "video.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), scene.FRAME_RATE, (width, height))
    if not writer.isOpened():
        raise DataError(f"This OpenCV cannot write an MP4 to {video}.")
    masks = []
    try:
        for index, frame in enumerate(scene.render(frames_per_scene, (height, width))):
            writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            masks.append(folder / "masks" / f"{index:05d}.png")
            Picture.fromarray(frame.ids).save(masks[-1])
            on_frame()
    finally:
        writer.release()
    return Footage("Rendered video", VideoSource(video), tuple(masks), scene.labels(), scene.FRAME_RATE, video=video)


def render_images(folder: Path, frames_per_scene: int, size: tuple[int, int] | None = None) -> Footage:
    """Renders the same as images: ``frames/00000.jpg`` and so on, and ``masks/``; one scene after the other.

    Args:
        folder: where they go
        frames_per_scene: length of each of the two scenes
        size: ``(height, width)`` of the frames in pixels; by default that of :mod:`labelprop_cvat.demo.scene`
    """
    _new_folder(folder / "frames")
    _new_folder(folder / "masks")
    for index, frame in enumerate(scene.render(frames_per_scene, size)):
        Picture.fromarray(frame.image).save(folder / "frames" / f"{index:05d}.jpg", quality=92)
        Picture.fromarray(frame.ids).save(folder / "masks" / f"{index:05d}.png")
    return frames_footage(folder / "frames", folder / "masks", scene.labels(), scene.FRAME_RATE)


def _new_folder(folder: Path) -> None:
    """Makes a folder for pictures; those that an earlier run left there go."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [path for path in folder.iterdir() if path.suffix in IMAGE_SUFFIXES]:
        stale.unlink()


def frames_footage(frames: Path, masks: Path, labels: Mapping[int, str], frame_rate: float = 24.0) -> Footage:
    """Takes frames from a folder of images, in the order of their names.

    Args:
        frames: folder of images
        masks: folder of PNGs, in the same order
        labels: class by object id
        frame_rate: of the video that the demo makes of them

    Raises:
        DataError: a folder is missing or empty, or they do not fit together
    """
    images = _files(frames, IMAGE_SUFFIXES, "images")
    source = ImageSequenceSource(images)
    source.check()
    name = frames.resolve().parent.name if frames.name in ("frames", "images") else frames.resolve().name
    return Footage(name, source, _files(masks, {".png"}, "PNG masks"), labels, frame_rate, images=images)


def video_footage(video: Path, masks: Path, labels: Mapping[int, str]) -> Footage:
    """Takes frames from a video file; ``masks`` is a folder with one PNG a frame, in order.

    Raises:
        DataError: the video cannot be read, or the masks do not fit
    """
    if not video.is_file():
        raise DataError(f"There is no video {video}.")
    source = VideoSource(video)
    rate = source.frame_rate
    return Footage(video.stem, source, _files(masks, {".png"}, "PNG masks"), labels, rate, video=video.resolve())


def _files(folder: Path, suffixes: frozenset[str] | set[str], what: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; expected one with {what}.")
    files = tuple(sorted(path.resolve() for path in folder.iterdir() if path.suffix.lower() in suffixes))
    if not files:
        raise DataError(f"The folder {folder} holds no {what}.")
    return files


__all__ = ["DEFAULT_LABEL", "Footage", "frames_footage", "read_ids", "render_footage", "render_images", "video_footage"]
