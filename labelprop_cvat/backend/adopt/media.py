"""Where the media of adopted tasks are on this machine; what is not there is downloaded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from fiftyone.core.storage import normalize_path

from labelprop_cvat.backend.adopt.tasks import FoundTask, base_name
from labelprop_cvat.backend.cvat import CVATClient
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.progress import progress_bar

logger = logging.getLogger(__name__)

DataPath = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]

#: Frames a second of videos that are put together from downloaded frames; CVAT does not tell the original's.
FRAME_RATE = 30.0

# What names of files had better not hold, here or on other systems.
_UNFIT = re.compile(r'[<>:"|?*\x00-\x1f\x7f\u0085\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_LONGEST = 180


class LocalMedia:
    """The files that ``data_path`` names, by what CVAT calls them.

    Args:
        tasks: the tasks
        data_path: a folder, a dict from CVAT's file names to paths, the path of a JSON file with such a dict, or None
        download: whether missing files will be downloaded

    Raises:
        ConfigurationError: there is nowhere to download to, or the JSON file is none
    """

    def __init__(self, tasks: Sequence[FoundTask], data_path: DataPath | None, download: bool) -> None:
        if download and data_path is None:
            raise ConfigurationError(
                "download_media=True needs data_path: the folder that the media go to, or a dict from CVAT's file "
                "names to paths."
            )
        self._named = _named_files(data_path)
        self._targets: dict[tuple[int, str], Path] = {}
        if data_path is not None and not isinstance(data_path, Mapping) and not _is_manifest(data_path):
            self._targets = _targets(tasks, Path(_absolute(data_path)))

    def find(self, found: FoundTask, frame: int) -> str | None:
        """The absolute path of a frame's file, there or not; None where ``data_path`` does not name it."""
        name = found.file_name(frame)
        target = self._targets.get((found.task.id, name))
        # A download of an earlier call comes first: it is this task's own, whatever else has the name.
        if target is not None and target.is_file():
            return str(target)
        return next((self._named[key] for key in (name, base_name(name)) if key in self._named), None)

    def target(self, found: FoundTask, frame: int) -> str | None:
        """The absolute path that a missing file of a frame would be downloaded to."""
        target = self._targets.get((found.task.id, found.file_name(frame)))
        return self.find(found, frame) or (None if target is None else str(target))


def _is_manifest(data_path: object) -> bool:
    return str(data_path).lower().endswith(".json")


def _named_files(data_path: DataPath | None) -> dict[str, str]:
    if data_path is None:
        return {}
    if isinstance(data_path, Mapping):
        return {str(name): _absolute(path) for name, path in data_path.items()}
    if _is_manifest(data_path):
        try:
            content = json.loads(Path(data_path).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"data_path={str(data_path)!r} cannot be read as JSON: {error}.") from error
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"data_path={str(data_path)!r} must hold an object from CVAT's file names to paths, it holds "
                f"{type(content).__name__}."
            )
        return {str(name): _absolute(path) for name, path in content.items()}
    folder = Path(_absolute(data_path))
    if not folder.is_dir():
        return {}
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = Counter(path.name for path in files)
    found = {path.name: str(path) for path in files if names[path.name] == 1}
    return {**found, **{path.relative_to(folder).as_posix(): str(path) for path in files}}


def _absolute(path: str | os.PathLike[str]) -> str:
    # As FiftyOne writes paths down: links are not followed.
    return str(normalize_path(os.fspath(path)))


# --- names of downloaded files ----------------------------------------------------------------------------------------


def _targets(tasks: Sequence[FoundTask], folder: Path) -> dict[tuple[int, str], Path]:
    """A file of its own inside the folder for every file of every task, the same ones on every call."""
    wanted = [(found, name) for found in tasks for name in dict.fromkeys(_names(found))]
    clash = max(Counter(_safe(name).lower() for _, name in wanted).values(), default=0) > 1
    targets: dict[tuple[int, str], Path] = {}
    taken: set[str] = set()
    for found, name in wanted:
        relative = PurePosixPath(_safe(name))
        if found.is_video:
            part = "" if found.is_whole else f"_{found.meta.start_frame}-{found.meta.stop_frame}x{found.step}"
            relative = relative.with_name(f"{relative.stem}{part}.mp4")
        if clash and len(tasks) > 1:
            relative = PurePosixPath(f"task_{found.task.id}") / relative
        if str(relative).lower() in taken:
            mark = hashlib.sha256(name.encode()).hexdigest()[:8]
            relative = relative.with_name(f"{relative.stem}_{mark}{relative.suffix}")
        taken.add(str(relative).lower())
        targets[found.task.id, name] = folder / relative
    return targets


