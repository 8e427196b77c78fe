"""Temporal segmentation: where one shot ends and the next begins.

A *detector* looks at one frame at a time and says in numbers how new it is; the *manager*, :func:`score_frames`, reads
the frames, reports progress, keeps every number for tuning and turns cuts into segments.

Methods, as users write them:

``auto``
    the method that did best on shots with known cuts: ``heuristic``
``heuristic``
    sharp changes of RGB means, deviations and histograms against what the neighbouring frames do, and dissolves and
    fades (:class:`ColourDetector`)
``adaptive``, ``content``, ``histogram``, ``hash``
    PySceneDetect's detectors (package ``scenedetect-headless``), and its fades through black:
    :class:`AdaptiveContentDetector`, :class:`ContentDetector`, :class:`HistogramDetector`, :class:`HashDetector`
``fixed:n``
    a segment every ``n`` frames, the last one may be shorter
``none``
    the whole sequence is one segment
"""

from labelprop_cvat.propagation.segments._colour import ColourDetector
from labelprop_cvat.propagation.segments._detector import SegmentDetector
from labelprop_cvat.propagation.segments._manager import (
    DEFAULT_METHOD,
    MEASURING,
    METHODS,
    Segmentation,
    find_segments,
    measures,
    score_frames,
)
from labelprop_cvat.propagation.segments._plot import PLOT_SUFFIXES, plot_segmentation
from labelprop_cvat.propagation.segments._scenedetect import (
    AdaptiveContentDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
)

__all__ = [
    "DEFAULT_METHOD",
    "MEASURING",
    "METHODS",
    "PLOT_SUFFIXES",
    "AdaptiveContentDetector",
    "ColourDetector",
    "ContentDetector",
    "HashDetector",
    "HistogramDetector",
    "SegmentDetector",
    "Segmentation",
    "find_segments",
    "measures",
    "plot_segmentation",
    "score_frames",
]
