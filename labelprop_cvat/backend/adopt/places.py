"""Which frames of a dataset the frames of CVAT's tasks are."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fiftyone as fo

from labelprop_cvat.backend.adopt.media import LocalMedia
from labelprop_cvat.backend.adopt.tasks import FoundTask, base_name
from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import VideoSource
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import every_sample

logger = logging.getLogger(__name__)

#: Where a frame is: key of its sequence, position in it.
Place = tuple[str, int]

# FiftyOne's own CVAT backend and this one put a number before names that would not be unique, or not in order.
_NUMBERED = re.compile(r"^\d{6}_(?=.)")


def match_names(names: Iterable[tuple[FoundTask, str]], paths: Iterable[str]) -> dict[tuple[int, str], str]:
    """Finds files by what CVAT calls them.

    A file has the name if its own is the same; among several of that name, those whose folders are the same too. Names
    that nobody has are looked for without the number that FiftyOne's upload puts before them.

    Args:
        names: tasks and names
        paths: files

    Returns:
        path by (task id, name); names that no file has are left out

    Raises:
        DataError: several files have one name
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        by_name[Path(path).name].append(path)
    matched: dict[tuple[int, str], str] = {}
    for found, name in names:
        plain = base_name(name)
        fitting = by_name.get(plain) or by_name.get(_NUMBERED.sub("", plain)) or []
        if len(fitting) > 1:
            wanted = "/" + name.replace("\\", "/").lstrip("/")
            fitting = [path for path in fitting if path.replace(os.sep, "/").endswith(wanted)] or fitting
        if len(fitting) > 1:
            raise DataError(
                f"{len(fitting)} samples have a file called {plain!r}, as one of {found} has in CVAT: "
                f"first {fitting[0]} and {fitting[1]}. Say which one is meant with "
                f"data_path={{{name!r}: <path>, ...}}, or take a view."
            )
        if fitting:
            matched[found.task.id, name] = fitting[0]
    return matched


@dataclass
class Media:
    """The files of all tasks.

    Attributes:
        paths: path by (task id, name in CVAT)
        missing: files to download: task, a frame of it, path
        unknown: names of files that nobody has, by task
    """

    paths: dict[tuple[int, str], str] = field(default_factory=dict)
    missing: list[tuple[FoundTask, int, str]] = field(default_factory=list)
    unknown: dict[int, list[str]] = field(default_factory=dict)


def locate_media(tasks: Sequence[FoundTask], local: LocalMedia, known: Sequence[str], download: bool) -> Media:
    """Finds the file of every frame.

    Args:
        tasks: the tasks
        local: what ``data_path`` names
        known: paths of the samples that are there
        download: whether what is nowhere to be found may be downloaded

    Raises:
        DataError: several samples have one name
    """
    media = Media()
    wanted = [(found, frame) for found in tasks for frame in ([0] if found.is_video else found.frames())]
    unnamed: list[tuple[FoundTask, int]] = []
    for found, frame in wanted:
        path = local.find(found, frame)
        if path is not None and (Path(path).is_file() or download):
            media.paths[found.task.id, found.file_name(frame)] = path
        else:
            unnamed.append((found, frame))
    media.paths.update(match_names([(found, found.file_name(frame)) for found, frame in unnamed], known))
    for found, frame in wanted:
        name = found.file_name(frame)
        path = media.paths.get((found.task.id, name))
        target = local.target(found, frame) if path is None and download else path
        if target is None:
            media.unknown.setdefault(found.task.id, []).append(name)
            continue
        media.paths[found.task.id, name] = target
        if download and not Path(target).is_file():
            media.missing.append((found, frame, target))
    return media


