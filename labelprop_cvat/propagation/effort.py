"""What annotation costs a person: counted actions, and a model that turns them into minutes.

The published numbers of the model are those of the papers that measured or assumed them; every one can be changed:

- EVA-VOS (Delatolas et al., WACV 2024): 80 s for a mask, 7 s for a box, 1.5 s for a corrective click and 1 s of
  overhead for each correction, 3 s for the answer that an object is not there
- SAM 2 (Ravi et al., 2024), appendix: 30 s to look through a video of 300 frames, 1 s to locate an object in a frame,
  1.5 s for a click

Neither gives polygons, edits of a shape that is there already, deletions and attributes; these are derived, as
:class:`EffortModel` says. Times are those of one practised person who does nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.types import PromptKind


@dataclass(frozen=True)
class Actions:
    """What a person did.

    Args:
        masks: masks drawn where there was none
        boxes: boxes drawn
        polygons: polygons and polylines drawn; their corners are counted in ``points``
        points: corners of the drawn polygons, single points, nodes of drawn skeletons
        edited: shapes changed that were there
        redrawn: how much of the edited masks was drawn anew, as a number of masks; not whole: a mask that agrees with
            what became of it by an IoU of 0.9 adds 0.1
        clicks: corrective clicks, and edges and corners dragged
        deleted: shapes taken away
        absent: answers that an object is not there
        attributes: shapes that got another label or attribute
        examined: frames looked at
        located: objects looked for among what is there already, before they were edited, deleted or declared absent

    Raises:
        DataError: a number is negative or not finite, or a count is not whole
    """

    masks: int = 0
    boxes: int = 0
    polygons: int = 0
    points: int = 0
    edited: int = 0
    redrawn: float = 0.0
    clicks: int = 0
    deleted: int = 0
    absent: int = 0
    attributes: int = 0
    examined: int = 0
    located: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name != "redrawn"
            if not math.isfinite(value) or value < 0 or (whole and int(value) != value):
                kind = "whole number" if whole else "finite number"
                raise DataError(f"Actions.{name} needs a {kind} of 0 or more, got {value!r}.")
            object.__setattr__(self, name, int(value) if whole else float(value))

    def __add__(self, other: Actions) -> Actions:
        return Actions(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def at_least(self, other: Actions) -> Actions:
        """The larger of both counts of each action: of two looks at the same work."""
        return Actions(**{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})

    def __bool__(self) -> bool:
        return any(vars(self).values())

    @property
    def drawn(self) -> int:
        """Shapes drawn where there was none."""
        return self.masks + self.boxes + self.polygons

    def to_dict(self) -> dict[str, int | float]:
        """The counts as JSON values, by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Actions:
        """The counts from what :meth:`to_dict` gave; counts that later versions added are left out.

        Raises:
            DataError: a value is no count
        """
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise DataError(f"Counts of actions are numbers by name, got {dict(values)!r}.") from error


