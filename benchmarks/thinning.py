"""``python -m benchmarks.thinning``: how many keyframes a reviewed track needs, and what the thinned one shows.

Tracks of a folder of sequences, as for ``benchmarks.quality``, are thinned in several ways, and then shown by the rule
of CVAT's server between their keyframes:

- ``every frame``: a keyframe on each frame
- ``every 10th``: on every tenth frame and on both ends of what is visible without a break
- ``greedy``: from each keyframe on as far as every frame is good enough
- ``labelprop``: the fewest, which is what a review round sends
- ``labelprop, IoU 0.9``: the fewest where that is good enough; how good the frames are is told by the common rule

A frame is good enough with an IoU of 0.97 or where nothing is off by more than a pixel. Keyframes are counted with
those that hide an object, per 100 frames on which it is visible. The worst IoU and the worst number of pixels are those
of one frame each, not of the same one: a frame needs only one of the two. Boxes are the true ones, those around the
true masks, and those that ``flow`` makes from every tenth frame; polygons are made of the same masks.

A second table says what is lost where masks are reviewed as polygons.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.quality import DEFAULT_DATA, EVERY, mask_folders, read_boxes, read_masks
from labelprop_cvat.backend.interpolation import TrackShape, Way
from labelprop_cvat.backend.local_cvat.interpolation import interpolate_track
from labelprop_cvat.backend.outlines import polygon_track
from labelprop_cvat.backend.thinning import Tolerance, is_good, needed_keyframes
from labelprop_cvat.propagation.frames import ImageSequenceSource
from labelprop_cvat.propagation.metrics import box_iou
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment, rasterize

TOLERANCE = Tolerance()
LOOSER = Tolerance(iou=0.9)
RESULTS = Path(__file__).parent / "results" / "thinning.md"
SOURCES = ("truth", "flow")

Shapes = Mapping[int, TrackShape]
Choice = Callable[[Shapes, str, Sequence[int]], Collection[int]]


@dataclass(frozen=True)
class Thinned:
    """One way of thinning on the tracks of one sequence.

    Args:
        way: its name
        keyframes: sent, those that hide an object included
        visible: frames on which an object is visible, summed over the objects
        iou: of the worst frame
        pixels: how far the worst frame is off
        good: share of the visible frames that are good enough, in [0, 1]
        seconds: to choose the keyframes
    """

    way: str
    keyframes: int
    visible: int
    iou: float
    pixels: float
    good: float
    seconds: float


@dataclass(frozen=True)
class Loss:
    """What is lost where the masks of one sequence become polygons.

    Args:
        points: of a polygon, median and most
        iou: with the mask, mean and lowest
        attainable: the same if the largest part without holes were kept exactly
    """

    points: tuple[float, int]
    iou: tuple[float, float]
    attainable: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The tracks of one sequence in one shape."""

    source: str
    sequence: str
    shape_type: str
    ways: tuple[Thinned, ...]
    loss: Loss | None = None


def report(data: Path, quick: bool = False, processes: int = 2, sources: Sequence[str] = SOURCES) -> list[Row]:
    """Prints the tables; says so when there is no data.

    Args:
        data: folder of sequences
        quick: two sequences of masks and the true tracks only
        processes: how many sequences to work on side by side
        sources: ``"truth"``, or an engine that makes the tracks from every tenth frame
    """
    masks = mask_folders(data)
    boxes = [path.parent for path in sorted(data.glob("*/boxes.csv")) if not (path.parent / "masks").is_dir()]
    if quick:
        masks, sources = masks[:2], sources[:1]
    if not masks and not boxes:
        print(f"No sequences in {data}: nothing to thin. Name a folder with --data.")
        return []
    jobs = [(folder, source) for source in sources for folder in (*boxes, *masks)]
    rows: list[Row] = []
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(_rows, *zip(*jobs, strict=True)):
            rows += found
            print(f"thinned {found[0].sequence} ({found[0].source})", file=sys.stderr, flush=True)
    print(tables(rows))
    return rows


