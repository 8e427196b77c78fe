"""``python -m benchmarks.quality``: J and F of every embedded engine beside each other, and box IoU.

Data is a folder of sequences: ``NAME/frames/*.jpg`` with ``NAME/masks/*.png`` (pixel value = object id) or
``NAME/boxes.csv`` (``frame,track_id,x,y,w,h,label``). Frames that were given as exemplars are not scored.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PILImage

from labelprop_cvat.propagation.calibration import GOOD_J, calibrate
from labelprop_cvat.propagation.frames import ImageSequenceSource
from labelprop_cvat.propagation.metrics import FrameScore, box_iou, score_sequence
from labelprop_cvat.propagation.propagator import Propagator, get_propagator
from labelprop_cvat.propagation.types import Box, ObjectMask, Prompt, Segment

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ENGINES = ("flow", "hold", "interpolate")
EVERY = 10
BOX_GAPS = (5, 10, 20, 40)

Masks = tuple[Mapping[int, ObjectMask], ...]


@dataclass(frozen=True)
class MaskRow:
    """One engine on one sequence: J and F in %, with an exemplar every 10th frame and with the first frame only."""

    engine: str
    sequence: str
    every: tuple[float, float]
    first: tuple[float, float]
    seconds_per_frame: float
    scores: tuple[FrameScore, ...]


def report(data: Path, limit: int | None = None, processes: int = 2) -> None:
    """Prints the tables; says so when there is no data.

    Args:
        data: folder of sequences
        limit: only the first so many sequences
        processes: how many sequences to run side by side
    """
    masks = mask_folders(data)[:limit]
    boxes = box_folders(data)[:limit]
    if not masks and not boxes:
        print(f"No sequences in {data}: nothing to measure quality on. Name a folder with --data.")
        return
    with ProcessPoolExecutor(processes) as pool:
        if masks:
            print_masks(list(pool.map(mask_row, *zip(*[(f, e) for f in masks for e in ENGINES], strict=True))))
        jobs = [(folder, gap) for folder in boxes for gap in BOX_GAPS] + [(folder, EVERY) for folder in masks]
        _print_boxes(jobs, list(pool.map(box_row, *zip(*jobs, strict=True))))


def mask_folders(data: Path) -> list[Path]:
    """The sequences with masks, sorted by name; those of several shots are left out."""
    return [folder for folder in _folders(data) if (folder / "masks").is_dir() and not _has_cuts(folder)]


def box_folders(data: Path) -> list[Path]:
    """The sequences that have boxes only, sorted by name."""
    return [folder for folder in _folders(data) if not (folder / "masks").is_dir()]


def mask_row(folder: Path, engine: str, propagator: Propagator | None = None) -> MaskRow:
    """Propagates one sequence twice and scores it.

    Args:
        folder: the sequence
        engine: name of the engine
        propagator: the engine itself, where it has options or is costly to make
    """
    propagator = propagator or get_propagator(engine)
    cv2.setNumThreads(1)
    frames = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    truth = read_masks(folder)
    started = time.perf_counter()
    every = _score(propagator, frames, truth, tuple(range(0, len(frames), EVERY)))
    first = _score(propagator, frames, truth, (0,))
    seconds = (time.perf_counter() - started) / (2 * len(frames))
    return MaskRow(engine, folder.name, every[:2], first[:2], seconds, every[2] + first[2])


def box_row(folder: Path, gap: int) -> tuple[float, float]:
    """Mean IoU of ``flow`` and of linear interpolation with a keyframe every ``gap`` frames."""
    cv2.setNumThreads(1)
    frames = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    truth = read_boxes(folder)
    prompts = list(_box_prompts(truth, len(frames), gap))
    given = {(prompt.frame, prompt.object_id) for prompt in prompts}
    means = []
    for engine in ("flow", "interpolate"):
        overlaps = []
        for result in get_propagator(engine).propagate(frames, prompts, Segment(0, len(frames))):
            for object_id, box in truth[result.frame].items():
                if (result.frame, object_id) in given:
                    continue
                state = result.objects.get(object_id)
                overlaps.append(box_iou(state.box, box) if state is not None and state.box is not None else 0.0)
        means.append(float(np.mean(overlaps)))
    return means[0], means[1]


@lru_cache(maxsize=2)
def read_masks(folder: Path) -> Masks:
    """The true objects of every frame."""
    frames = []
    for path in sorted((folder / "masks").glob("*.png")):
        ids = np.asarray(PILImage.open(path))
        frames.append({int(i): mask for i in np.unique(ids) if i and (mask := ObjectMask.from_full(ids == i))})
    return tuple(frames)


def read_boxes(folder: Path) -> list[dict[int, Box]]:
    """The true boxes of every frame: from the masks where there are any, else from ``boxes.csv``."""
    if (folder / "masks").is_dir():
        return [
            {i: (float(m.box[0]), float(m.box[1]), float(m.box[2]), float(m.box[3])) for i, m in objects.items()}
            for objects in read_masks(folder)
        ]
    frames: list[dict[int, Box]] = [{} for _ in (folder / "frames").glob("*.jpg")]
    with (folder / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            x, y, width, height = (float(row[name]) for name in "xywh")
            frames[int(row["frame"])][int(row["track_id"])] = (x, y, x + width, y + height)
    return frames


def _score(
    engine: Propagator, frames: ImageSequenceSource, truth: Masks, annotated: tuple[int, ...]
) -> tuple[float, float, tuple[FrameScore, ...]]:
    prompts = [Prompt(f, object_id, mask=mask) for f in annotated for object_id, mask in truth[f].items()]
    results = engine.propagate(frames, prompts, Segment(0, len(frames)))
    score = score_sequence(results, truth.__getitem__, annotated, frames.size)
    return 100 * score.j, 100 * score.f, score.frames


def _box_prompts(truth: list[dict[int, Box]], length: int, gap: int) -> Iterator[Prompt]:
    """Keyframes as an annotator sets them: where it comes, now and then, where it was last seen; then absent."""
    for object_id in sorted({object_id for boxes in truth for object_id in boxes}):
        there = [object_id in boxes for boxes in truth]
        for frame in range(length):
            comes = there[frame] and (frame == 0 or not there[frame - 1])
            last = there[frame] and (frame + 1 == length or not there[frame + 1])
            if comes or last or (there[frame] and frame % gap == 0):
                yield Prompt(frame, object_id, box=truth[frame][object_id])
            if not there[frame] and frame and there[frame - 1]:
                yield Prompt(frame, object_id, absent=True)


def _folders(data: Path) -> list[Path]:
    return sorted(folder for folder in data.glob("*") if (folder / "frames").is_dir())


def _has_cuts(folder: Path) -> bool:
    # A sequence of several shots is propagated shot by shot; that is not what is measured here.
    return folder.name.startswith("scenes")


def print_masks(rows: list[MaskRow], engines: Sequence[str] = ENGINES) -> None:
    """Prints J and F of several engines beside each other; of the first one also its speed and confidence."""
    foremost = engines[0]
    sequences = sorted({row.sequence for row in rows})
    table = {(row.sequence, row.engine): row for row in rows}
    print(
        f"\nJ/F in %, mean over the frames that were not annotated; exemplar every {EVERY}th frame | first frame only"
    )
    print("sequence".ljust(26) + "".join(f"{engine:^26}" for engine in engines) + f"{foremost}, ms/frame")
    for sequence in sequences:
        cells = "".join(_cell(table[sequence, engine].every, table[sequence, engine].first) for engine in engines)
        print(sequence.ljust(26) + cells + f"{1000 * table[sequence, foremost].seconds_per_frame:8.0f}")
    means = []
    for engine in engines:
        mine = [row for row in rows if row.engine == engine]
        every, first = (np.mean([getattr(row, name) for row in mine], axis=0) for name in ("every", "first"))
        means.append(_cell((every[0], every[1]), (first[0], first[1])))
    print("mean".ljust(26) + "".join(means))
    print(_confidence_line(foremost, [score for row in rows if row.engine == foremost for score in row.scores]))


def _cell(every: tuple[float, float], first: tuple[float, float]) -> str:
    return f"{every[0]:5.1f}/{every[1]:5.1f} | {first[0]:4.1f}/{first[1]:4.1f}".ljust(26)


def _confidence_line(engine: str, scores: list[FrameScore]) -> str:
    """How well the confidence of an engine tells good frames (J >= 0.75) from bad ones."""
    worth = calibrate([score.confidence for score in scores], [score.j for score in scores])
    if math.isnan(worth.auroc):
        return "confidence: too few good or bad frames to say how well it ranks them"
    return (
        f"confidence of {engine} against J: AUROC of J < {GOOD_J} {worth.auroc:.3f}, Spearman {worth.spearman:.3f}, "
        f"expected calibration error {worth.error:.3f}"
    )


def _print_boxes(jobs: list[tuple[Path, int]], rows: list[tuple[float, float]]) -> None:
    print("\nmean IoU of boxes between keyframes")
    print("sequence".ljust(26) + "keyframes every".ljust(18) + "flow".ljust(8) + "interpolate")
    for (folder, gap), (flow, line) in zip(jobs, rows, strict=True):
        print(f"{folder.name:<26}{gap:<18}{flow:<8.3f}{line:.3f}{'   <- worse' if flow < line - 0.0005 else ''}")


def main() -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many sequences of each kind")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    report(options.data, options.limit, options.processes)


if __name__ == "__main__":
    main()
