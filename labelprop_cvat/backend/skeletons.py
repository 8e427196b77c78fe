"""FiftyOne's keypoint skeletons as CVAT's skeleton labels."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from labelprop_cvat.backend.cvat import Label, LabelSpec
from labelprop_cvat.sequences import every_sample

logger = logging.getLogger(__name__)

#: Key of a field's description that holds its skeleton, as :meth:`Skeleton.to_dict` gives it.
SKELETON = "skeleton"

# CVAT puts the names into the drawing's attributes as they are.
_UNFIT = re.compile(r"""[<>&"'\x00-\x1f]""")
_LONGEST_NAME = 64

# Where CVAT's web page draws the points of a skeleton, percent of its picture, which is 100 wide and high.
_MIDDLE, _RADIUS = 50.0, 40.0


@dataclass(frozen=True)
class Skeleton:
    """Points with names, and what joins them.

    Args:
        nodes: the names, in the order of a label's points
        edges: pairs of 0-based positions in ``nodes``
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, skeleton: fo.KeypointSkeleton | None) -> Skeleton | None:
        """FiftyOne's skeleton; None where its points have no names, so that nobody could tell them apart."""
        if skeleton is None or not skeleton.labels:
            return None
        count = len(skeleton.labels)
        pairs = (pair for line in skeleton.edges or () for pair in pairwise(line))
        edges = dict.fromkeys((a, b) for a, b in pairs if a != b and 0 <= a < count and 0 <= b < count)
        return cls(tuple(map(str, skeleton.labels)), tuple(edges))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """A skeleton from what :meth:`to_dict` gave."""
        edges = tuple((int(first), int(second)) for first, second in values.get("edges") or ())
        return cls(tuple(map(str, values["labels"])), edges)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that a run's configuration can hold."""
        return {"labels": list(self.nodes), "edges": [list(edge) for edge in self.edges]}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the points in CVAT, which takes 64 characters, no quotes and no name twice."""
        names: list[str] = []
        for number, node in enumerate(self.nodes, start=1):
            name = _UNFIT.sub("_", node).strip()[:_LONGEST_NAME]
            if not name or name in names:
                suffix = f"_{number}"
                name = f"{name[: _LONGEST_NAME - len(suffix)]}{suffix}" if name else f"point{suffix}"
            names.append(name)
        return tuple(names)

    def joined_to(self, label: LabelSpec) -> LabelSpec:
        """The label of a class, made one of skeletons."""
        points = tuple(LabelSpec(name=name, type="points") for name in self.names)
        return replace(label, type="skeleton", sublabels=points, svg=self.svg())

    def is_of(self, label: Label) -> bool:
        """Whether a label of CVAT is one of skeletons with these points, in any order."""
        return label.type == "skeleton" and {sub.name for sub in label.sublabels} == set(self.names)

    def svg(self) -> str:
        """The drawing from which CVAT's web page makes new skeletons: the points on a circle, joined by the edges."""
        count = len(self.nodes)
        angles = [2 * math.pi * number / count - math.pi / 2 for number in range(count)]
        places = [
            (round(_MIDDLE + _RADIUS * math.cos(angle), 3), round(_MIDDLE + _RADIUS * math.sin(angle), 3))
            for angle in angles
        ]
        lines = [
            f'<line x1="{places[a][0]}" y1="{places[a][1]}" x2="{places[b][0]}" y2="{places[b][1]}" stroke="black" '
            f'data-type="edge" data-node-from="{a + 1}" stroke-width="0.5" data-node-to="{b + 1}"></line>'
            for a, b in self.edges
        ]
        circles = [
            f'<circle r="1.5" stroke="black" fill="#b3b3b3" cx="{x}" cy="{y}" stroke-width="0.1" '
            f'data-type="element node" data-element-id="{number}" data-node-id="{number}" '
            f'data-label-name="{name}"></circle>'
            for number, (name, (x, y)) in enumerate(zip(self.names, places, strict=True), start=1)
        ]
        return "".join([*lines, *circles])


def with_skeletons(
    label_schema: Mapping[str, Mapping[str, Any]], dataset: fo.Dataset, paths: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Writes the skeletons that a dataset has for its keypoint fields into a label schema.

    A skeleton with fewer points than labels of its field have can't hold them; such a field stays one of plain points.

    Args:
        label_schema: FiftyOne's
        dataset: the dataset
        paths: the keypoint fields, each with the path of its labels
    """
    described: dict[str, dict[str, Any]] = {}
    for field, info in label_schema.items():
        described[field] = dict(info)
        skeleton = _skeleton_of(dataset, field) if field in paths else None
        if skeleton is None:
            continue
        most = _most_points(dataset, paths[field])
        if most > len(skeleton.nodes):
            logger.warning(
                "Labels of %r have up to %d points, and the skeleton of the dataset has %d (%s); they go to CVAT as "
                "plain points. Give the field a skeleton of its own in dataset.skeletons[%r].",
                field,
                most,
                len(skeleton.nodes),
                ", ".join(skeleton.nodes),
                field,
            )
            continue
        described[field][SKELETON] = skeleton.to_dict()
    return described


def _skeleton_of(dataset: fo.Dataset, field: str) -> Skeleton | None:
    own, plain = dataset.skeletons or {}, field.removeprefix("frames.")
    return Skeleton.of(own.get(field) or own.get(plain) or dataset.default_skeleton)


def _most_points(dataset: fo.Dataset, path: str) -> int:
    if dataset.get_field(path) is None:
        return 0
    return int(every_sample(dataset).max(F(f"{path}.points").length()) or 0)


__all__ = ["SKELETON", "Skeleton", "with_skeletons"]
