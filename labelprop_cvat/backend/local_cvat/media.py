"""Frames of a task's images or video: sizes when the data comes in, pictures and chunks when somebody looks.

Videos are decoded from their first frame onwards and never by seeking, because seeking lands on the wrong frame in
streams with B-frames or an uneven frame rate. Nothing is decoded before it is asked for; chunks are kept on disk.
"""

from __future__ import annotations

import json
import mimetypes
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .replies import RefusalError
from .storage import Files, Transaction

Picture = NDArray[np.uint8]
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_PREVIEW = 256
_OPEN_VIDEOS = 4


class UnreadableMediaError(Exception):
    """A file that is no image or video; the message names it."""


def is_video(name: str) -> bool:
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith("video/") or Path(name).suffix.lower() in VIDEO_SUFFIXES


def image_size(path: Path, name: str) -> tuple[int, int]:
    """Width and height in pixels, after the orientation that the file asks for."""
    picture = read_image(path)
    if picture is None:
        raise UnreadableMediaError(f"cannot identify image file '{name}'")
    return picture.shape[1], picture.shape[0]


def read_image(path: Path) -> Picture | None:
    # Decoded from memory: OpenCV's own file access fails on some file names.
    content = np.frombuffer(path.read_bytes(), np.uint8)
    return None if content.size == 0 else cv2.imdecode(content, cv2.IMREAD_COLOR)  # type: ignore[return-value]


def video_shape(path: Path, name: str) -> tuple[int, int, int]:
    """Frame count, width and height, counted by decoding: containers' own counts are often wrong."""
    capture = cv2.VideoCapture(str(path))
    try:
        found, picture = capture.read()
        if not found:
            raise UnreadableMediaError(f"cannot read a frame of video file '{name}'")
        count = 1
        while capture.grab():
            count += 1
        return count, picture.shape[1], picture.shape[0]
    finally:
        capture.release()


class _Video:
    """One video, read forwards; going back starts over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self._last: tuple[int, Picture] | None = None

    def frame(self, number: int) -> Picture:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        if self._capture is None or number < self._next:
            self.close()
            self._capture = cv2.VideoCapture(str(self._path))
        while self._next < number:
            if not self._capture.grab():
                raise UnreadableMediaError(f"video '{self._path.name}' has no frame {number}")
            self._next += 1
        found, picture = self._capture.read()
        if not found:
            raise UnreadableMediaError(f"video '{self._path.name}' has no frame {number}")
        self._next += 1
        self._last = (number, picture)  # type: ignore[assignment]
        return picture  # type: ignore[return-value]

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None
        self._next = 0


@dataclass(frozen=True)
class TaskMedia:
    """What the database knows of a task's media: enough to find any frame."""

    task_id: int
    size: int
    chunk_size: int
    quality: int
    start: int
    step: int
    video: str | None
    images: Sequence[tuple[str, str]]
    original_chunk_type: str

    @classmethod
    def load(cls, tx: Transaction, task_id: int) -> TaskMedia:
        data = tx.one("SELECT * FROM data WHERE task_id = ? AND ready", task_id)
        if data is None:
            raise RefusalError(404, {"detail": "The task has no data"})
        images = tx.all("SELECT name, path FROM image WHERE task_id = ? ORDER BY frame", task_id)
        return cls(
            task_id,
            data["size"],
            data["chunk_size"],
            data["image_quality"],
            data["start_frame"],
            frame_step(data["frame_filter"]),
            data["video"],
            [(row["name"], row["path"]) for row in images],
            data["original_chunk_type"],
        )


def frame_step(frame_filter: str) -> int:
    """``"step=5"`` -> 5, nothing -> 1."""
    name, _, value = frame_filter.partition("=")
    return int(value) if name.strip() == "step" and value.strip().isdecimal() and int(value) > 0 else 1


