"""Small fields with labels of known overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from labelprop_cvat.labels import box_to_detection, mask_to_detection
from labelprop_cvat.propagation.types import ObjectMask

SIZE = (72, 128)

Square = tuple[int, int]
"""Column and row of the top left pixel of a square of 20 pixels."""

Frames = Sequence[Mapping[int, Square] | None]
"""Per frame the objects by index; None where the field is not set."""


def masked(index: int | None, at: Square, **values: Any) -> fo.Detection:
    """A square as an instance."""
    box, crop = mask_to_detection(ObjectMask(*at, np.ones((20, 20), bool)), SIZE)
    return fo.Detection(**{"label": "thing", "bounding_box": box, "mask": crop, "index": index, **values})


def boxed(index: int | None, at: Square, **values: Any) -> fo.Detection:
    """A square as a box."""
    box = box_to_detection((float(at[0]), float(at[1]), at[0] + 20.0, at[1] + 20.0), SIZE)
    return fo.Detection(**{"label": "thing", "bounding_box": box, "index": index, **values})


def outlined(index: int | None, at: Square, **values: Any) -> fo.Polyline:
    """A square as a closed outline."""
    (x, y), (height, width) = at, SIZE
    corners = [(x, y), (x + 20, y), (x + 20, y + 20), (x, y + 20)]
    ring = [(a / width, b / height) for a, b in corners]
    return fo.Polyline(**{"label": "thing", "points": [ring], "closed": True, "filled": True, "index": index, **values})


def labels(objects: Mapping[int, Square] | None, make: Callable[..., fo.Label] = masked, **values: Any) -> Any:
    """A field's value."""
    if objects is None:
        return None
    made = [make(index, at, **values) for index, at in objects.items()]
    return fo.Polylines(polylines=made) if make is outlined else fo.Detections(detections=made)


def fill(
    dataset: fo.Dataset,
    field: str,
    frames: Frames,
    make: Callable[..., fo.Label] = masked,
    *,
    keyframes: Sequence[int] = (),
    confidence: float | None = None,
) -> None:
    """Sets a field on the frames of a dataset's images, in the order of ``number``, or of its one video."""
    values = []
    for number, objects in enumerate(frames):
        said = {"keyframe": True, "source": "manual"} if number in keyframes else {"source": "propagated"}
        values.append(labels(objects, make, confidence=confidence, **said))
    if dataset.media_type == "video":
        sample = dataset.first()
        for number, value in enumerate(values, start=1):
            if value is not None:
                if number not in sample.frames:
                    sample.frames[number] = fo.Frame()
                sample.frames[number][field] = value
        sample.save()
        return
    kind = fo.Polylines if make is outlined else fo.Detections
    if dataset.get_field(field) is None:
        dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=kind)
    dataset.sort_by("number").set_values(field, values, dynamic=True)
