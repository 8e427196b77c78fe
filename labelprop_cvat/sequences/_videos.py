"""Sequences of videos, of their clips and of their frames."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
from fiftyone.core.collections import SampleCollection as Collection

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences._sequence import FrameRef, Sequence, TemporalSegment
from labelprop_cvat.sequences._views import FRAME_STAGES, FRAMES_PREFIX, check_field, checked_path, every_sample

logger = logging.getLogger(__name__)


@dataclass
class Video:
    """One video and the frames of it that a sequence is made of: all where ``numbers`` is None."""

    sample_id: str
    path: str
    numbers: list[int] | None
    frame_paths: list[str] | None = None
    expected_frames: int | None = None

    def sequence(self, **facts: Any) -> Sequence:
        """The sequence of these frames; ``facts`` are further arguments of it, or other ones."""
        return Sequence(
            **{"key": self.sample_id, "name": Path(self.path).stem, **facts},
            media_type=fom.VIDEO,
            paths=[self.path],
            refs=None if self.numbers is None else [FrameRef(self.sample_id, number) for number in self.numbers],
            video_sample_id=self.sample_id,
            expected_frames=self.expected_frames,
            frame_paths=self.frame_paths,
        )


def find_videos(dataset: fo.Dataset, wanted: Mapping[str, list[int] | None], media_field: str) -> list[Video]:
    """Finds where the pictures of videos are: in the video's file, else in image files of its frames."""
    view = every_sample(dataset, fom.VIDEO)
    image_field, path_field, only_images = _media_fields(view, media_field)
    view = view.select(list(wanted))
    facts = {"id": "id", "path": path_field}
    if view.get_field("metadata.total_frame_count") is not None:
        facts["count"] = "metadata.total_frame_count"
    read = dict(zip(facts, view.values(list(facts.values())), strict=True))
    rows = {
        sample_id: (path, count)
        for sample_id, path, count in zip(read["id"], read["path"], read.get("count", [None] * len(view)), strict=True)
    }
    gone = [sample_id for sample_id in wanted if sample_id not in rows]
    if gone:
        raise DataError(
            f"{len(gone)} videos are no longer in {dataset.name!r}, first {gone[0]}. Make the sequences again."
        )
    videos = []
    for sample_id, numbers in wanted.items():
        path, count = rows[sample_id]
        video = Video(
            sample_id,
            checked_path(path, sample_id, path_field),
            numbers,
            expected_frames=count if isinstance(count, int) else None,
        )
        if image_field is not None and (only_images or not Path(video.path).is_file()):
            _use_frame_images(video, view, image_field, required=only_images)
        videos.append(video)
    return videos


def _media_fields(view: Collection, media_field: str) -> tuple[str | None, str, bool]:
    """The frames' field with image files, the samples' with video files, and whether only the former was asked for."""
    frame_field = FRAMES_PREFIX + media_field.removeprefix(FRAMES_PREFIX)
    there = view.get_field(frame_field) is not None
    if media_field == frame_field or view.get_field(media_field) is None:
        if not there:
            check_field(view, media_field)
        return frame_field, "filepath", True
    return frame_field if there else None, media_field, False


def _use_frame_images(video: Video, view: Collection, image_field: str, *, required: bool) -> None:
    found = view.select(video.sample_id).values([f"{FRAMES_PREFIX}frame_number", image_field])
    paths = {number: path for number, path in zip(found[0][0] or (), found[1][0] or (), strict=True) if path}
    numbers = sorted(paths) if video.numbers is None else video.numbers
    lacking = [number for number in numbers if number not in paths]
    if numbers and not lacking:
        video.numbers = numbers
        video.frame_paths = [paths[number] for number in numbers]
    elif required:
        raise DataError(
            f"{len(lacking) or 'All'} frames of {video.path} have no file in the field {image_field!r}"
            + (f", first frame {lacking[0]}" if lacking else "")
            + ". Fill it, or leave those frames out of the view."
        )


def video_sequences(samples: Collection, media_field: str, slice_name: str | None = None) -> list[Sequence]:
    """One sequence per video of a flat view, with all its frames or those that the view's stages left."""
    filtered = any(isinstance(stage, FRAME_STAGES) for stage in getattr(samples, "_stages", ()))
    ids = samples.values("id")
    wanted: dict[str, list[int] | None] = dict.fromkeys(ids)
    if filtered:
        shown = zip(ids, samples.values(f"{FRAMES_PREFIX}frame_number"), strict=True)
        wanted = {sample_id: sorted(numbers) for sample_id, numbers in shown if numbers}
    if not wanted:
        raise DataError(f"There is no frame in this view of {samples._dataset.name!r}. Widen the view.")
    videos = find_videos(samples._root_dataset, wanted, media_field)
    if slice_name is None:
        return [video.sequence() for video in videos]
    return [video.sequence(name=f"{slice_name}/{Path(video.path).stem}") for video in videos]


