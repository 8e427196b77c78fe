"""A scripted reviewer: looks through a review job, mends what is wrong, says what it thinks of each object.

It works through the REST API only, and does what a person in CVAT's web page does: looks at every so many frames and at
the places that issues name, sees there what CVAT shows, and edits objects by
:class:`~labelprop_cvat.backend.local_cvat.annotator.edits.JobPage`.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from labelprop_cvat.backend.cvat import CVATClient, Issue
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.effort import Actions
from labelprop_cvat.propagation.metrics import assign

from .content import overlap
from .desk import Truth
from .edits import Item, JobPage
from .hand import Hand, Sloppiness
from .truth import ShapeKind, TruthObject

#: What becomes of an object that falls below the threshold: its shape is mended, or it only gets the verdict "fix".
Fix = Literal["shape", "verdict"]
#: What becomes of an object that is nowhere in the ground truth of the job: hidden where it is seen, deleted, or marked
#: with the verdict "reject".
Strays = Literal["hide", "delete", "reject"]

#: Kinds of shapes that a reviewer can judge; others are left alone.
_KINDS: tuple[ShapeKind, ...] = ("rectangle", "polygon", "mask")
# An object without a usable number is known again by this IoU at least.
_RECOGNISED = 0.1
_SAME = 1e-3


@dataclass(frozen=True)
class ReviewerCounts:
    """What the reviewer did.

    Args:
        jobs: jobs looked through
        frames: frames looked at
        looks: objects looked at, summed over the frames
        good: those among them that were right
        fixed: shapes changed, keyframes added to a track that was seen
        drawn: shapes and keyframes drawn where nothing was seen
        added: objects among them that CVAT did not have at all
        hidden: tracks hidden
        deleted: objects deleted
        relabelled: objects that got another label
        missed: bad objects that it overlooked
        resolved: issues resolved
        clicks: presses of the mouse: 2 for a box that is drawn, the corners of a polygon, the corners of its outline
            for a mask; 1 or 2 for a box that is dragged, the points that moved of a polygon, and of a mask as large a
            part of the outline's corners as is drawn anew; 1 each to hide, delete, relabel, give a verdict or resolve
        actions: the same for :class:`~labelprop_cvat.propagation.effort.EffortModel`
        verdicts: how often it gave each verdict
    """

    jobs: int = 0
    frames: int = 0
    looks: int = 0
    good: int = 0
    fixed: int = 0
    drawn: int = 0
    added: int = 0
    hidden: int = 0
    deleted: int = 0
    relabelled: int = 0
    missed: int = 0
    resolved: int = 0
    clicks: int = 0
    actions: Actions = field(default_factory=Actions)
    verdicts: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: ReviewerCounts) -> ReviewerCounts:
        names = [f.name for f in fields(self) if f.name != "verdicts"]
        verdicts = {
            verdict: self.verdicts.get(verdict, 0) + other.verdicts.get(verdict, 0)
            for verdict in sorted({*self.verdicts, *other.verdicts})
        }
        return ReviewerCounts(**{name: getattr(self, name) + getattr(other, name) for name in names}, verdicts=verdicts)

    @property
    def edits(self) -> int:
        """Changes to objects, but for verdicts."""
        return self.fixed + self.drawn + self.hidden + self.deleted + self.relabelled


class ScriptedReviewer:
    """Reviews jobs by the ground truth, the same way every time for the same seed.

    Args:
        client: a login that may edit the jobs
        every: it looks at every so many frames of a job, deleted ones left out
        threshold: it mends an object that CVAT shows with less than this IoU with what it would draw, in [0, 1]
        first: number of the frame in the job, from 0, that it looks at first
        fix: ``"shape"`` mends shapes, ``"verdict"`` only gives the verdict "fix"
        strays: what it does to objects that are nowhere in the ground truth of the job: ``"hide"``, ``"delete"`` or
            ``"reject"``
        reject: numbers of objects that it rejects, whatever they look like
        labels: names of labels whose objects it looks at, such as those of one label field; None for all
        look_at_issues: whether it looks at the frames of open issues too, and resolves them
        sloppiness: how carelessly it draws, and how often it overlooks what is wrong
        seed: chooses the mistakes
        index_attribute: attribute that holds an object's number
        verdict_attribute: attribute that takes the verdict; labels without it get none

    Raises:
        ConfigurationError: a number is out of range, or there is no such policy
    """

    def __init__(
        self,
        client: CVATClient,
        *,
        every: int = 10,
        threshold: float = 0.8,
        first: int = 0,
        fix: Fix = "shape",
        strays: Strays = "hide",
        reject: Collection[int] = (),
        labels: Collection[str] | None = None,
        look_at_issues: bool = True,
        sloppiness: Sloppiness | None = None,
        seed: int = 0,
        index_attribute: str = "index",
        verdict_attribute: str = "verdict",
    ) -> None:
        if every < 1 or first < 0 or not 0.0 <= threshold <= 1.0:
            raise ConfigurationError(
                f"A reviewer looks at every n-th frame (1 or more), from a first one (0 or more), and mends below an "
                f"IoU in [0, 1]; got every={every}, first={first}, threshold={threshold}."
            )
        for name, value, known in (("fix", fix, get_args(Fix)), ("strays", strays, get_args(Strays))):
            if value not in known:
                wanted = ", ".join(f'"{one}"' for one in known)
                raise ConfigurationError(f"A reviewer's {name} is one of {wanted}, got {value!r}.")
        self._client = client
        self._habits = _Habits(
            every,
            threshold,
            first,
            fix,
            strays,
            frozenset(reject),
            None if labels is None else frozenset(labels),
            look_at_issues,
            sloppiness or Sloppiness(),
            seed,
            verdict_attribute,
        )
        self._index_attribute = index_attribute

    def review(self, job_id: int, truth: Truth, *, complete: bool = True) -> ReviewerCounts:
        """Looks through a job, mends it, and finishes it. A job that is finished already is left alone.

        Objects are known by their number, which is the ``object_id`` of the ground truth; those that have none, or one
        that the ground truth does not have, by where they are and their label.

        Args:
            job_id: the job
            truth: gives the visible objects for ``(task name, frame name)``, as for
                :class:`~labelprop_cvat.backend.local_cvat.annotator.ScriptedAnnotator`; the name of the task is empty
                where the login may not read the task
            complete: set the job to completed

        Raises:
            LabelMissing: the job lacks a label of the ground truth
            DataError: the ground truth lacks a mask that is to be drawn
        """
        if self._client.job(job_id).state == "completed":
            return ReviewerCounts()
        page = JobPage(self._client, job_id, index_attribute=self._index_attribute)
        issues = [issue for issue in page.issues() if not issue.resolved] if self._habits.look_at_issues else []
        return _Review(page, truth, self._habits, issues).do(complete)


@dataclass(frozen=True)
class _Habits:
    every: int
    threshold: float
    first: int
    fix: Fix
    strays: Strays
    reject: frozenset[int]
    labels: frozenset[str] | None
    look_at_issues: bool
    sloppiness: Sloppiness
    seed: int
    verdict_attribute: str


class _Thing:
    """An object as CVAT has it: a track, or the mask shapes that share a number.

    Args:
        kind: its kind of shape
        index: its number; 0 for none
        label_id: its label
        track: the track
        shapes: its shapes by frame
    """

    def __init__(self, kind: ShapeKind, index: int, label_id: int, track: Item | None) -> None:
        self.kind: ShapeKind = kind
        self.index = index
        self.label_id = label_id
        self.track = track
        self.shapes: dict[int, Item] = {}
        self.looks = 0
        self.mended: list[Item] = []
        self.looked_at: list[Item] = []

    def items(self) -> Iterator[Item]:
        if self.track is not None:
            yield self.track
        yield from (self.shapes[frame] for frame in sorted(self.shapes))


class _Review:
    """One look through one job."""

    def __init__(self, page: JobPage, truth: Truth, habits: _Habits, issues: Sequence[Issue]) -> None:
        self._page = page
        self._habits = habits
        self._perfect = Hand(Sloppiness())
        self._hand = Hand(habits.sloppiness)
        shown = [frame for frame in page.job.frames if frame not in page.deleted_frames]
        asked = {issue.frame for issue in issues}
        regular = set(shown[habits.first :: habits.every])
        self._frames = [frame for frame in shown if frame in regular | asked]
        self._issues = [issue for issue in issues if issue.frame in self._frames]
        self._truth: dict[int, dict[tuple[int, str], TruthObject]] = {}
        self._anywhere: set[tuple[int, str]] = set()
        for frame in shown:
            found = truth(page.task_name, page.frame_name(frame))
            here = {self._key(one): one for one in found if not one.whole_frame and self._is_looked_at(one.label)}
            self._anywhere |= set(here)
            if frame in regular | asked:
                self._truth[frame] = here
        self._things = self._read()
        self._of_truth = self._matched()
        self._counts = ReviewerCounts(jobs=1, frames=len(self._frames), actions=Actions(examined=len(self._frames)))

    def do(self, complete: bool) -> ReviewerCounts:
        for frame in self._frames:
            for thing in self._things:
                self._look(thing, frame)
            for key, truth in self._truth[frame].items():
                if key not in self._of_truth and not self._overlooks(frame, key):
                    self._add(key, truth, frame)
        for thing in self._things:
            self._judge(thing)
        self._page.save()
        for issue in self._issues:
            self._page.resolve_issue(issue)
            self._count(resolved=1, clicks=1)
        if complete:
            self._page.complete()
        return self._counts

    # Who is who

    def _key(self, truth: TruthObject) -> tuple[int, str]:
        # Several label fields in one task number their objects each for itself.
        self._page.labels.label(truth.label)
        return truth.object_id, truth.label

    def _is_looked_at(self, label: str) -> bool:
        return self._habits.labels is None or label in self._habits.labels

    def _read(self) -> list[_Thing]:
        things: list[_Thing] = []
        for track in self._page.tracks:
            kind = track["shapes"][0]["type"]
            if kind in _KINDS and self._is_looked_at(self._page.label_of(track).name):
                things.append(_Thing(kind, self._page.index_of(track), track["label_id"], track))
        by_number: dict[tuple[str, int, int], _Thing] = {}
        for shape in self._page.shapes:
            kind, index = shape["type"], self._page.index_of(shape)
            if kind not in _KINDS or not self._is_looked_at(self._page.label_of(shape).name):
                continue
            thing = by_number.get((kind, shape["label_id"], index)) if index else None
            if thing is None or shape["frame"] in thing.shapes:
                thing = _Thing(kind, index, shape["label_id"], None)
                things.append(thing)
                by_number.setdefault((kind, shape["label_id"], index), thing)
            thing.shapes[shape["frame"]] = shape
        return things

    def _matched(self) -> dict[tuple[int, str], _Thing]:
        """The object in CVAT of each one of the ground truth that has one."""
        names = {label.id: label.name for label in self._page.labels}
        keys = self._anywhere
        found: dict[tuple[int, str], _Thing] = {}
        taken: set[int] = set()
        for is_same_label in (True, False):
            for place, thing in enumerate(self._things):
                fitting = [
                    key
                    for key in sorted(keys - set(found))
                    if thing.index and key[0] == thing.index and (key[1] == names[thing.label_id]) is is_same_label
                ]
                if place not in taken and len(fitting) == 1:
                    found[fitting[0]] = thing
                    taken.add(place)
        left = [key for key in sorted(keys - set(found)) if any(key in here for here in self._truth.values())]
        weights: dict[tuple[int, int], float] = {}
        for row, key in enumerate(left):
            for place, thing in enumerate(self._things):
                if place not in taken and key[1] == names[thing.label_id]:
                    best = max((self._agreement(thing, key, frame) for frame in self._frames), default=0.0)
                    if best >= _RECOGNISED:
                        weights[row, place] = best
        for row, place in assign(weights).items():
            found[left[row]] = self._things[place]
        return found

    def _agreement(self, thing: _Thing, key: tuple[int, str], frame: int) -> float:
        truth, there = self._truth[frame].get(key), self._shown(thing, frame)
        if truth is None or there is None:
            return 0.0
        return self._iou(thing.kind, self._drawn(thing.kind, truth, frame), there, frame)

    # One object on one frame

    def _shown(self, thing: _Thing, frame: int) -> Item | None:
        if thing.track is not None:
            return self._page.seen(thing.track, frame)
        shape = thing.shapes.get(frame)
        return None if shape is None or shape["outside"] else shape

    def _look(self, thing: _Thing, frame: int) -> None:
        key = next((key for key, other in self._of_truth.items() if other is thing), None)
        truth = None if key is None else self._truth[frame].get(key)
        there = self._shown(thing, frame)
        if truth is None and there is None:
            return
        if there is None and thing.track is None and not thing.index:
            # A further mask of an object without a number would be another object.
            return
        thing.looks += 1
        if there is not None:
            thing.looked_at.append(thing.track or thing.shapes[frame])
        wanted = None if truth is None else self._drawn(thing.kind, truth, frame)
        self._count(looks=1)
        shared = 0.0 if wanted is None or there is None else self._iou(thing.kind, wanted, there, frame)
        if wanted is not None and there is not None and shared >= self._habits.threshold:
            self._count(good=1)
            self._relabel(thing, truth)
            return
        if thing.index in self._habits.reject or (key is None and self._habits.strays == "reject"):
            return
        if self._overlooks(frame, key or (thing.index, f"stray {thing.label_id}")):
            self._count(missed=1)
        elif self._habits.fix == "verdict":
            thing.mended.append(thing.track or there or next(thing.items()))
        elif truth is None:
            self._hide(thing, frame)
        else:
            self._mend(thing, truth, there, frame)

    def _mend(self, thing: _Thing, truth: TruthObject, there: Item | None, frame: int) -> None:
        points = self._drawn(thing.kind, truth, frame, self._hand)
        if there is None:
            self._count_drawing(thing.kind, truth)
        else:
            self._count_editing(thing.kind, truth, there["points"], points, frame)
        if thing.track is not None:
            before = there or self._page.seen(thing.track, frame) or thing.track["shapes"][0]
            self._page.redraw(thing.track, _aligned(thing.kind, points, before["points"]), frame)
            thing.mended.append(thing.track)
        elif there is not None:
            thing.mended.append(self._page.redraw(thing.shapes[frame], points))
        else:
            label = self._page.labels.by_id(thing.label_id).name
            made = self._page.draw_shape(label, frame, points, thing.kind, thing.index or None)
            thing.shapes[frame] = made
            thing.mended.append(made)
        self._relabel(thing, truth)

    def _hide(self, thing: _Thing, frame: int) -> None:
        is_nowhere = thing not in self._of_truth.values()
        if is_nowhere and self._habits.strays == "delete":
            for item in list(thing.items()):
                self._page.delete(item)
            thing.track, thing.shapes = None, {}
            self._count(deleted=1, clicks=1, actions=Actions(deleted=1, located=1))
        elif thing.track is not None:
            self._page.set_outside(thing.track, frame)
            thing.mended.append(thing.track)
            self._count(hidden=1, clicks=1, actions=Actions(absent=1, located=1))
        else:
            self._page.delete(thing.shapes.pop(frame))
            # Its other shapes take the verdict.
            thing.mended += list(thing.items())[:1]
            self._count(deleted=1, clicks=1, actions=Actions(deleted=1, located=1))

    def _add(self, key: tuple[int, str], truth: TruthObject, frame: int) -> None:
        """Draws an object that CVAT does not have at all, without a number, which is not a reviewer's to give."""
        kind = self._kind_of_new(truth)
        points = self._drawn(kind, truth, frame, self._hand)
        label = self._page.labels.label(truth.label)
        self._count(looks=1)
        if self._habits.fix == "verdict":
            return
        thing = _Thing(kind, 0, label.id, None)
        if kind == "mask":
            made = self._page.draw_mask(label.name, frame, points)
            # Its masks on other frames would be other objects: without a number nothing ties them together.
            thing.shapes[frame] = made
        else:
            thing.track = made = self._page.draw_track(label.name, frame, points, kind)
            self._things.append(thing)
        thing.looks, thing.mended = 1, [made]
        self._of_truth[key] = thing
        self._count_drawing(kind, truth)
        self._count(added=1)

    def _kind_of_new(self, truth: TruthObject) -> ShapeKind:
        """What the job's other objects are: those of the same label first."""
        label = self._page.labels.label(truth.label).id
        kinds = [thing.kind for thing in self._things if thing.label_id == label]
        kinds = kinds or [thing.kind for thing in self._things]
        if kinds:
            return max(sorted(set(kinds)), key=kinds.count)
        return "rectangle" if truth.mask is None else "mask"

    def _relabel(self, thing: _Thing, truth: TruthObject | None) -> None:
        if truth is None or self._page.labels.label(truth.label).id == thing.label_id:
            return
        for item in thing.items():
            self._page.relabel(item, truth.label)
            if thing.index:
                # A track loses its number with its label.
                self._page.set_index(item, thing.index)
        thing.label_id = self._page.labels.label(truth.label).id
        thing.mended += list(thing.items())[:1]
        self._count(relabelled=1, clicks=1, actions=Actions(attributes=1, located=1))

    # Verdicts

    def _judge(self, thing: _Thing) -> None:
        if thing.index in self._habits.reject and thing.index:
            items, verdict = list(thing.items())[:1], "reject"
        elif not thing.looks or not any(True for _ in thing.items()):
            return
        elif thing not in self._of_truth.values() and self._habits.strays == "reject":
            items, verdict = list(thing.items())[:1], "reject"
        elif thing.mended:
            items, verdict = thing.mended[:1], "fix"
        else:
            items, verdict = thing.looked_at[:1], "satisfactory"
        for item in items:
            attributes = {attribute.name: attribute for attribute in self._page.label_of(item).attributes}
            attribute = attributes.get(self._habits.verdict_attribute)
            if not thing.index or attribute is None or verdict not in attribute.values:
                continue
            if self._page.value_of(item, attribute.name) != verdict:
                self._page.set_attribute(item, attribute.name, verdict)
                self._count(clicks=1, actions=Actions(attributes=1), verdicts={verdict: 1})

    # Geometry

    def _chance(self, frame: int, key: Iterable[object]) -> random.Random:
        """A source of chance that depends on what it is for, not on the order of work."""
        what = (self._habits.seed, self._page.task_name, self._page.frame_name(frame), *key)
        return random.Random("/".join(map(str, what)))

    def _overlooks(self, frame: int, key: Iterable[object]) -> bool:
        return self._chance(frame, ("missed", *key)).random() < self._habits.sloppiness.missed

    def _drawn(self, kind: ShapeKind, truth: TruthObject, frame: int, hand: Hand | None = None) -> list[float]:
        """What a reviewer would draw; with a perfect hand unless another is given."""
        height, width = self._page.size_of(frame)
        chance = self._chance(frame, ("drawn", *self._key(truth)))
        name = self._page.frame_name(frame)
        return (hand or self._perfect).geometry(kind, truth, name, width, height, chance)

    def _iou(self, kind: ShapeKind, wanted: Sequence[float], there: Mapping[str, Any], frame: int) -> float:
        size = self._page.size_of(frame)
        if kind == "rectangle" and there["rotation"]:
            turned = _corners(there["points"], there["rotation"])
            return overlap("polygon", _corners(wanted, 0.0), turned, size) or 0.0
        return overlap(kind, wanted, there["points"], size) or 0.0

    # Counting

    def _count(self, **what: Any) -> None:
        self._counts += ReviewerCounts(**what)

    def _count_drawing(self, kind: ShapeKind, truth: TruthObject) -> None:
        clicks = clicks_to_draw(kind, truth)
        actions = {
            "rectangle": Actions(boxes=1),
            "polygon": Actions(polygons=1, points=clicks),
            "mask": Actions(masks=1),
        }[kind]
        self._count(drawn=1, clicks=clicks, actions=actions)

    def _count_editing(
        self, kind: ShapeKind, truth: TruthObject, before: Sequence[float], after: Sequence[float], frame: int
    ) -> None:
        redrawn = 0.0
        if kind == "rectangle":
            clicks = _drags(before, after)
        elif kind == "polygon":
            there, wanted = _pairs(before), _pairs(after)
            apart = np.abs(wanted[:, None] - there[None, :]).max(axis=2)
            clicks = max(1, int((apart.min(axis=1) > _SAME).sum()))
        else:
            redrawn = 1.0 - (overlap("mask", after, before, self._page.size_of(frame)) or 0.0)
            clicks = max(1, round(redrawn * clicks_to_draw("mask", truth)))
        dragged = 0 if kind == "mask" else clicks
        actions = Actions(edited=1, located=1, clicks=dragged, redrawn=redrawn)
        self._count(fixed=1, clicks=clicks, actions=actions)


