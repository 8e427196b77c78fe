"""Datasets and views of any kind as sequences of frames, and their temporal segments."""

from labelprop_cvat.sequences._images import COLLECTION_KEY
from labelprop_cvat.sequences._making import sequence_at, sequences_of, sequences_with
from labelprop_cvat.sequences._segments import (
    check_fields,
    computed_segments,
    segments_of,
    write_scores,
    write_segments,
)
from labelprop_cvat.sequences._sequence import FrameRef, Sequence, TemporalSegment
from labelprop_cvat.sequences._views import (
    FRAMES_PREFIX,
    every_sample,
    members_of,
    normal_field,
    plain_view,
    view_values,
)

__all__ = [
    "COLLECTION_KEY",
    "FRAMES_PREFIX",
    "FrameRef",
    "Sequence",
    "TemporalSegment",
    "check_fields",
    "computed_segments",
    "every_sample",
    "members_of",
    "normal_field",
    "plain_view",
    "segments_of",
    "sequence_at",
    "sequences_of",
    "sequences_with",
    "view_values",
    "write_scores",
    "write_segments",
]