def frames_sequences(samples: Collection, media_field: str) -> list[Sequence]:
    """One sequence per video of a frames view, with the frames that the view has."""
    shown: dict[str, set[int]] = defaultdict(set)
    for sample_id, number in zip(*samples.values(["sample_id", "frame_number"]), strict=True):
        shown[sample_id].add(number)
    wanted: dict[str, list[int] | None] = {sample_id: sorted(numbers) for sample_id, numbers in shown.items()}
    return [video.sequence() for video in find_videos(samples._root_dataset, wanted, media_field)]


@dataclass
class _Clip:
    """A run of frames of one video: 1-based numbers, both inclusive."""

    first: int
    last: int
    label: str
    scores: dict[int, float]


def clips_sequences(samples: Collection, media_field: str) -> list[Sequence]:
    """One sequence per video of a clips view, with the frames of its clips, each a temporal segment."""
    clips: dict[str, list[_Clip]] = defaultdict(list)
    shown: dict[str, set[int]] = defaultdict(set)
    fields = {"sample_id": "sample_id", "support": "support"}
    if samples._classification_field:
        fields["label"] = samples._classification_field
    if any(isinstance(stage, FRAME_STAGES) for stage in samples._stages):
        fields["numbers"] = f"{FRAMES_PREFIX}frame_number"
    for values in zip(*samples.values(list(fields.values())), strict=True):
        row = dict(zip(fields, values, strict=True))
        first, last = row["support"]
        label, sample_id = row.get("label"), row["sample_id"]
        # Without such a stage, clips hold frames of which nothing is stored, too.
        shown[sample_id].update(row["numbers"] or () if "numbers" in row else range(first, last + 1))
        clips[sample_id].append(_Clip(first, last, "" if label is None else str(label.label), _clip_scores(label)))
    wanted: dict[str, list[int] | None] = {key: sorted(numbers) for key, numbers in shown.items() if numbers}
    if not wanted:
        raise DataError(f"There is no frame in these clips of {samples._root_dataset.name!r}. Widen the view.")
    return [
        video.sequence(given_segments=_clip_segments(clips[video.sample_id], video))
        for video in find_videos(samples._root_dataset, wanted, media_field)
    ]


def _clip_scores(label: Any) -> dict[int, float]:
    if label is None:
        return {}
    frames = label.get_attribute_value("exemplar_frames", None) or ()
    scores = label.get_attribute_value("exemplar_scores", None) or ()
    return {int(frame): float(score) for frame, score in zip(frames, scores, strict=False)}


def _clip_segments(clips: list[_Clip], video: Video) -> list[TemporalSegment]:
    ordered = sorted(clips, key=lambda clip: (clip.first, clip.last))
    merged = [ordered[0]]
    for clip in ordered[1:]:
        last = merged[-1]
        if clip.first > last.last:
            merged.append(clip)
            continue
        label = last.label if clip.label in (last.label, "") else "+".join(filter(None, (last.label, clip.label)))
        merged[-1] = _Clip(last.first, max(last.last, clip.last), label, {**last.scores, **clip.scores})
    if len(merged) < len(ordered):
        logger.warning(
            "%d clips of %s overlap others; those that do are one temporal segment, since a frame belongs to one.",
            len(ordered) - len(merged),
            Path(video.path).name,
        )
    numbers = video.numbers or []
    segments = []
    for place, clip in enumerate(merged, start=1):
        inside = [position for position, number in enumerate(numbers) if clip.first <= number <= clip.last]
        if inside:
            scores = tuple(clip.scores.get(numbers[position]) for position in inside)
            span = Segment(inside[0], inside[-1] + 1)
            segments.append(TemporalSegment(span, clip.label or f"clip_{place:03}", scores))
    names = Counter(segment.label for segment in segments)
    return [
        TemporalSegment(s.segment, s.label if names[s.label] == 1 else f"{s.label}_{place:03}", s.exemplar_scores)
        for place, s in enumerate(segments, start=1)
    ]


__all__ = ["Video", "clips_sequences", "find_videos", "frames_sequences", "video_sequences"]
