"""Image collections, dynamic groups and videos as sequences of frames, and their temporal segments."""

from labelprop_cvat.sequences._views import (
    COLLECTION_KEY,
    FrameRef,
    Sequence,
    TemporalSegment,
    members_of,
    segments_of,
    sequences_of,
    write_segments,
)

__all__ = [
    "COLLECTION_KEY",
    "FrameRef",
    "Sequence",
    "TemporalSegment",
    "members_of",
    "segments_of",
    "sequences_of",
    "write_segments",
]
