"""How good predicted labels are, judged by true ones: numbers, JSON, a report, and fields to filter by in the App.

:func:`labelprop_cvat.workflow.evaluate` makes an :class:`Evaluation`.
"""

from labelprop_cvat.evaluation.results import SCHEMA, SCHEMA_VERSION, Evaluation
from labelprop_cvat.evaluation.scores import (
    Curve,
    CurvePoint,
    DistanceRow,
    ObjectFrames,
    ObjectResult,
    Sample,
    Scores,
    SegmentResult,
    SequenceResult,
)

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Curve",
    "CurvePoint",
    "DistanceRow",
    "Evaluation",
    "ObjectFrames",
    "ObjectResult",
    "Sample",
    "Scores",
    "SegmentResult",
    "SequenceResult",
]
