"""``python -m benchmarks.review``: what the review loop makes of a sequence, and what it costs.

Scripted people work on a local CVAT server: they draw a few evenly spaced frames, the engine ``flow`` fills the others,
and what it filled goes back to be reviewed. The reviewer looks at every so many frames and at the issues, and mends
what has too small an IoU with the truth; only that is filled anew, and the next review goes out, until nobody changes
anything. Beside each round of that:

- ``every frame``: all objects on all frames drawn from nothing
- ``CVAT alone``: as many keyframes as people set in the whole loop, evenly spaced over each object, and between them
  what CVAT makes of keyframes: boxes go straight, masks stay
- ``exemplars only``: the same keyframes, filled by ``flow``, reviewed by nobody; and as many of them as take about as
  many clicks as the loop took, because what is drawn from nothing takes more than what is mended
- the loop's own first row: exemplars only, and as few as it began with

J is the mean IoU with the truth over all frames and objects, of masks or of boxes; where an object is neither seen nor
shown nothing is counted. Minutes are those of ``EffortModel``, all that people do. Clicks are presses of the mouse on
objects: two for a box, the corners of its outline for a mask, of a mask that is mended as large a part of them as is
drawn anew, one for hiding or deleting. "With verdicts" adds one for each verdict and each resolved issue, of which
whoever draws every frame has none. The goal is a J of 0.95 for less than 27 % of the clicks that every frame takes.

People draw perfectly: what is measured is the loop, and not a hand. Data is a folder of sequences as for
``benchmarks.quality``; pictures are halved, and sequences thinned to about 28 frames, or 90 where there are boxes only,
unless ``--full`` is given.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks.choosing import QUICK_FRAMES, QUICK_PIXELS
from benchmarks.quality import DEFAULT_DATA, mask_folders, read_boxes, read_masks
from labelprop_cvat.demo import use_own_database
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.propagation.frames import ImageSequenceSource
from labelprop_cvat.propagation.metrics import assign, box_iou, jaccard
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import Box, ObjectMask, ObjectState, Prompt, PromptKind, Segment

if TYPE_CHECKING:
    import fiftyone as fo

    from labelprop_cvat.backend.local_cvat import LocalCVAT
    from labelprop_cvat.backend.local_cvat.annotator import ShapeKind, TruthObject

GOAL_J = 0.95
GOAL_CLICKS = 0.27
BEGIN = 3
ROUNDS = 5
QUICK_SEQUENCES = 3
QUICK_BOX_FRAMES = 90
#: How often a reviewer looks, in frames, and what has less than this IoU is mended. They are assumed, not tuned.
#: Sequences of boxes are not thinned, so that ten of their frames take as long as four of the others.
LOOK_EVERY = 4
LOOK_EVERY_AT_BOXES = 10
MEND_BELOW = 0.9
RESULTS = Path(__file__).parent / "results" / "review.md"
_FIELD = "objects"
_RUN = "review"
#: What reviewers do that changes no label.
NO_CHANGE = ("verdicts", "issues resolved")
_MODEL = EffortModel()

Thing = ObjectMask | Box


@dataclass(frozen=True, eq=False)
class Clip:
    """A sequence in a folder of images, and the true masks or boxes of each frame by object."""

    name: str
    images: tuple[Path, ...]
    truth: tuple[Mapping[int, Thing], ...]

    @property
    def boxes(self) -> bool:
        """Whether its objects are boxes."""
        return any(not isinstance(thing, ObjectMask) for objects in self.truth for thing in objects.values())

    @property
    def labels(self) -> int:
        """Objects on frames."""
        return sum(len(objects) for objects in self.truth)


@dataclass(frozen=True)
class Row:
    """What one way of annotating had come to.

    Args:
        way: its name
        keyframes: objects on frames that people set
        j: mean IoU of all objects on all frames, in [0, 1]
        minutes: modelled work
        clicks: presses of the mouse on objects
        answers: those for verdicts and issues
        changed: what reviewers changed in the round
    """

    way: str
    keyframes: int
    j: float
    minutes: float
    clicks: int
    answers: int = 0
    changed: int | None = None


class Bench:
    """Plays all ways on one sequence.

    Args:
        server: local CVAT
        sequence: what is annotated
        rounds: how many reviews are played at most
        begin: frames that are drawn before the first
        mend: IoU below which a reviewer mends
    """

    def __init__(self, server: LocalCVAT, sequence: Clip, rounds: int, begin: int, mend: float = MEND_BELOW) -> None:
        self._server = server
        self._sequence = sequence
        self._rounds = rounds
        self._begin = begin
        self._mend = mend

    def rows(self) -> Iterator[Row]:
        """All ways, in the order in which they are printed."""
        everything = [(frame, i) for frame, here in enumerate(self._sequence.truth) for i in here]
        yield self._drawn("every frame", everything, 1.0)
        with self._begun() as (dataset, results):
            for row in self._loop(dataset, results):
                last = row
                yield row
            ids = self._true_ids(_shown(dataset))
            keyframes = Counter({ids[i]: count for i, count in _keyframes(dataset).items() if i in ids})
        for way, engine in (("CVAT alone", "interpolate"), ("exemplars only", "flow")):
            evenly = self._evenly(way, engine, keyframes)
            yield evenly
        share = last.clicks / max(1, evenly.clicks)
        fewer = {i: max(1, round(count * share)) for i, count in keyframes.items()}
        yield self._evenly("exemplars only, same clicks", "flow", fewer)

    def _evenly(self, way: str, engine: str, counts: Mapping[int, int]) -> Row:
        """Keyframes evenly spread over each object, drawn from nothing."""
        prompts = list(_spread(self._sequence.truth, counts))
        shown = [(prompt.frame, prompt.object_id) for prompt in prompts if prompt.kind is not PromptKind.ABSENT]
        return self._drawn(way, shown, self._filled(engine, prompts))

    def _loop(self, dataset: fo.Dataset, results: Any) -> Iterator[Row]:
        from labelprop_cvat.demo.people import ScriptedPeople

        every = LOOK_EVERY_AT_BOXES if self._sequence.boxes else LOOK_EVERY
        people = ScriptedPeople(self._server, self._known, shape=self._shape, every=every, threshold=self._mend)
        played = drawn = 0
        while played < len(results.ledger.rounds):
            played = len(results.ledger.rounds)
            people.work(results)
            dataset.load_annotations(_RUN)
            results = dataset.load_annotation_results(_RUN)
            last = results.ledger.rounds[played - 1]
            minutes = sum(cost.modelled_minutes for cost in results.effort()[:played])
            if not last.is_review:
                drawn = self._clicks(
                    (frame, i)
                    for record in results.ledger.sequences.values()
                    for segment in record.segments
                    for frame in segment.exemplars
                    for i in self._sequence.truth[frame]
                )
            done = people.reviewed
            answers = done.resolved + sum(done.verdicts.values())
            yield Row(
                f"review {played - 1}" if last.is_review else "loop: exemplars",
                sum(_keyframes(dataset).values()),
                self._score(_shown(dataset)),
                minutes,
                drawn + done.clicks - answers,
                answers,
                sum(n for what, n in last.edits.items() if what not in NO_CHANGE) if last.is_review else None,
            )

    @contextmanager
    def _begun(self) -> Iterator[tuple[fo.Dataset, Any]]:
        """A dataset of the sequence whose first frames are in CVAT; deleted at the end."""
        import fiftyone as fo

        dataset = fo.Dataset(f"review of {self._sequence.name}", overwrite=True)
        samples = [fo.Sample(str(path), number=number) for number, path in enumerate(self._sequence.images)]
        dataset.add_samples(samples, progress=False)
        results = dataset.annotate(
            _RUN,
            backend="labelprop",
            label_field=_FIELD,
            label_type="detections" if self._sequence.boxes else "instances",
            classes=["object"],
            sort_field="number",
            segmentation="none",
            exemplars=f"uniform:{self._begin}",
            engine="flow",
            engine_options={"max_pixels": QUICK_PIXELS},
            missing="absent",
            review=True,
            max_rounds=self._rounds,
            url=self._server.url,
            username=self._server.username,
            password=self._server.password,
        )
        try:
            yield dataset, results
        finally:
            results.cleanup(force=True)
            dataset.delete()

    @property
    def _shape(self) -> ShapeKind:
        return "rectangle" if self._sequence.boxes else "mask"

    def _known(self, name: str) -> list[TruthObject]:
        return [self._known_object(i, thing) for i, thing in sorted(self._sequence.truth[int(name)].items())]

    def _known_object(self, index: int, thing: Thing) -> TruthObject:
        from labelprop_cvat.backend.local_cvat.annotator import TruthObject

        if isinstance(thing, ObjectMask):
            return TruthObject(index, "object", mask=thing)
        return TruthObject(index, "object", box=thing)

    def _drawn(self, way: str, things: Sequence[tuple[int, int]], j: float) -> Row:
        """What it costs to draw some objects on some frames from nothing."""
        frames = len({frame for frame, _ in things})
        drawn = {"boxes": len(things)} if self._sequence.boxes else {"masks": len(things)}
        return Row(way, len(things), j, _MODEL.minutes(Actions(**drawn, examined=frames)), self._clicks(things))

    def _clicks(self, things: Iterable[tuple[int, int]]) -> int:
        from labelprop_cvat.backend.local_cvat.annotator.reviewer import clicks_to_draw

        return sum(clicks_to_draw(self._shape, self._known_object(i, self._sequence.truth[f][i])) for f, i in things)

    def _filled(self, engine: str, prompts: Sequence[Prompt]) -> float:
        """J of an engine, outside FiftyOne."""
        if not prompts:
            return 0.0
        options = {"max_pixels": QUICK_PIXELS} if engine == "flow" else {}
        segment = Segment(0, len(self._sequence.truth))
        source = ImageSequenceSource(self._sequence.images)
        answers = {
            answer.frame: {i: _thing(state) for i, state in answer.objects.items()}
            for answer in get_propagator(engine, **options).propagate(source, prompts, segment)
        }
        return self._score(answers)

    def _true_ids(self, shown: Mapping[int, Mapping[int, Thing | None]]) -> dict[int, int]:
        """Which true object each index stands for: objects that reviewers draw get indices of their own."""
        weights: defaultdict[tuple[int, int], float] = defaultdict(float)
        for frame, truth in enumerate(self._sequence.truth):
            for i, thing in shown.get(frame, {}).items():
                for true_id, true_thing in truth.items():
                    weights[i, true_id] += _overlap(thing, true_thing)
        return assign({pair: weight for pair, weight in weights.items() if weight > 0})

    def _score(self, shown: Mapping[int, Mapping[int, Thing | None]]) -> float:
        overlaps = []
        ids = self._true_ids(shown)
        for frame, truth in enumerate(self._sequence.truth):
            # What stands for nothing is one more object that should not be there.
            found = {ids.get(i, -i): thing for i, thing in shown.get(frame, {}).items()}
            here = {i: thing for i, thing in found.items() if thing is not None}
            overlaps += [_overlap(here.get(i), truth.get(i)) for i in sorted(here.keys() | truth.keys())]
        return float(np.mean(overlaps)) if overlaps else math.nan


def _thing(state: ObjectState) -> Thing | None:
    return state.mask if state.mask is not None else state.box


def _overlap(one: Thing | None, other: Thing | None) -> float:
    if one is None or other is None:
        return 0.0
    if isinstance(one, ObjectMask) and isinstance(other, ObjectMask):
        return jaccard(one, other)
    return box_iou(_box(one), _box(other))


def _box(thing: Thing) -> Box:
    return thing.box if isinstance(thing, ObjectMask) else thing


def _shown(dataset: fo.Dataset) -> dict[int, dict[int, Thing | None]]:
    """What the output field holds."""
    from labelprop_cvat.labels import read_states
    from labelprop_cvat.sequences import sequences_of

    (sequence,) = sequences_of(dataset, sort_field="number")
    return {
        objects.frame: {i: _thing(state) for i, state in objects.objects.items()}
        for objects, _ in read_states(dataset, sequence, f"{_FIELD}_propagated")
    }


def _keyframes(dataset: fo.Dataset) -> Counter[int]:
    """How many labels people set, by object."""
    return Counter(
        label.index
        for labels in dataset.values(f"{_FIELD}.detections")
        for label in labels or ()
        if label.index is not None
    )


def _spread(truth: Sequence[Mapping[int, Thing]], counts: Mapping[int, int]) -> Iterator[Prompt]:
    """As many keyframes of each object as ``counts`` says, evenly over the frames that show it; where it comes and goes
    is said for nothing."""
    for i, count in sorted(counts.items()):
        there = [frame for frame, objects in enumerate(truth) if i in objects]
        if not there:
            continue
        picks = np.unique(np.round(np.linspace(0, len(there) - 1, min(count, len(there)))).astype(int))
        for frame in (there[pick] for pick in picks):
            thing = truth[frame][i]
            yield Prompt(frame, i, mask=thing) if isinstance(thing, ObjectMask) else Prompt(frame, i, box=thing)
        for frame in range(len(truth)):
            neighbours = {frame - 1, frame + 1} & set(there)
            if i not in truth[frame] and neighbours:
                yield Prompt(frame, i, absent=True)


def folders_of(data: Path, limit: int | None) -> list[Path]:
    """The sequences of masks, and after them those of boxes; of each kind only some of them where there is a limit."""
    boxes = sorted(
        folder for folder in data.glob("*") if (folder / "boxes.csv").is_file() and not (folder / "masks").is_dir()
    )
    masks = mask_folders(data)
    if limit is None:
        return [*masks, *boxes]
    kept = boxes[: max(1, limit // 3)] if boxes else []
    return [*masks[: limit - len(kept)], *kept]


def read_sequence(folder: Path, place: Path, full: bool) -> Clip:
    """Halves a sequence's pictures into ``place``, and thins it unless it shall be ``full``."""
    source = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    height, width = source.size
    has_masks = (folder / "masks").is_dir()
    every = 1 if full else math.ceil(len(source) / (QUICK_FRAMES if has_masks else QUICK_BOX_FRAMES))
    true: Sequence[Mapping[int, Thing]] = list(read_masks(folder)) if has_masks else read_boxes(folder)
    paths: list[Path] = []
    truth = []
    for index, objects in list(enumerate(true))[::every]:
        image = cv2.resize(source[index], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        paths.append(place / f"{len(paths):05d}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        halves = {i: _halved(thing, height, width) for i, thing in objects.items()}
        truth.append({i: thing for i, thing in halves.items() if thing is not None})
    return Clip(folder.name, tuple(paths), tuple(truth))


def _halved(thing: Thing, height: int, width: int) -> Thing | None:
    if isinstance(thing, ObjectMask):
        return ObjectMask.from_full(thing.to_full((height, width))[: height // 2 * 2 : 2, : width // 2 * 2 : 2])
    x1, y1, x2, y2 = (value / 2 for value in thing)
    # Some truth goes beyond the picture, where nobody draws.
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width // 2), min(y2, height // 2)
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def report(
    data: Path,
    quick: bool = False,
    limit: int | None = None,
    *,
    full: bool = False,
    rounds: int = ROUNDS,
    begin: int = BEGIN,
    only: Sequence[str] = (),
    mend: float = MEND_BELOW,
) -> list[str]:
    """Prints the tables as Markdown; says so when there is no data.

    Args:
        data: folder of sequences
        quick: three sequences only
        limit: only so many sequences, of both kinds
        full: all frames instead of about 28
        rounds: how many reviews are played at most
        begin: frames that are drawn before the first
        only: names of sequences
        mend: IoU below which a reviewer mends

    Returns:
        the lines that were printed
    """
    folders = [
        folder for folder in folders_of(data, QUICK_SEQUENCES if quick else limit) if not only or folder.name in only
    ]
    if not folders:
        print(f"No sequences in {data}: nothing to review. Name a folder with --data.")
        return []
    use_own_database()
    import fiftyone as fo

    import labelprop_cvat  # noqa: F401 - registers the backend
    from labelprop_cvat.backend.local_cvat import LocalCVAT

    fo.config.show_progress_bars = False
    lines: list[str] = []

    def say(line: str = "") -> None:
        lines.append(line)
        print(line, flush=True)

    length = ("all", "all") if full else (f"about {QUICK_FRAMES}", f"up to {QUICK_BOX_FRAMES}")
    say(
        f"{begin} frames drawn, then reviews: a look at every {LOOK_EVERY}th frame (boxes: {LOOK_EVERY_AT_BOXES}th) "
        f"and at the issues, mended below an IoU of {mend}. {length[0].capitalize()} frames of a sequence "
        f"(boxes: {length[1]}), half the size. Clicks: share of what every frame takes."
    )
    say()
    say("| sequence | way | keyframes | changed | J | minutes | clicks | with verdicts |")
    say("|---|---|---:|---:|---:|---:|---:|---:|")
    started = time.perf_counter()
    outcomes = []
    with LocalCVAT(users={"bench": "only-on-this-machine"}, anonymous_rate=None) as server:
        for folder in folders:
            with tempfile.TemporaryDirectory(prefix="labelprop-review-") as place:
                sequence = read_sequence(folder, Path(place), full)
                rows = []
                for row in Bench(server, sequence, rounds, begin, mend).rows():
                    rows.append(row)
                    changed = "" if row.changed is None else str(row.changed)
                    shares = [clicks / rows[0].clicks for clicks in (row.clicks, row.clicks + row.answers)]
                    numbers = f"{row.keyframes} | {changed} | {row.j:.3f} | {row.minutes:.1f}"
                    say(f"| {sequence.name} | {row.way} | {numbers} | {shares[0]:.0%} | {shares[1]:.0%} |")
                outcomes.append((sequence, rows))
    say()
    _print_goal(outcomes, say)
    say()
    say(f"{len(folders)} sequences, {time.perf_counter() - started:.0f} s")
    return lines


def _print_goal(outcomes: Sequence[tuple[Clip, list[Row]]], say: Any) -> None:
    """Where the loop reaches the goal, and what the other ways make of the same keyframes."""
    say(f"Goal: J of {GOAL_J} for less than {GOAL_CLICKS:.0%} of the clicks of every frame.")
    say()
    ways = "begun with | reviewed | CVAT alone | exemplars only | same clicks"
    say(f"| sequence | objects on frames | {ways} | clicks | minutes | goal |")
    say("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    table = []
    for sequence, rows in outcomes:
        named = {row.way: row for row in rows}
        loop = [row for row in rows if row.way.startswith(("loop", "review"))]
        # The first round that reaches the goal is what it costs; else the last.
        reached = next((row for row in loop if row.j >= GOAL_J), loop[-1])
        clicks, minutes = reached.clicks / rows[0].clicks, reached.minutes / rows[0].minutes
        missed = [
            *([f"J {reached.j:.3f}"] if reached.j < GOAL_J else []),
            *([f"{clicks:.0%} of the clicks"] if clicks >= GOAL_CLICKS else []),
        ]
        others = [named[way].j for way in ("CVAT alone", "exemplars only", "exemplars only, same clicks")]
        table.append((loop[0].j, loop[-1].j, *others, clicks, minutes))
        numbers = " | ".join(f"{value:.3f}" for value in table[-1][:5])
        say(
            f"| {sequence.name}{' (boxes)' if sequence.boxes else ''} | {sequence.labels} | {numbers} | {clicks:.0%} "
            f"| {minutes:.0%} | {'reached' if not missed else 'missed: ' + ', '.join(missed)} |"
        )
    means = np.mean(table, axis=0).tolist()
    numbers = " | ".join(f"{value:.3f}" for value in means[:5])
    say(f"| **mean** | | {numbers} | {means[5]:.0%} | {means[6]:.0%} | |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.review", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEQUENCES} sequences only")
    parser.add_argument("--limit", type=int, help="only so many sequences")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these sequences")
    parser.add_argument("--mend", type=float, default=MEND_BELOW, help="reviewers mend below this IoU (%(default)s)")
    parser.add_argument("--full", action="store_true", help="all frames of the sequences")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="reviews to play at most (default: %(default)s)")
    parser.add_argument("--begin", type=int, default=BEGIN, help="frames drawn at first (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write what is printed to {RESULTS.name}, too")
    options = parser.parse_args()
    lines = report(
        options.data,
        options.quick,
        options.limit,
        full=options.full,
        rounds=options.rounds,
        begin=options.begin,
        only=options.only,
        mend=options.mend,
    )
    if options.write and lines:
        head = ["# The review loop", "", "`python -m benchmarks.review`, whose top says what it does.", ""]
        RESULTS.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
