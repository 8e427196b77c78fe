"""What a sequence and its temporal segments are."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import cached_property

import fiftyone.core.media as fom

from labelprop_cvat.errors import DataError
from labelprop_cvat.propagation.frames import FrameSource, ImageSequenceSource, Progress, SubsetSource, VideoSource
from labelprop_cvat.propagation.types import Segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameRef:
    """Where FiftyOne keeps one frame.

    Args:
        sample_id: the image's or the video's sample
        frame_number: FiftyOne's 1-based number inside the video, None for images
    """

    sample_id: str
    frame_number: int | None = None


@dataclass(frozen=True)
class TemporalSegment:
    """A temporal segment with its name and what is known of its frames as exemplars.

    Args:
        segment: 0-based positions in the sequence, half-open
        label: the segment's identifier
        exemplar_scores: one per frame of the segment; None where there is none

    Raises:
        DataError: the number of scores is not the number of frames
    """

    segment: Segment
    label: str
    exemplar_scores: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.exemplar_scores:
            object.__setattr__(self, "exemplar_scores", (None,) * len(self.segment))
        if len(self.exemplar_scores) != len(self.segment):
            raise DataError(
                f"The segment {self.label!r} has {len(self.segment)} frames and {len(self.exemplar_scores)} scores."
            )


class Sequence:
    """The ordered frames of one video, one group or one image collection.

    Frames are addressed by their 0-based position in ``frames``; ``source[position]`` is the picture of
    ``frames[position]``. Nothing is decoded before it is asked for: the number of frames of a whole video is found by
    decoding it once, whatever its metadata says.

    Made by :func:`~labelprop_cvat.sequences.sequences_of`, and again by :func:`~labelprop_cvat.sequences.sequence_at`.
    """

    def __init__(
        self,
        *,
        key: str,
        name: str,
        media_type: str,
        paths: Items[str],
        refs: Items[FrameRef] | None,
        video_sample_id: str | None = None,
        expected_frames: int | None = None,
        frame_paths: Items[str] | None = None,
        given_segments: Items[TemporalSegment] = (),
        uniform: bool = True,
    ) -> None:
        self.key = key
        """The same in every session: a video's sample id, a group's value, a slice's name, or ``"collection"``."""
        self.name = name
        """For people."""
        self.media_type = media_type
        """``"image"`` or ``"video"``."""
        self.filepaths = tuple(paths)
        """The images in order, or the one video file."""
        self.frame_paths = None if frame_paths is None else tuple(frame_paths)
        """Where a video's pictures come from image files: one per frame, in order. None otherwise."""
        self.given_segments = tuple(given_segments)
        """The temporal segments that the view itself names, as clips do; empty where it names none."""
        self._given = None if refs is None else tuple(refs)
        self._video_sample_id = video_sample_id
        self._expected_frames = expected_frames
        self._uniform = uniform

    def __repr__(self) -> str:
        return f"Sequence(key={self.key!r}, name={self.name!r}, media_type={self.media_type!r})"

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def frames(self) -> tuple[FrameRef, ...]:
        """Where FiftyOne keeps each frame, in order.

        Raises:
            DataError: the video cannot be read
        """
        if self._given is not None:
            return self._given
        count = len(self._video)
        if self._expected_frames is not None and self._expected_frames != count:
            logger.warning(
                "The metadata of %s counts %d frames, %d decode. The decoded frames count.",
                self.filepaths[0],
                self._expected_frames,
                count,
            )
        return tuple(FrameRef(str(self._video_sample_id), number) for number in range(1, count + 1))

    @cached_property
    def source(self) -> FrameSource:
        """The pictures; ``len(source) == len(frames)``.

        Raises:
            DataError: a frame number of a filtered view is not in the video, or the video cannot be read
        """
        if self.media_type == fom.IMAGE:
            return ImageSequenceSource(self.filepaths, uniform=self._uniform)
        if self.frame_paths is not None:
            return ImageSequenceSource(self.frame_paths)
        if self._given is None:
            return self._video
        numbers = [ref.frame_number or 0 for ref in self._given]
        count = len(self._video)
        outside = [number for number in numbers if not 1 <= number <= count]
        if outside:
            raise DataError(
                f"The view holds frame {outside[0]} of {self.filepaths[0]}, which has frames 1 to {count}. "
                f"Delete the labels of frames that the video does not have, or leave them out of the view."
            )
        return SubsetSource(self._video, [number - 1 for number in numbers])

    @property
    def is_indexed(self) -> bool:
        """Whether ``frames`` costs nothing: they were given, or a video was decoded for them already."""
        return self._given is not None or "frames" in self.__dict__

    @property
    def expected_frames(self) -> int | None:
        """How many frames the metadata of a whole video counts, which may be wrong; None where they do not say."""
        return self._expected_frames

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of every frame, pixels; of the first one where the frames differ in size."""
        return self.source.size

    @property
    def frame_sizes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of each frame, pixels. Reads the headers of images, once.

        Raises:
            DataError: a file is missing or broken, or sizes differ and were not allowed to
        """
        if isinstance(self.source, ImageSequenceSource):
            return self.source.sizes
        return (self.size,) * len(self)

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples that the sequence is made of, in order: one per image, or the video's."""
        if self._video_sample_id is not None:
            return (self._video_sample_id,)
        return tuple(ref.sample_id for ref in self.frames)

    def position(self, ref: FrameRef) -> int:
        """The 0-based position of a frame.

        Raises:
            DataError: it is no frame of this sequence
        """
        try:
            return self._positions[ref]
        except KeyError:
            raise DataError(f"{ref} is no frame of the sequence {self.name!r} with {len(self)} frames.") from None

    def holds(self, ref: FrameRef) -> bool:
        """Whether a frame is one of this sequence."""
        return ref in self._positions

    def check(self, progress: Progress | None = None, *, uniform: bool | None = None) -> None:
        """Reads the header of every image, or indexes the video: to be called before any work is begun.

        Args:
            progress: called with the number of frames seen so far; not at all for a video indexed before
            uniform: whether images must all be of one size; None means as before, which is yes unless something else
                was said. Where they need not, ``source`` serves them as they are from now on: they are pictures of
                their own, and nothing moves from one to the next

        Raises:
            DataError: a file is missing or broken, or frame sizes change; the message names the files
        """
        if uniform is not None and uniform is not self._uniform:
            self._uniform = uniform
            self.__dict__.pop("source", None)
        if self.media_type == fom.VIDEO and self.frame_paths is None:
            # The index is shared by all sources of the file, so that this one leaves it for the others.
            len(VideoSource(self.filepaths[0], progress=progress))
        source = self.source
        if isinstance(source, ImageSequenceSource):
            source.check(progress)
        elif len(source) != len(self.frames):
            raise DataError(f"{self.filepaths[0]} has {len(source)} frames, the sequence {len(self.frames)}.")

    @cached_property
    def _positions(self) -> dict[FrameRef, int]:
        return {ref: position for position, ref in enumerate(self.frames)}

    @cached_property
    def _video(self) -> VideoSource:
        return VideoSource(self.filepaths[0])


__all__ = ["FrameRef", "Sequence", "TemporalSegment"]
