"""``python -m benchmarks.rounds``: what rounds of annotating cost, and what they make of a sequence.

Scripted annotators, a little careless, work on a local CVAT server: they draw the first exemplars from nothing, leave
propagated masks that go along with later rounds where these are good enough, mend the others, and take away what is not
there. After each round the engine ``flow`` fills the sequence anew. Compared are, with the same number of frames:

- ``suggest``: the frames that ``workflow.suggest`` names, with propagated masks to be corrected
- ``widest gaps``: frames in the middle of the widest gaps, with propagated masks to be corrected
- ``uniform``: all frames evenly spaced and drawn from nothing, in one round
- ``first frame``: one frame, and that is it

J is the mean over all frames, annotated ones included with what was drawn there; "drawn J" is that of the annotated
ones alone. Minutes are those of ``EffortModel``. Last comes what every frame would cost, drawn from nothing.

Data is a folder of sequences as for ``benchmarks.quality``; they are thinned to about 40 frames of half the size.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks.choosing import QUICK_PIXELS, Footage, read_footage
from benchmarks.quality import DEFAULT_DATA, mask_folders
from labelprop_cvat.backend.cvat import Credentials, CVATClient
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import ScriptedAnnotator, Sloppiness, TruthObject
from labelprop_cvat.propagation.effort import Actions, EffortModel
from labelprop_cvat.propagation.metrics import jaccard

if TYPE_CHECKING:
    import fiftyone as fo

ROUNDS = 3
BEGIN = 3
ADD = 3
QUICK_SEQUENCES = 2
#: Outlines are off by up to a pixel; what has an IoU of 0.9 with what would be drawn is left as it is.
HAND = Sloppiness(mask_wobble=1, content=0.9)
_FIELD = "objects"
_RUN = "rounds"


@dataclass(frozen=True)
class Row:
    """What one way of annotating had come to after a round.

    Args:
        way: its name
        frames: how many were annotated
        j: mean J of all frames, in [0, 1]
        drawn: that of the annotated ones: as good as the hand that drew them
        minutes: modelled work
    """

    way: str
    frames: int
    j: float
    drawn: float
    minutes: float


@dataclass(frozen=True)
class Bench:
    """Where the work is done.

    Args:
        server: local CVAT
        folder: for pictures
        footage: the sequence
        rounds: how many to play
        hand: how careless the annotators are, and what they leave as it is
    """

    server: LocalCVAT
    folder: Path
    footage: Footage
    rounds: int
    hand: Sloppiness = HAND

    def rows(self) -> Iterator[Row]:
        """All ways, in the order in which they are printed."""
        for way, choose in (("suggest", _suggested), ("widest gaps", _widest_gaps)):
            with self._begun(f"uniform:{BEGIN}") as (dataset, results):
                yield self._annotated(way, dataset, results)
                for _ in range(1, self.rounds):
                    refs = choose(results)
                    if not refs:
                        break
                    results.send_round(refs)
                    yield self._annotated(way, dataset, results)
        for number in range(self.rounds):
            with self._begun(f"uniform:{BEGIN + number * ADD}") as (dataset, results):
                yield self._annotated("uniform", dataset, results)
        with self._begun("first") as (dataset, results):
            yield self._annotated("first frame", dataset, results)

    @contextmanager
    def _begun(self, exemplars: str) -> Iterator[tuple[fo.Dataset, Any]]:
        """A dataset of the sequence whose exemplars are in CVAT; deleted at the end."""
        import fiftyone as fo

        # What a scripted annotator gets wrong depends on the name of the task, and so on that of the dataset.
        dataset = fo.Dataset(f"rounds of {self.footage.name}", overwrite=True)
        paths = sorted(self.folder.glob("*.png"))
        dataset.add_samples([fo.Sample(str(path), number=number) for number, path in enumerate(paths)], progress=False)
        results = dataset.annotate(
            _RUN,
            backend="labelprop",
            label_field=_FIELD,
            label_type="instances",
            classes=["object"],
            sort_field="number",
            segmentation="none",
            exemplars=exemplars,
            engine="flow",
            engine_options={"max_pixels": QUICK_PIXELS},
            missing="absent",
            url=self.server.url,
            username=self.server.username,
            password=self.server.password,
        )
        try:
            yield dataset, results
        finally:
            results.cleanup(force=True)
            dataset.delete()

    def _annotated(self, way: str, dataset: fo.Dataset, results: Any) -> Row:
        """Plays the round that waits in CVAT and scores what became of the sequence."""
        login = Credentials(username=self.server.username, password=self.server.password)
        with CVATClient(self.server.url, login) as client:
            annotator = ScriptedAnnotator(client, self._truth, self.hand)
            for task in results.ledger.rounds[-1].tasks:
                annotator.annotate_task(task.server_id, shape="mask", tidy=True)
        dataset.load_annotations(_RUN)
        exemplars = {
            frame
            for record in results.ledger.sequences.values()
            for part in record.segments
            for frame in part.exemplars
        }
        minutes = sum(cost.modelled_minutes for cost in results.effort())
        scores = self._scores(dataset)
        drawn = float(np.mean([scores[frame] for frame in exemplars]))
        return Row(way, len(exemplars), float(np.mean(scores)), drawn, minutes)

    def _truth(self, _task: str, frame: str) -> list[TruthObject]:
        number = int(PurePath(frame).stem)
        return [TruthObject(i, "object", mask=mask) for i, mask in sorted(self.footage.truth[number].items())]

    def _scores(self, dataset: fo.Dataset) -> list[float]:
        """Mean J of the objects by frame; one that is rightly absent counts 1."""
        from labelprop_cvat.labels import read_states
        from labelprop_cvat.sequences import sequences_of

        (sequence,) = sequences_of(dataset, sort_field="number")
        scores = []
        for here, _ in read_states(dataset, sequence, f"{_FIELD}_propagated"):
            truth = self.footage.truth[here.frame]
            states = {i: here.objects.get(i) for i in self.footage.ids}
            scores.append(float(np.mean([jaccard(s.mask if s else None, truth.get(i)) for i, s in states.items()])))
        return scores

    def every_frame(self, drawn: float) -> Row:
        """What it costs to draw everything, by a hand that is as good as ``drawn`` says."""
        masks = sum(len(objects) for objects in self.footage.truth)
        minutes = EffortModel().minutes(Actions(masks=masks, examined=len(self.footage.truth)))
        return Row("every frame", len(self.footage.truth), drawn, drawn, minutes)


def _suggested(results: Any) -> list[Any]:
    # The target is beyond reach, so that as many frames come as the other ways get.
    return [frame.ref for frame in results.suggest(ADD, target=1.0)]


def _widest_gaps(results: Any) -> list[Any]:
    """The middles of the widest gaps between annotated frames, one after the other."""
    (record,) = results.ledger.sequences.values()
    (segment,) = record.segments
    known, chosen = set(segment.exemplars), []
    for _ in range(ADD):
        free = set(range(segment.start, segment.stop)) - known
        if not free:
            break
        # Of several that are as far from their neighbours the first.
        best = max(sorted(free), key=lambda frame: min(abs(frame - other) for other in known))
        known.add(best)
        chosen.append(record.ref(best))
    return chosen


def report(data: Path, quick: bool = False, limit: int | None = None, rounds: int = ROUNDS) -> None:
    """Prints the table; says so when there is no data.

    Args:
        data: folder of sequences
        quick: two sequences only
        limit: only the first so many sequences
        rounds: how many rounds are played
    """
    folders = mask_folders(data)
    folders = folders[: QUICK_SEQUENCES if quick else limit]
    if not folders:
        print(f"No sequences in {data}: nothing to annotate in rounds. Name a folder with --data.")
        return
    with _database(), _quiet():
        total: dict[tuple[str, int], list[Row]] = {}
        print(
            f"\nRounds of annotating: {BEGIN} frames, then {ADD} more at a time; mean J of all frames, modelled minutes"
        )
        print(f"{'sequence':<26}{'way':<14}{'frames':>7}{'J':>8}{'drawn J':>9}{'minutes':>10}")
        started = time.perf_counter()
        with LocalCVAT(users={"bench": "only-on-this-machine"}, anonymous_rate=None) as server:
            for folder in folders:
                footage = read_footage(folder, quick=True)
                with tempfile.TemporaryDirectory(prefix="labelprop-rounds-") as place:
                    _write(footage, Path(place))
                    bench = Bench(server, Path(place), footage, rounds)
                    numbers: dict[str, int] = {}
                    rows = list(bench.rows())
                    drawn = next(row.drawn for row in reversed(rows) if row.way == "uniform")
                    for row in (*rows, bench.every_frame(drawn)):
                        numbers[row.way] = numbers.get(row.way, 0) + 1
                        total.setdefault((row.way, numbers[row.way]), []).append(row)
                        _print(folder.name, row)
        for played in total.values():
            if len(played) == len(folders):
                table = np.array([(row.frames, row.j, row.drawn, row.minutes) for row in played])
                frames, j, drawn, minutes = table.mean(axis=0).tolist()
                _print("mean", Row(played[0].way, round(frames), j, drawn, minutes))
        print(f"{len(folders)} sequences, {time.perf_counter() - started:.0f} s", flush=True)


def _print(sequence: str, row: Row) -> None:
    numbers = f"{row.frames:>7}{row.j:>8.3f}{row.drawn:>9.3f}{row.minutes:>10.1f}"
    print(f"{sequence:<26}{row.way:<14}{numbers}", flush=True)


def _write(footage: Footage, folder: Path) -> None:
    for index, image in footage.frames.read(0, len(footage.frames)):
        cv2.imwrite(str(folder / f"{index:05d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@contextmanager
def _database() -> Iterator[None]:
    """A database of this process's own. FiftyOne must not have been imported yet."""
    from labelprop_cvat.demo.database import PrivateDatabase

    database = PrivateDatabase()
    os.environ.update(
        FIFTYONE_DATABASE_URI=database.uri, FIFTYONE_DATABASE_VALIDATION="false", FIFTYONE_DO_NOT_TRACK="1"
    )
    try:
        yield
    finally:
        database.stop()


@contextmanager
def _quiet() -> Iterator[None]:
    import fiftyone as fo

    import labelprop_cvat  # noqa: F401 - registers the backend

    before = fo.config.show_progress_bars
    fo.config.show_progress_bars = False
    logging.getLogger("fiftyone").setLevel(logging.WARNING)
    try:
        yield
    finally:
        fo.config.show_progress_bars = before


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.rounds", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEQUENCES} sequences only")
    parser.add_argument("--limit", type=int, help="only the first so many sequences")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds to play (default: %(default)s)")
    options = parser.parse_args()
    report(options.data, options.quick, options.limit, options.rounds)


if __name__ == "__main__":
    main()
