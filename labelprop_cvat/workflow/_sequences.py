"""Sequences and temporal segments as the verbs need them: checked, and with progress bars."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fiftyone as fo

from labelprop_cvat.errors import DataError
from labelprop_cvat.progress import late_bar
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import (
    COLLECTION_KEY,
    TemporalSegment,
    segments_of,
    sequences_of,
    sequences_with,
)
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)


def check_segments_field(samples: fo.core.collections.SampleCollection, segments_field: str | None) -> None:
    if segments_field is not None and samples._root_dataset.get_field(segments_field) is None:
        raise DataError(
            f"There is no field {segments_field!r} with temporal segments. Make it with workflow.segment(), or leave "
            f"segments_field out to have segments computed."
        )


def checked_sequences(
    samples: fo.core.collections.SampleCollection,
    sort_field: str | None,
    media_field: str,
    label_field: str | None = None,
    independent: bool = False,
    wanted: Callable[[FrameSequence], bool] | None = None,
) -> list[FrameSequence]:
    """The sequences of a collection, their media looked at; only those that are ``wanted``."""
    sequences = sequences_of(samples, sort_field=sort_field, media_field=media_field)
    if label_field is not None:
        sequences = sequences_with(sequences, label_field)
    if sort_field is None and not independent and len(sequences[0]) > 1 and sequences[0].key == COLLECTION_KEY:
        first, second = (Path(path).name for path in sequences[0].filepaths[:2])
        logger.warning(
            "No sort_field was given, so the %d images are taken in the order of the view: first %s, then %s. "
            "Pass sort_field where that is not their order in time.",
            len(sequences[0]),
            first,
            second,
        )
    if sort_field is not None and not independent and sequences[0].key == COLLECTION_KEY:
        _warn_of_several_clips(samples, sort_field)
    if wanted is not None:
        sequences = [sequence for sequence in sequences if wanted(sequence)]
    for sequence in sequences:
        with late_bar("frames checked") as progress:
            sequence.check(progress, uniform=not independent)
    return sequences


def _warn_of_several_clips(samples: fo.core.collections.SampleCollection, sort_field: str) -> None:
    """Frames that come with the same number are those of several clips more often than not."""
    values = samples.values(sort_field)
    shared = sum(count for count in Counter(values).values() if count > 1)
    if shared:
        logger.warning(
            "%d of the %d images have a %r that another one has, too, and all are taken for one sequence. If they are "
            "frames of several clips, pass a view that keeps these apart, such as group_by('clip', order_by=%r).",
            shared,
            len(values),
            sort_field,
            sort_field,
        )


def temporal_segments(
    sequence: FrameSequence,
    samples: fo.core.collections.SampleCollection,
    segments_field: str | None,
    method: str,
    within: Segment | None = None,
    **options: Any,
) -> list[TemporalSegment]:
    """The temporal segments of a sequence; where they are computed, those around ``within`` alone, if it is given."""
    with late_bar("frames searched for cuts", len(sequence) if within is None else None) as progress:
        return segments_of(sequence, samples, segments_field, method, within, progress=progress, **options)