def clicks_to_draw(kind: ShapeKind, truth: TruthObject) -> int:
    """How many presses of the mouse it takes to draw an object: 2 for a box, the corners of a polygon, and for a mask
    those of its outline, as with CVAT's polygon tool for masks."""
    return 2 if kind == "rectangle" else len(truth.corners)


def _drags(before: Sequence[float], after: Sequence[float]) -> int:
    """How many drags make one box of the other: one where a corner, or the whole box, moved; two otherwise."""
    left, top, right, bottom = (new - old for new, old in zip(after, before, strict=True))
    if abs(left - right) < _SAME and abs(top - bottom) < _SAME:
        return 1
    both_sides = min(abs(left), abs(right)) >= _SAME or min(abs(top), abs(bottom)) >= _SAME
    return 2 if both_sides else 1


def _pairs(points: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(points, np.float64).reshape(-1, 2)


def _aligned(kind: ShapeKind, points: Sequence[float], before: Sequence[float]) -> list[float]:
    """An outline that begins where the one before began, and goes the same way round, as one that is dragged does."""
    if kind != "polygon":
        return list(points)
    wanted, there = _pairs(points), _pairs(before)
    if _area(wanted) * _area(there) < 0:
        wanted = wanted[::-1]
    # Places within the outlines' boxes, so that a shape which moved far is aligned as well.
    start = _relative(there)[0]
    nearest = int(np.linalg.norm(_relative(wanted) - start, axis=1).argmin())
    aligned: list[float] = np.roll(wanted, -nearest, axis=0).ravel().tolist()
    return aligned


def _relative(points: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    low, high = points.min(axis=0), points.max(axis=0)
    relative: np.ndarray[Any, np.dtype[np.float64]] = (points - low) / np.maximum(high - low, 1e-9)
    return relative


def _area(points: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _corners(box: Sequence[float], rotation: float) -> list[float]:
    """The corners of a box that is turned clockwise around its middle, degrees."""
    x1, y1, x2, y2 = box
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    around = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - middle
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned: list[float] = (around @ turn.T + middle).ravel().tolist()
    return turned


__all__ = ["Fix", "ReviewerCounts", "ScriptedReviewer", "Strays", "clicks_to_draw"]
