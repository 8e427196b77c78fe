"""Which frames of a temporal segment people annotate: first (:class:`ExemplarSpec`), next (:func:`next_frames`)."""

from __future__ import annotations

from labelprop_cvat.propagation.exemplars._active import Because, NextFrame, Reason, next_frames
from labelprop_cvat.propagation.exemplars._decay import DECAY, Decay
from labelprop_cvat.propagation.exemplars._quality import (
    BOX_MODEL,
    DEFAULT_MODEL,
    Evidence,
    QualityModel,
    predicted_j_of,
)
from labelprop_cvat.propagation.exemplars._spec import METHODS, ExemplarSpec, Selection, select_exemplars
from labelprop_cvat.propagation.exemplars._survey import Survey, survey

__all__ = [
    "BOX_MODEL",
    "DECAY",
    "DEFAULT_MODEL",
    "METHODS",
    "Because",
    "Decay",
    "Evidence",
    "ExemplarSpec",
    "NextFrame",
    "QualityModel",
    "Reason",
    "Selection",
    "Survey",
    "next_frames",
    "predicted_j_of",
    "select_exemplars",
    "survey",
]
