"""FiftyOne's labels and CVAT's tags, shapes and tracks: from one to the other and back, losing nothing.

CVAT's points are pixels with the origin at the top-left corner of the image; a rectangle is ``[x1, y1, x2, y2]`` with
right and bottom exclusive. FiftyOne's coordinates are relative to the image. Sizes are ``(height, width)``.
"""

from labelprop_cvat.backend.shapes.drawn import (
    UNEXPECTED_TYPES,
    Drawings,
    DrawnKeyframe,
    DrawnObject,
    attribute_texts,
    digest,
    fingerprint,
    read_annotations,
    shape_name,
)
from labelprop_cvat.backend.shapes.geometry import drawn_mask, label_outlines
from labelprop_cvat.backend.shapes.semantic import paint_segmentation
from labelprop_cvat.backend.shapes.update import new_label, scalar_value, update_label
from labelprop_cvat.backend.shapes.write import (
    Origin,
    Placed,
    Written,
    class_of,
    is_of_class,
    is_of_type,
    is_sendable,
    write_annotations,
)

__all__ = [
    "UNEXPECTED_TYPES",
    "Drawings",
    "DrawnKeyframe",
    "DrawnObject",
    "Origin",
    "Placed",
    "Written",
    "attribute_texts",
    "class_of",
    "digest",
    "drawn_mask",
    "fingerprint",
    "is_of_class",
    "is_of_type",
    "is_sendable",
    "label_outlines",
    "new_label",
    "paint_segmentation",
    "read_annotations",
    "scalar_value",
    "shape_name",
    "update_label",
    "write_annotations",
]
