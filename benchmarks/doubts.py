"""``python -m benchmarks.doubts``: whether reviewers are sent to what is wrong.

The engine ``flow`` fills every sequence from 2 and from 4 evenly spread exemplars, and what is doubted of that is
compared with the truth: an object on a frame is bad below an IoU of 0.75. ``left out`` is what the target that is best
(F1) on the other sequences comes to on each; the model behind it was fitted on the same sequences, and
docs/choosing-frames.md says how far that is off on others.

Boxes come from the sequences of boxes and from the boxes around the masks, filled with an exemplar every 5, 15 and 30
frames. Of them, ``left out`` is all fitted on the others, the model too, and its error on each sequence is printed.

Data is a folder of sequences as for ``benchmarks.quality``. The quick mode halves the pictures and takes every second
or third frame of the longer sequences, so that things move faster than they do. Of boxes, the first 80 frames are
taken at most.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.choosing import QUICK_FRAMES, Filled, Outcome, exemplars_of, read_footage
from benchmarks.quality import DEFAULT_DATA, box_folders, mask_folders, read_boxes
from labelprop_cvat.backend.doubts import DOUBTED_BELOW, FieldDoubts
from labelprop_cvat.backend.evidence import KnownLabel
from labelprop_cvat.backend.ledger import SegmentRecord
from labelprop_cvat.propagation.calibration import GOOD_J
from labelprop_cvat.propagation.exemplars import DEFAULT_MODEL, Evidence, QualityModel
from labelprop_cvat.propagation.frames import ArraySource, ImageSequenceSource
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import Box, Prompt, PromptKind, Segment

TARGETS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
EXEMPLARS = (2, 4)
BOX_GAPS = (5, 15, 30)
QUICK_BOX_GAPS = (3, 8, 14)
MOST_BOX_FRAMES = 80

# Knows nothing but that a confidence is one.
_NEUTRAL = QualityModel(one_sided=(0.0, 1.0, 0.0), two_sided=(0.0, 1.0, 0.0, 0.0))
_PAIRS_EACH = 500

Place = tuple[int, int]


@dataclass(frozen=True)
class Tally:
    """Objects on frames, and doubts.

    Args:
        doubts: stretches that are doubted
        right: those of them that hold a bad frame
        found: bad ones that are doubted
        wrong: good ones that are doubted
        missed: bad ones that are not
        good: good ones that are not
    """

    doubts: int = 0
    right: int = 0
    found: int = 0
    wrong: int = 0
    missed: int = 0
    good: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def precision(self) -> float:
        """Share of what is doubted that is bad."""
        return self.found / max(1, self.found + self.wrong)

    @property
    def recall(self) -> float:
        """Share of what is bad that is doubted."""
        return self.found / max(1, self.found + self.missed)

    @property
    def f1(self) -> float:
        """Of both."""
        return 2 * self.found / max(1, 2 * self.found + self.wrong + self.missed)

    def row(self) -> str:
        """As cells of a table."""
        total = self.found + self.wrong + self.missed + self.good
        return (
            f"{self.doubts} | {self.right / max(1, self.doubts):.0%} | {(self.found + self.wrong) / max(1, total):.0%} "
            f"| {(self.found + self.missed) / max(1, total):.0%} | {self.precision:.2f} | {self.recall:.2f}"
        )


def tallies(folder: Path, quick: bool) -> tuple[str, dict[float, Tally]]:
    """The name of a sequence, and what each target comes to on it."""
    cv2.setNumThreads(1)
    footage = read_footage(folder, quick)
    filled = Filled(footage, get_propagator("flow"))
    found = dict.fromkeys(TARGETS, Tally())
    for count in EXEMPLARS:
        exemplars = sorted(exemplars_of(footage, "uniform", count))
        evidence = filled.evidence(exemplars)
        shown = {(entry.frame, entry.object_id) for entry in evidence}
        is_bad = {
            place: outcome.j < GOOD_J
            for place, outcome in filled.outcomes(exemplars).items()
            if place in shown or place[1] in footage.truth[place[0]]
        }
        found = _added(found, judged(evidence, exemplars, len(footage.truth), is_bad, DEFAULT_MODEL))
    return footage.name, found


def judged(
    evidence: Iterable[Evidence],
    exemplars: Sequence[int],
    length: int,
    is_bad: Mapping[Place, bool],
    model: QualityModel,
) -> dict[float, Tally]:
    """What each target comes to.

    Args:
        evidence: of all objects
        exemplars: ascending
        length: number of frames
        is_bad: whether an object is bad on a frame; those that count
        model: what makes IoU of evidence
    """
    known = [KnownLabel(entry, "object", (0.0, 0.0, 1.0, 1.0), entry.keyframe) for entry in evidence]
    field = FieldDoubts("", SegmentRecord(0, length, "all", list(exemplars)), known, exemplars, (), model, str)
    found = {}
    for target in TARGETS:
        doubts = list(field.doubts(range(length), target))
        doubted = {(frame, doubt.index) for doubt in doubts for frame in range(doubt.start, doubt.stop)}
        found[target] = Tally(
            len(doubts),
            sum(any(is_bad.get((f, d.index), False) for f in range(d.start, d.stop)) for d in doubts),
            sum(bad and place in doubted for place, bad in is_bad.items()),
            sum(not bad and place in doubted for place, bad in is_bad.items()),
            sum(bad and place not in doubted for place, bad in is_bad.items()),
            sum(not bad and place not in doubted for place, bad in is_bad.items()),
        )
    return found


@dataclass(frozen=True, eq=False)
class BoxFill:
    """Boxes that were filled from one choice of exemplars.

    Args:
        length: number of frames
        exemplars: ascending
        set_there: ``(frame, object)`` that a person set
        outcomes: of every other object that is there or is shown
    """

    length: int
    exemplars: tuple[int, ...]
    set_there: frozenset[Place]
    outcomes: Mapping[Place, Outcome]

    @property
    def pairs(self) -> list[tuple[Evidence, float, float]]:
        """What a model is fitted to: evidence, its distance in frames, and the IoU."""
        told = {i: [frame for frame, other in self.set_there if other == i] for _, i in self.set_there}
        return [
            (known, float(min(abs(frame - other) for other in told[i])), outcome.j)
            for (frame, i), outcome in self.outcomes.items()
            if (known := outcome.evidence) is not None
        ]

    def tallies(self, model: QualityModel) -> dict[float, Tally]:
        """What each target comes to with a model."""
        evidence = [outcome.evidence for outcome in self.outcomes.values() if outcome.evidence is not None]
        evidence += [Evidence(frame, i, 1.0, None, 0.0, True, PromptKind.BOX) for frame, i in sorted(self.set_there)]
        is_bad = {place: outcome.j < GOOD_J for place, outcome in self.outcomes.items()}
        return judged(evidence, self.exemplars, self.length, is_bad, model)


def filled_boxes(folder: Path, quick: bool) -> tuple[str, list[BoxFill]]:
    """The name of a sequence, and its boxes as ``flow`` fills them from several choices of exemplars."""
    cv2.setNumThreads(1)
    source = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    numbers = range(len(source))[: None if quick else MOST_BOX_FRAMES]
    shrink = 1
    if quick:
        numbers, shrink = range(0, len(source), math.ceil(len(source) / QUICK_FRAMES)), 2
    size = source.size[1] // shrink, source.size[0] // shrink
    frames = ArraySource(
        [np.asarray(cv2.resize(source[n], size, interpolation=cv2.INTER_AREA), np.uint8) for n in numbers]
    )
    boxes = read_boxes(folder)
    truth = [{i: _shrunk(box, shrink) for i, box in boxes[number].items()} for number in numbers]
    return folder.name, [_box_fill(frames, truth, gap) for gap in (QUICK_BOX_GAPS if quick else BOX_GAPS)]


def _shrunk(box: Box, times: int) -> Box:
    x1, y1, x2, y2 = (edge / times for edge in box)
    return x1, y1, x2, y2


def _box_fill(frames: ArraySource, truth: Sequence[Mapping[int, Box]], gap: int) -> BoxFill:
    exemplars = tuple(range(0, len(truth), gap))
    ids = sorted({i for frame in exemplars for i in truth[frame]})
    prompts = [
        Prompt(frame, i, box=truth[frame][i]) if i in truth[frame] else Prompt(frame, i, absent=True)
        for frame in exemplars
        for i in ids
    ]
    outcomes: dict[Place, Outcome] = {}
    for result in get_propagator("flow").propagate(frames, prompts, Segment(0, len(truth))):
        for i in ids if result.frame not in exemplars else ():
            state, box = result.objects.get(i), truth[result.frame].get(i)
            if state is not None and state.box is not None:
                known = Evidence(
                    result.frame, i, state.confidence, state.agreement, 0.0, keyframe=False, kind=PromptKind.BOX
                )
                outcomes[result.frame, i] = Outcome(0.0 if box is None else box_iou(state.box, box), known)
            elif box is not None:
                outcomes[result.frame, i] = Outcome(0.0, None)
    set_there = frozenset((frame, i) for frame in exemplars for i in truth[frame])
    return BoxFill(len(truth), exemplars, set_there, outcomes)


def fitted_boxes(fills: Iterable[Sequence[BoxFill]]) -> QualityModel:
    """What makes IoU of evidence of boxes; every sequence counts the same, with one pass and with two."""
    random = np.random.default_rng(0)
    pairs = []
    for sequence in fills:
        every = [pair for fill in sequence for pair in fill.pairs]
        for two in (False, True):
            some = [pair for pair in every if (pair[0].agreement is not None) == two]
            if some:
                drawn = random.choice(len(some), _PAIRS_EACH, replace=len(some) < _PAIRS_EACH)
                pairs += [some[place] for place in drawn]
    return _NEUTRAL.fitted(pairs)


def print_boxes(every: Mapping[str, Sequence[BoxFill]]) -> None:
    """Prints what doubts about boxes come to, and how far the model is off on sequences left out."""
    _print_targets([_sum_of(fill.tallies(DEFAULT_MODEL) for fill in fills) for fills in every.values()])
    if len(every) < 2:
        return
    left_out, errors = [], []
    for name, fills in every.items():
        others = [other for key, other in every.items() if key != name]
        model = fitted_boxes(others)
        told = [_sum_of(fill.tallies(model) for fill in other) for other in others]
        best = max(TARGETS, key=lambda target: _sum([found[target] for found in told]).f1)
        left_out.append(_sum_of(fill.tallies(model) for fill in fills)[best])
        pairs = [pair for fill in fills for pair in fill.pairs]
        errors.append((name, best, [_misses(model, pairs, two) for two in (False, True)]))
    print(f"| left out | {_sum(left_out).row()} |")
    print(
        "\nmean absolute error (mean error) of the predicted IoU on sequences left out of the fit: one pass, two passes"
    )
    for name, best, parts in errors:
        cells = [f"{np.abs(part).mean():.3f} ({part.mean():+.3f})" if len(part) else "-" for part in parts]
        print(f"{name.ljust(26)}{cells[0].ljust(18)}{cells[1].ljust(18)}target {best:g}")
    means = [np.mean([np.abs(parts[two]).mean() for _, _, parts in errors if len(parts[two])]) for two in (0, 1)]
    print(f"{'mean'.ljust(26)}{f'{means[0]:.3f}'.ljust(18)}{means[1]:.3f}")
    print(f"fitted on all: {fitted_boxes(every.values())}")


def _misses(
    model: QualityModel, pairs: Sequence[tuple[Evidence, float, float]], two: bool
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    some = [pair for pair in pairs if (pair[0].agreement is not None) == two]
    return np.array([model.predict(known, distance) - iou for known, distance, iou in some])


def report(data: Path, quick: bool = False, limit: int | None = None, processes: int = 2) -> None:
    """Prints the table; says so when there is no data.

    Args:
        data: folder of sequences
        quick: smaller pictures, fewer frames
        limit: only the first so many sequences
        processes: how many sequences to run side by side
    """
    masks, boxes = mask_folders(data)[:limit], [*box_folders(data)[:limit], *mask_folders(data)[:limit]]
    if not boxes:
        print(f"No sequences in {data}: nothing to doubt. Name a folder with --data.")
        return
    mode = ", quick mode" if quick else ""
    with ProcessPoolExecutor(processes) as pool:
        if masks:
            every = dict(pool.map(tallies, masks, [quick] * len(masks)))
            print(f"{len(every)} sequences of masks{mode}; reviews take {DOUBTED_BELOW:g}\n")
            _print_targets(list(every.values()))
            _print_left_out(every)
        filled = dict(pool.map(filled_boxes, boxes, [quick] * len(boxes)))
    print(f"\n{len(filled)} sequences of boxes{mode}; reviews take {DOUBTED_BELOW:g}\n")
    print_boxes(filled)


def _print_targets(every: Sequence[Mapping[float, Tally]]) -> None:
    print("| target | doubts | that hold a bad frame | doubted | bad | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for target in TARGETS:
        print(f"| {target:g} | {_sum([found[target] for found in every]).row()} |")


def _print_left_out(every: Mapping[str, Mapping[float, Tally]]) -> None:
    if len(every) < 2:
        return
    left_out = []
    for name, found in every.items():
        others = [other for key, other in every.items() if key != name]
        best = max(TARGETS, key=lambda t: _sum([other[t] for other in others]).f1)
        left_out.append(found[best])
    print(f"| left out | {_sum(left_out).row()} |")


def _sum_of(found: Iterable[Mapping[float, Tally]]) -> dict[float, Tally]:
    total = dict.fromkeys(TARGETS, Tally())
    for entry in found:
        total = _added(total, entry)
    return total


def _added(first: Mapping[float, Tally], second: Mapping[float, Tally]) -> dict[float, Tally]:
    return {target: first[target] + second[target] for target in TARGETS}


def _sum(entries: Sequence[Tally]) -> Tally:
    return sum(entries, Tally())


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.doubts", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="half the size, at most 28 frames a sequence")
    parser.add_argument("--limit", type=int, help="only the first so many sequences")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    report(options.data, options.quick, options.limit, options.processes)


if __name__ == "__main__":
    main()