class MediaStore:
    """Gives frames, chunks and previews of tasks; safe for many threads."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._videos: dict[int, _Video] = {}

    def frame(self, media: TaskMedia, number: int, quality: str) -> tuple[bytes, str]:
        """One frame, as file content and media type; ``quality`` is "original" or "compressed"."""
        self._check(media, number)
        if media.video is None and quality == "original":
            name, path = media.images[number]
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            return self._path(media, path).read_bytes(), kind
        if quality == "original":
            return _encode(self._picture(media, number), ".png"), "image/png"
        return _encode(self._picture(media, number), ".jpg", media.quality), "image/jpeg"

    def preview(self, media: TaskMedia, number: int = 0) -> tuple[bytes, str]:
        self._check(media, number)
        picture = self._picture(media, number)
        scale = min(1.0, _PREVIEW / max(picture.shape[:2]))
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return _encode(small, ".jpg", media.quality), "image/jpeg"

    def chunk(self, media: TaskMedia, frames: Sequence[int], quality: str) -> tuple[bytes, str]:
        """Several frames: a zip of images ``000000.jpeg`` on, or for a video in original quality an MP4."""
        for number in frames:
            self._check(media, number)
        kept = self._files.task(media.task_id) / "cache" / f"{quality}_{frames[0]}_{frames[-1]}_{len(frames)}.chunk"
        kind = "video/mp4" if quality == "original" and media.original_chunk_type == "video" else "application/zip"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f"{kept.name}.{threading.get_ident()}")
            if kind == "video/mp4":
                self._write_video(media, frames, partial)
            else:
                self._write_zip(media, frames, quality, partial)
            partial.replace(kept)
        return kept.read_bytes(), kind

    def forget(self, task_id: int) -> None:
        with self._lock:
            video = self._videos.pop(task_id, None)
            if video is not None:
                video.close()

    def close(self) -> None:
        with self._lock:
            for video in self._videos.values():
                video.close()
            self._videos.clear()

    def _check(self, media: TaskMedia, number: int) -> None:
        if not 0 <= number < media.size:
            raise RefusalError(400, [f"The frame number {number} is out of range: the task has {media.size} frames"])

    def _path(self, media: TaskMedia, path: str) -> Path:
        return self._files.raw(media.task_id) / path

    def _picture(self, media: TaskMedia, number: int) -> Picture:
        if media.video is None:
            name, path = media.images[number]
            picture = read_image(self._path(media, path))
            if picture is None:
                raise UnreadableMediaError(f"cannot identify image file '{name}'")
            return picture
        with self._lock:
            video = self._videos.get(media.task_id)
            if video is None:
                while len(self._videos) >= _OPEN_VIDEOS:
                    self._videos.pop(next(iter(self._videos))).close()
                video = self._videos[media.task_id] = _Video(self._path(media, media.video))
            return video.frame(media.start + number * media.step)

    def _write_zip(self, media: TaskMedia, frames: Sequence[int], quality: str, target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for position, number in enumerate(frames):
                if media.video is None and quality == "original":
                    name, path = media.images[number]
                    archive.write(self._path(media, path), f"{position:06d}{Path(name).suffix}")
                else:
                    content = _encode(self._picture(media, number), ".jpg", media.quality)
                    archive.writestr(f"{position:06d}.jpeg", content)

    def _write_video(self, media: TaskMedia, frames: Sequence[int], target: Path) -> None:
        pictures = self._pictures(media, frames)
        first = next(pictures)
        # The writer goes by the suffix.
        target_mp4 = target.with_name(f"{target.name}.mp4")
        writer = cv2.VideoWriter(
            str(target_mp4), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (first.shape[1], first.shape[0])
        )
        try:
            writer.write(first)
            for picture in pictures:
                writer.write(picture)
        finally:
            writer.release()
        target_mp4.replace(target)

    def _pictures(self, media: TaskMedia, frames: Sequence[int]) -> Iterator[Picture]:
        for number in frames:
            yield self._picture(media, number)


def _encode(picture: Any, suffix: str, quality: int | None = None) -> bytes:
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, max(1, min(100, quality))]
    _, content = cv2.imencode(suffix, picture, options)
    return bytes(content.tobytes())


def job_frames(row: Any) -> list[int]:
    """The frames of a job row: a range, or the chosen ones of a ground-truth job."""
    if row["frames"] is not None:
        return [int(number) for number in json.loads(row["frames"])]
    return list(range(row["start_frame"], row["stop_frame"] + 1))


__all__ = [
    "VIDEO_SUFFIXES",
    "MediaStore",
    "TaskMedia",
    "UnreadableMediaError",
    "frame_step",
    "image_size",
    "is_video",
    "job_frames",
    "video_shape",
]