def _rows(folder: Path, source: str) -> list[Row]:
    cv2.setNumThreads(1)
    if not (folder / "masks").is_dir():
        boxes = read_boxes(folder) if source == "truth" else _propagated(folder, source, read_boxes(folder))
        return [_box_row(folder.name, source, boxes)]
    truth = read_masks(folder)
    masks = truth if source == "truth" else _propagated(folder, source, truth)
    around = [{index: tuple(map(float, mask.box)) for index, mask in objects.items()} for objects in masks]
    return [_box_row(folder.name, source, around), _polygon_row(folder, source, masks)]


def _propagated(folder: Path, engine: str, truth: Sequence[Mapping[int, Any]]) -> list[dict[int, Any]]:
    frames = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg")))
    prompts = [
        Prompt(n, index, mask=there) if isinstance(there, ObjectMask) else Prompt(n, index, box=there)
        for n in range(0, len(frames), EVERY)
        for index, there in truth[n].items()
    ]
    results = get_propagator(engine).propagate(frames, prompts, Segment(0, len(frames)))
    return [{i: state.box or state.mask for i, state in result.objects.items()} for result in results]


def _tracks(frames: Sequence[Mapping[int, Any]]) -> dict[int, dict[int, Any]]:
    """What is there by object, then by frame."""
    indices = sorted({index for objects in frames for index in objects})
    return {index: {n: objects[index] for n, objects in enumerate(frames) if index in objects} for index in indices}


def _box_row(sequence: str, source: str, boxes: Sequence[Mapping[int, Any]]) -> Row:
    tracks = [{n: TrackShape(n, box) for n, box in track.items()} for track in _tracks(boxes).values()]
    return Row(source, sequence, "rectangle", _ways(tracks, "rectangle", range(len(boxes))))