def add_samples(
    samples: fo.core.collections.SampleCollection,
    tasks: Sequence[FoundTask],
    media: Media,
    known: Sequence[str],
    media_field: str,
) -> fo.core.collections.SampleCollection:
    """Adds samples for files that the dataset does not have yet.

    Args:
        samples: the collection
        tasks: the tasks
        media: the files of their frames
        known: files of the collection
        media_field: the field that these are in

    Returns:
        the collection with the new samples

    Raises:
        DataError: the dataset holds another kind of media, or the view is of a kind that shows no new samples
    """
    dataset = samples._root_dataset
    there = {*every_sample(dataset).values("filepath"), *known}
    new = {
        path: found.is_video
        for found in tasks
        for (task_id, _), path in media.paths.items()
        if task_id == found.task.id and path not in there and Path(path).is_file()
    }
    if not new:
        return samples
    if media_field != "filepath" or dataset.media_type == "group" or samples._is_generated:
        raise DataError(
            f"{len(new)} files of the tasks are no samples yet (first {next(iter(new))}), and they cannot be added to "
            f"groups, clips, frames or patches, nor with media_field={media_field!r}. Add them to the dataset, or "
            f"leave them out with insert_new=False."
        )
    kinds = {"video" if is_video else "image" for is_video in new.values()}
    if len(kinds | ({dataset.media_type} - {None})) > 1:
        raise DataError(
            f"The tasks hold {' and '.join(sorted(kinds))}s, and {dataset.name!r} holds "
            f"{dataset.media_type or 'neither yet'}s: a dataset has one kind. Adopt them into datasets of their own."
        )
    ids = dataset.add_samples([fo.Sample(filepath=path) for path in new], progress=False)
    logger.info("Added %d samples to %s for media of the adopted tasks.", len(ids), dataset.name)
    if isinstance(samples, fo.Dataset) or set(ids) <= set(samples.values("id")):
        return samples
    return dataset.select([*samples.values("id"), *ids], ordered=True)


class Places:
    """Finds the frames of tasks in sequences.

    Args:
        sequences: the sequences of the collection
    """

    def __init__(self, sequences: Sequence[FrameSequence]) -> None:
        self._images: dict[str, Place] = {}
        self._videos: dict[str, FrameSequence] = {}
        for sequence in sequences:
            if sequence.media_type == "video" and sequence.frame_paths is None:
                self._videos[sequence.filepaths[0]] = sequence
                continue
            paths = sequence.filepaths if sequence.frame_paths is None else sequence.frame_paths
            self._images.update({path: (sequence.key, position) for position, path in enumerate(paths)})
        self._sequences = {sequence.key: sequence for sequence in sequences}

    def of(self, found: FoundTask, paths: Mapping[tuple[int, str], str]) -> dict[int, Place]:
        """Where the frames of a task are; frames that are nowhere are left out.

        Pictures that are of another size here than in CVAT are left out too, with a warning: what people drew would
        lie elsewhere on them.
        """
        places = self._video_places(found, paths) if found.is_video else self._image_places(found, paths)
        resized = [frame for frame, place in places.items() if self._size(place) != _size_in_cvat(found, frame)]
        if resized:
            frame = resized[0]
            (height, width), (own_height, own_width) = _size_in_cvat(found, frame), self._size(places[frame])
            logger.warning(
                "%d frames of %s are of another size here, so they are left out: the first, %s, is %dx%d in CVAT and "
                "%dx%d here.",
                len(resized),
                found,
                found.file_name(frame),
                width,
                height,
                own_width,
                own_height,
            )
        return {frame: place for frame, place in places.items() if frame not in set(resized)}

    def _image_places(self, found: FoundTask, paths: Mapping[tuple[int, str], str]) -> dict[int, Place]:
        located = {frame: paths.get((found.task.id, found.file_name(frame)), "") for frame in found.frames()}
        return {frame: self._images[path] for frame, path in located.items() if path in self._images}

    def _video_places(self, found: FoundTask, paths: Mapping[tuple[int, str], str]) -> dict[int, Place]:
        sequence = self._videos.get(paths.get((found.task.id, found.file_name()), ""))
        if sequence is None:
            return {}
        by_number = {int(ref.frame_number or 0): position for position, ref in enumerate(sequence.frames)}
        # A file of exactly the task's frames is what was downloaded; the original has those that the task skips, too.
        is_cut = not found.is_whole and len(VideoSource(sequence.filepaths[0])) == found.task.size
        numbers = {frame: frame + 1 if is_cut else found.number_in_video(frame) for frame in found.frames()}
        return {frame: (sequence.key, by_number[number]) for frame, number in numbers.items() if number in by_number}

    def _size(self, place: Place) -> tuple[int, int]:
        sequence = self._sequences[place[0]]
        if sequence.media_type == "video":
            return sequence.size
        return sequence.frame_sizes[place[1]]


def _size_in_cvat(found: FoundTask, frame: int) -> tuple[int, int]:
    entry = found.meta.frames[0 if found.is_video else frame]
    return entry.height, entry.width


__all__ = ["Media", "Place", "Places", "add_samples", "locate_media", "match_names"]