def _names(found: FoundTask) -> Iterator[str]:
    frames = [0] if found.is_video else range(len(found.meta.frames))
    return (found.file_name(frame) for frame in frames)


def _safe(name: str) -> str:
    """A path below a folder, whatever CVAT calls the file."""
    parts = [_UNFIT.sub("_", part).strip() for part in name.replace("\\", "/").split("/")]
    kept = [_short(part) for part in parts if part not in ("", ".", "..")]
    return "/".join(kept) or "unnamed"


def _short(part: str) -> str:
    if len(part.encode()) <= _LONGEST:
        return part.lstrip(".") or "_"
    mark = hashlib.sha256(part.encode()).hexdigest()[:8]
    stem, dot, suffix = part.rpartition(".")
    suffix = f"{dot}{suffix}" if stem and len(suffix) <= 8 else ""
    return (stem or part).encode()[: _LONGEST - 20].decode(errors="ignore").lstrip(".") + f"_{mark}{suffix}"


# --- downloading ------------------------------------------------------------------------------------------------------


def download(
    client: CVATClient,
    missing: Iterable[tuple[FoundTask, int, str]],
    num_workers: int = 4,
    progress: bool | None = None,
) -> None:
    """Downloads files. Those that are there stay; a call that is repeated goes on where the last one stopped.

    Args:
        client: connection to the server
        missing: a frame of an image task, or any one of a video task, and the path of its file
        num_workers: files that are fetched at the same time
        progress: whether to show a progress bar; None asks FiftyOne's configuration

    Raises:
        DataError: what CVAT sent is no image
    """
    wanted = {path: (found, frame) for found, frame, path in missing if not Path(path).is_file()}
    if not wanted:
        return
    total = sum(found.task.size if found.is_video else 1 for found, _ in wanted.values())
    pool = ThreadPoolExecutor(max(1, num_workers))
    try:
        with progress_bar(total, progress=progress) as bar:
            images = [(path, *place) for path, place in wanted.items() if not place[0].is_video]
            for _ in pool.map(lambda item: _fetch(client, item[1], item[2], Path(item[0])), images):
                bar.update()
            for path, (found, _) in wanted.items():
                if found.is_video:
                    for _ in _fetch_video(client, found, Path(path), pool):
                        bar.update()
    finally:
        # What failed or was interrupted shall not wait for all that was still to come.
        pool.shutdown(cancel_futures=True)
    logger.info("Downloaded %d files with %d frames from CVAT.", len(wanted), total)


def _fetch(client: CVATClient, found: FoundTask, frame: int, target: Path) -> None:
    if target.is_file():
        return
    content = client.frame(found.task.id, frame, "original")
    partial = _partial(target)
    partial.write_bytes(content)
    if not cv2.haveImageReader(str(partial)):
        partial.unlink()
        raise DataError(
            f"CVAT sent {len(content)} bytes that are no image for frame {frame} of {found}. Delete the frame in CVAT, "
            f"or give its file with data_path."
        )
    partial.replace(target)


def _partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.stem}.part{target.suffix}")


def _fetch_video(client: CVATClient, found: FoundTask, target: Path, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Puts a video together from the task's frames; frames that were fetched before a kill are not fetched again."""
    folder = target.with_name(f".{target.name}.frames")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{frame:06d}.png" for frame in range(found.task.size)]
    for _ in pool.map(lambda frame: _fetch(client, found, frame, paths[frame]), range(found.task.size)):
        yield
    partial = _partial(target)
    writer = None
    try:
        for path in paths:
            picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                path.unlink()
                raise DataError(f"A downloaded frame of {found} cannot be decoded. Adopt again to fetch it anew.")
            if writer is None:
                size = picture.shape[1], picture.shape[0]
                writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), FRAME_RATE, size)
            writer.write(picture)
    finally:
        if writer is not None:
            writer.release()
    partial.replace(target)
    shutil.rmtree(folder)


__all__ = ["FRAME_RATE", "DataPath", "LocalMedia", "download"]