@dataclass(frozen=True)
class EffortModel:
    """Seconds that a person needs for each action.

    Args:
        mask: to draw a mask with brush and polygon tools (EVA-VOS)
        box: to draw a box (EVA-VOS)
        click: for a corrective click (EVA-VOS, SAM 2), and for dragging an edge or corner
        correction: overhead of each shape that is corrected (EVA-VOS)
        no_object: to say that an object is not there (EVA-VOS)
        examine: to look at one frame in passing: 30 s for 300 frames (SAM 2)
        locate: to find an object in a frame before something is done to it (SAM 2)
        polygon: to draw a polygon, without its corners. Derived: what a box costs, as both begin with finding out how
            far the object reaches. With ``point``, a polygon of 49 corners costs what a mask does
        point: for each point of a polygon, polyline or skeleton. Derived: a click
        delete: to delete a shape. Derived: a click
        attribute: to choose another label or attribute. Derived: picking from a list, as for ``no_object``
        polygon_points: corners that a polygon is expected to have, for planning. Assumed
        edit_clicks: clicks that an edited box, polygon or set of points is expected to take, for planning and where
            nobody counted. Derived: SAM 2 reports 2.68 clicks for each frame that was clicked on
        edit_share: the part of an edited mask that is expected to be drawn anew, for planning and where nobody
            measured. Assumed: a tenth, the mask having an IoU of 0.9

    Raises:
        ConfigurationError: a value is negative or not finite, or ``edit_share`` above 1
    """

    mask: float = 80.0
    box: float = 7.0
    click: float = 1.5
    correction: float = 1.0
    no_object: float = 3.0
    examine: float = 0.1
    locate: float = 1.0
    polygon: float = 7.0
    point: float = 1.5
    delete: float = 1.5
    attribute: float = 3.0
    polygon_points: float = 30.0
    edit_clicks: float = 3.0
    edit_share: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"EffortModel.{name} needs a finite number of 0 or more, got {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.edit_share > 1.0:
            raise ConfigurationError(
                f"EffortModel.edit_share is a part of a mask and lies in [0, 1], got {self.edit_share!r}."
            )

    def seconds(self, actions: Actions) -> float:
        """How long some actions take, seconds."""
        return (
            actions.masks * self.mask
            + actions.boxes * self.box
            + actions.polygons * self.polygon
            + actions.points * self.point
            + actions.edited * self.correction
            + actions.redrawn * self.mask
            + actions.clicks * self.click
            + actions.deleted * self.delete
            + actions.absent * self.no_object
            + actions.attributes * self.attribute
            + actions.examined * self.examine
            + actions.located * self.locate
        )

    def minutes(self, actions: Actions) -> float:
        """How long some actions take, minutes."""
        return self.seconds(actions) / 60.0

    def seconds_for_object(self, kind: PromptKind, *, prefilled: bool = False, quality: float | None = None) -> float:
        """How long one object on one frame is expected to take, seconds; without looking at the frame.

        Args:
            kind: how it is annotated
            prefilled: whether there is a shape already, to be corrected
            quality: expected IoU in [0, 1] of that shape; None takes ``edit_share`` and ``edit_clicks``. A shape that
                is thought to be perfect costs nothing, one that is no good what drawing it costs at most

        Raises:
            ConfigurationError: the quality lies outside [0, 1]
        """
        if quality is not None and not 0.0 <= quality <= 1.0:
            raise ConfigurationError(f"The expected quality of a shape is an IoU in [0, 1], got {quality!r}.")
        kind = PromptKind(kind)
        if kind is PromptKind.ABSENT:
            return self.locate + self.no_object
        drawing = {
            PromptKind.MASK: self.mask,
            PromptKind.BOX: self.box,
            PromptKind.POLYGON: self.polygon + self.polygon_points * self.point,
            PromptKind.POINTS: self.correction + self.edit_clicks * self.point,
        }[kind]
        if not prefilled:
            return drawing
        if quality == 1.0:
            return 0.0
        finding = self.locate + self.correction
        if kind is PromptKind.MASK:
            return min(finding + (self.edit_share if quality is None else 1.0 - quality) * self.mask, drawing)
        if quality is None:
            return min(finding + self.edit_clicks * self.click, drawing)
        return min(finding + max(self.click, (1.0 - quality) * drawing), drawing)

    def minutes_for_frame(
        self, kind: PromptKind, objects: int, *, prefilled: bool = False, quality: float | None = None
    ) -> float:
        """How long a frame is expected to take, minutes, for planning.

        Args:
            kind: how its objects are annotated
            objects: how many there are
            prefilled: whether the shapes are there already, to be corrected
            quality: expected IoU in [0, 1] of these; None where nobody knows

        Raises:
            ConfigurationError: there are fewer than no objects, or the quality lies outside [0, 1]
        """
        if objects < 0:
            raise ConfigurationError(f"A frame has 0 objects or more, got {objects!r}.")
        each = self.seconds_for_object(kind, prefilled=prefilled, quality=quality)
        return (self.examine + objects * each) / 60.0

    def to_dict(self) -> dict[str, float]:
        """The seconds as JSON values, by name."""
        return asdict(self)

    def changed(self, **seconds: float) -> EffortModel:
        """A model with other seconds for some actions.

        Raises:
            ConfigurationError: there is no such action, or a value is malformed
        """
        known = [f.name for f in fields(self)]
        for name in seconds:
            if name not in known:
                raise ConfigurationError(f"EffortModel has no {name!r}; it has {', '.join(known)}.")
        return replace(self, **seconds)


__all__ = ["Actions", "EffortModel"]
