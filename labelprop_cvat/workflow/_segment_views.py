"""Parts of sequences as views, to be looked at in the App."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fiftyone as fo
import fiftyone.core.media as fom

from labelprop_cvat.sequences import every_sample

if TYPE_CHECKING:
    from labelprop_cvat.workflow._overview import SequenceOverview


def stretch_view(
    samples: fo.core.collections.SampleCollection, sequence: SequenceOverview, start: int, stop: int
) -> fo.DatasetView:
    """The frames of a stretch of a sequence as a view of the dataset, in their order: images, or a clip of the video.

    Args:
        samples: the collection that the sequence is of
        sequence: the sequence
        start: first 0-based position
        stop: last position, exclusive
    """
    dataset = samples._root_dataset
    frames = sequence.frames[start:stop]
    if sequence.media_type != fom.VIDEO:
        ids = [ref.sample_id for ref in frames]
        return every_sample(dataset, fom.IMAGE).select(ids, ordered=True)
    numbers = [ref.frame_number or 1 for ref in frames]
    video = every_sample(dataset, fom.VIDEO).select(frames[0].sample_id)
    return video.to_clips([[(numbers[0], numbers[-1])]])


__all__ = ["stretch_view"]