def _polygon_row(folder: Path, source: str, masks: Sequence[Mapping[int, ObjectMask]]) -> Row:
    size = ImageSequenceSource(sorted((folder / "frames").glob("*.jpg"))).size
    made = [(track, polygon_track(track, size)) for track in _tracks(masks).values()]
    tracks = [{n: TrackShape(n, points) for n, points in track.points.items()} for _, track in made]
    counts = [len(points) // 2 for _, track in made for points in track.points.values()]
    overlaps = [iou for _, track in made for iou in track.iou.values()]
    attainable = [_largest_part(mask) for masks_of, _ in made for mask in masks_of.values()]
    loss = Loss(
        (float(np.median(counts)), max(counts)),
        (float(np.mean(overlaps)), min(overlaps)),
        (float(np.mean(attainable)), min(attainable)),
    )
    return Row(source, folder.name, "polygon", _ways(tracks, "polygon", range(len(masks))), loss)


def _largest_part(mask: ObjectMask) -> float:
    """IoU of a mask with its largest part, holes filled."""
    crop = mask.crop.astype(np.uint8)
    contours, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(crop)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return float((filled & crop).sum() / (filled | crop).sum())


# Ways of thinning


def _ways(tracks: Sequence[Shapes], shape_type: str, frames: Sequence[int]) -> tuple[Thinned, ...]:
    return tuple(_thinned(way, choice, tracks, shape_type, frames) for way, choice in _CHOICES.items())


def _every_frame(shapes: Shapes, shape_type: str, frames: Sequence[int]) -> Collection[int]:
    return shapes.keys()


def _every_tenth(shapes: Shapes, shape_type: str, frames: Sequence[int]) -> Collection[int]:
    return {n for n in shapes if n % EVERY == 0 or n - 1 not in shapes or n + 1 not in shapes}


def _greedy(shapes: Shapes, shape_type: str, frames: Sequence[int]) -> Collection[int]:
    chosen: list[int] = []
    for frame in shapes:
        if not chosen or frame - 1 not in shapes:
            chosen.append(frame)
            continue
        inner = range(chosen[-1] + 1, frame)
        way = Way(shapes[chosen[-1]], shapes[frame], shape_type)
        if not all(is_good(way.at(n), shapes[n], shape_type, TOLERANCE) for n in inner):
            chosen.append(frame - 1)
        if frame + 1 not in shapes:
            chosen.append(frame)
    return chosen


def _fewest(shapes: Shapes, shape_type: str, frames: Sequence[int]) -> Collection[int]:
    return needed_keyframes(shapes, shape_type, frames, (), TOLERANCE)


def _fewest_looser(shapes: Shapes, shape_type: str, frames: Sequence[int]) -> Collection[int]:
    return needed_keyframes(shapes, shape_type, frames, (), LOOSER)


_CHOICES: Mapping[str, Choice] = {
    "every frame": _every_frame,
    f"every {EVERY}th": _every_tenth,
    "greedy": _greedy,
    "labelprop": _fewest,
    f"labelprop, IoU {LOOSER.iou}": _fewest_looser,
}


def _thinned(way: str, choice: Choice, tracks: Sequence[Shapes], shape_type: str, frames: Sequence[int]) -> Thinned:
    keyframes, worst_iou, worst_pixels, good, seconds = 0, 1.0, 0.0, 0, 0.0
    for shapes in tracks:
        started = time.process_time()
        chosen = set(choice(shapes, shape_type, frames))
        seconds += time.process_time() - started
        sent = _sent(shapes, shape_type, frames, chosen)
        keyframes += len(sent["shapes"])
        seen = {s["frame"]: s for s in interpolate_track(sent, frames[0], frames[-1] + 1) if not s["outside"]}
        if seen.keys() != shapes.keys():
            raise AssertionError(f"{way}: a thinned track is not visible where the full one is")
        for frame, shape in seen.items():
            iou, pixels = _compare(shape["points"], shapes[frame].points, shape_type)
            worst_iou, worst_pixels = min(worst_iou, iou), max(worst_pixels, pixels)
            good += is_good(TrackShape(frame, tuple(shape["points"])), shapes[frame], shape_type, TOLERANCE)
    visible = sum(map(len, tracks))
    return Thinned(way, keyframes, visible, worst_iou, worst_pixels, good / visible, seconds)


def _sent(shapes: Shapes, shape_type: str, frames: Sequence[int], chosen: Collection[int]) -> dict[str, Any]:
    """The track that goes to CVAT: where the object goes, a keyframe hides it."""
    sent = []
    last: TrackShape | None = None
    for frame in frames:
        shape = shapes.get(frame)
        if frame in chosen or (shape is None and last is not None):
            points = list((shape or last).points)  # type: ignore[union-attr]
            sent.append(
                {"type": shape_type, "frame": frame, "points": points, "outside": shape is None, "rotation": 0.0}
            )
        last = shape
    return {"shapes": sent}


def _compare(points: Sequence[float], truth: Sequence[float], shape_type: str) -> tuple[float, float]:
    """IoU, and how far an edge of the box, or a corner of either outline, is off at most."""
    if shape_type == "rectangle":
        ours, theirs = tuple(points), tuple(truth)
        return box_iou(ours, theirs), float(np.abs(np.subtract(ours, theirs)).max())  # type: ignore[arg-type]
    one, other = (np.asarray(flat, dtype=np.float64).reshape(-1, 2) for flat in (points, truth))
    low = np.floor(np.minimum(one.min(axis=0), other.min(axis=0)))
    width, height = (np.ceil(np.maximum(one.max(axis=0), other.max(axis=0))) - low).astype(int).tolist()
    masks = [rasterize((tuple(map(tuple, (outline - low).tolist())),), (height, width)) for outline in (one, other)]
    ours_full, theirs_full = (
        np.zeros((height, width), np.bool_) if mask is None else mask.to_full((height, width)) for mask in masks
    )
    either = int((ours_full | theirs_full).sum())
    iou = float((ours_full & theirs_full).sum() / either) if either else 1.0
    return iou, max(_furthest(one, other), _furthest(other, one))


def _furthest(points: np.ndarray, outline: np.ndarray) -> float:
    contour = outline.astype(np.float32)
    return max(abs(cv2.pointPolygonTest(contour, (float(x), float(y)), True)) for x, y in points)


# Tables


def tables(rows: Sequence[Row]) -> str:
    """Both tables in Markdown."""
    parts = []
    for source in dict.fromkeys(row.source for row in rows):
        for shape_type in ("rectangle", "polygon"):
            mine = [row for row in rows if (row.source, row.shape_type) == (source, shape_type)]
            if mine:
                parts.append(_table(mine, source, shape_type))
        lost = [row for row in rows if row.source == source and row.loss is not None]
        if lost:
            parts.append(_losses(lost, source))
    return "\n\n".join(parts)


def _title(source: str) -> str:
    return "true tracks" if source == "truth" else f"tracks that {source} made from every {EVERY}th frame"


def _table(rows: Sequence[Row], source: str, shape_type: str) -> str:
    names = [way.way for way in rows[0].ways]
    kind = "boxes" if shape_type == "rectangle" else "polygons of masks"
    lines = [
        f"**{kind}, {_title(source)}**: keyframes per 100 frames / worst IoU / worst pixels / frames that are not good "
        "enough",
        "",
        "| sequence | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in rows:
        lines.append(f"| {row.sequence} | " + " | ".join(map(_cell, row.ways)) + " |")
    sums = [_together([row.ways[n] for row in rows]) for n in range(len(names))]
    lines.append("| **all** | " + " | ".join(f"**{_cell(way)}**" for way in sums) + " |")
    lines += ["", "seconds to choose: " + ", ".join(f"{way.way} {way.seconds:.1f}" for way in sums)]
    return "\n".join(lines)


def _together(ways: Sequence[Thinned]) -> Thinned:
    visible = sum(way.visible for way in ways)
    return Thinned(
        ways[0].way,
        sum(way.keyframes for way in ways),
        visible,
        min(way.iou for way in ways),
        max(way.pixels for way in ways),
        sum(way.good * way.visible for way in ways) / visible,
        sum(way.seconds for way in ways),
    )


def _cell(way: Thinned) -> str:
    bad = f"{100 * (1 - way.good):.0f} %"
    return f"{100 * way.keyframes / way.visible:.0f} / {way.iou:.3f} / {way.pixels:.1f} / {bad}"


def _losses(rows: Sequence[Row], source: str) -> str:
    lines = [
        f"**masks as polygons, {_title(source)}**: what the loader makes of the polygon, against the mask",
        "",
        "| sequence | points, median | points, most | IoU, mean | lowest | largest part alone, mean | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    losses = [(row.sequence, row.loss) for row in rows if row.loss is not None]
    for name, loss in losses:
        cells = (f"{loss.points[0]:.0f}", str(loss.points[1]), *map("{:.3f}".format, (*loss.iou, *loss.attainable)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = (np.mean([loss.iou[0] for _, loss in losses]), np.mean([loss.attainable[0] for _, loss in losses]))
    lines.append(f"| **mean** | | | **{means[0]:.3f}** | | **{means[1]:.3f}** | |")
    return "\n".join(lines)


def main() -> None:
    """Runs it from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.thinning", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of sequences with ground truth")
    parser.add_argument("--quick", action="store_true", help="fewer sequences, true tracks only")
    parser.add_argument("--processes", type=int, default=2, help="sequences side by side (default 2)")
    parser.add_argument("--save", action="store_true", help=f"write the tables to {RESULTS.name} too")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, help="whose tracks (default all)")
    options = parser.parse_args()
    rows = report(options.data, options.quick, options.processes, options.sources)
    if options.save and rows:
        RESULTS.parent.mkdir(exist_ok=True)
        command = "python -m benchmarks.thinning" + (" --quick" if options.quick else "")
        if options.sources != SOURCES:
            command += " --sources " + " ".join(options.sources)
        RESULTS.write_text(f"# Keyframe thinning\n\n`{command}`\n\n{tables(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
