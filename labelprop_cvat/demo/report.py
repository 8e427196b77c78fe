"""What the demo leaves behind: a table, pictures, a video and a summary."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from labelprop_cvat.demo import pictures
from labelprop_cvat.demo.footage import Footage
from labelprop_cvat.demo.loop import LOOK_EVERY, LoopResult, Review
from labelprop_cvat.demo.measure import POOR_J, Quality
from labelprop_cvat.demo.pictures import Legend, OverlayVideo, Tile, Timeline
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.metrics import jaccard
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask

OnFrame = Callable[[], object]

TILES = 12
_GREY = (150, 158, 172)
WORDS = {2: "two", 3: "three", 4: "four"}
WHAT_IT_IS = {
    "sam2": "SAM 2",
    "flow": "optical flow",
    "interpolate": "what CVAT alone does",
    "hold": "the nearest keyframe",
}


def quality_table(qualities: Sequence[Quality], touched: int, total: int) -> Table:
    """The engines beside each other."""
    table = Table(
        title=f"A person drew on {touched} of {total} frames ({touched / total:.0%}). "
        f"The {total - touched} frames between them:",
        title_justify="left",
        caption="J: overlap of masks, F: of outlines, as DAVIS defines them. 1 is perfect.\n"
        "interpolate: masks are held, boxes interpolated linearly.",
        caption_justify="left",
    )
    table.add_column("engine")
    for heading in ("J", "F", "box IoU", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row, quality in enumerate(qualities):
        numbers = (f"{quality.j:.3f}", f"{quality.f:.3f}", f"{quality.box_iou:.3f}", f"{quality.seconds:.1f}")
        note = WHAT_IT_IS.get(quality.name, "")
        table.add_row(quality.name, *numbers, f"[dim]{note}[/]", style="bold" if row == 0 else None)
    return table


def review_table(review: Review, before: Quality, after: Quality) -> Table:
    """The same frames before and after a review, and what each step cost a person."""
    table = Table(
        title=f"Then a person reviewed it, looking at every {LOOK_EVERY}th frame and where it was doubtful:",
        title_justify="left",
        caption=f"Changed: {told_edits(review.edits)}. Only what follows from that was filled anew.\n"
        "Minutes by the model of effort that `labelprop status` uses.",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("J", "F", "box IoU", f"J below {POOR_J}", "minutes", "shapes set"):
        table.add_column(heading, justify="right")
    model = EffortModel()
    for name, quality, actions in (
        ("before review", before, review.drawing),
        ("after review", after, review.drawing + review.actions),
    ):
        scores = (f"{quality.j:.3f}", f"{quality.f:.3f}", f"{quality.box_iou:.3f}")
        counts = (f"{quality.poor} of {quality.judged}", f"{model.minutes(actions):.1f}")
        table.add_row(name, *scores, *counts, str(actions.drawn + actions.edited))
    return table


def told_edits(edits: Mapping[str, int]) -> str:
    """What a reviewer changed, in words."""
    return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in sorted(edits.items())) or "nothing"


def summary(
    footage: Footage, loop: LoopResult, qualities: Sequence[Quality], reviewed: Quality, exemplars: str
) -> dict[str, Any]:
    """The numbers of the demo, for machines; ``reviewed`` is the first of ``qualities`` after the review."""
    model = EffortModel()
    touched = sorted(frame for part in loop.parts for frame in part.exemplars)
    height, width = footage.frames.size
    return {
        "footage": {"name": footage.name, "frames": len(footage.frames), "width": width, "height": height},
        "segments": [[part.segment.start, part.segment.stop] for part in loop.parts],
        "exemplars": exemplars,
        "touched_frames": touched,
        "touched_share": len(touched) / len(footage.frames),
        "shapes_drawn": loop.shapes,
        "engines": [asdict(quality) for quality in qualities],
        "review": {
            "before": asdict(qualities[0]),
            "after": asdict(reviewed),
            "corrected_frames": sorted(loop.review.corrected),
            "edits": dict(loop.review.edits),
            "issues": loop.review.issues,
            "actions": loop.review.actions.to_dict(),
            "minutes": model.minutes(loop.review.actions),
            "minutes_before": model.minutes(loop.review.drawing),
        },
        "seconds": dict(loop.seconds),
    }


def write_summary(content: Mapping[str, Any], path: Path) -> None:
    """Writes the summary as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def masks_of(objects: FrameObjects | None) -> dict[int, ObjectMask]:
    """The masks on a frame by object id; objects that have only a box are left out."""
    if objects is None:
        return {}
    return {object_id: state.mask for object_id, state in objects.objects.items() if state.mask is not None}


def write_overviews(footage: Footage, loop: LoopResult, engine: str, folder: Path) -> Iterator[Path]:
    """Writes one contact sheet a temporal segment: exemplars and what was propagated between them."""
    exemplars = {frame for part in loop.parts for frame in part.exemplars}
    for number, part in enumerate(loop.parts, 1):
        frames = _spread(part.segment.frames, part.exemplars, TILES)
        tiles = [_overview_tile(footage, loop, frame, frame in exemplars) for frame in frames]
        ids = sorted({object_id for frame in frames for object_id in masks_of(loop.review.propagated.get(frame))})
        corrected = len(loop.review.corrected & set(part.segment.frames))
        legend = Legend(
            title=f"{footage.name}, segment {number} of {len(loop.parts)}: {len(part.exemplars)} frames drawn, "
            f"{corrected} corrected, the others propagated by {engine}",
            subtitle="Filled: what FiftyOne holds after load_annotations(). Dotted white: the true outline.",
            entries=[(f"{footage.label(object_id)} {object_id}", pictures.colour_of(object_id)) for object_id in ids],
        )
        path = folder / f"overview-{number}.png"
        pictures.save_png(pictures.contact_sheet(tiles, 4, legend), path)
        yield path


def _spread(frames: range, exemplars: frozenset[int], count: int) -> list[int]:
    """Up to ``count`` frames: exemplars, and what lies farthest from them, evenly over the segment."""
    marks = sorted(exemplars & set(frames))
    middles = [(before + after) // 2 for before, after in itertools.pairwise(marks)]
    wanted = sorted({*marks, *middles, frames[-1]} if len(frames) > count else set(frames))
    picks = np.unique(np.round(np.linspace(0, len(wanted) - 1, min(count, len(wanted)))).astype(int))
    return [wanted[pick] for pick in picks]


def _overview_tile(footage: Footage, loop: LoopResult, frame: int, person: bool) -> Tile:
    objects = loop.review.propagated.get(frame)
    image = pictures.overlay(footage.frames[frame], masks_of(objects), footage.truth(frame), width=400)
    if person:
        return Tile(image, f"frame {frame}", "drawn by a person", pictures.HUMAN)
    if frame in loop.review.corrected:
        return Tile(image, f"frame {frame}", "corrected by a person", pictures.HUMAN)
    return Tile(image, f"frame {frame}", "propagated", pictures.MACHINE, _confidence(objects))


def _confidence(objects: FrameObjects | None) -> str:
    values = [state.confidence for state in objects.objects.values()] if objects is not None else []
    return f"lowest confidence {min(values):.2f}" if values else "nothing visible"


def write_comparison(
    footage: Footage, loop: LoopResult, results: Mapping[str, Mapping[int, FrameObjects]], path: Path, rows: int = 4
) -> None:
    """Writes a sheet with one row a frame: the engines beside each other.

    The frames are those farthest from their keyframes, evenly chosen; they are not picked by how they look.
    """
    # Not the very middle, where the nearest keyframe and the one before are the same.
    middles = [
        before + (after - before) * 6 // 10
        for part in loop.parts
        for before, after in itertools.pairwise(sorted(part.exemplars))
        if after - before > 1
    ]
    if not middles:
        middles = [frame for part in loop.parts for frame in part.segment.frames if frame not in part.exemplars]
    if not middles:
        return
    picks = np.unique(np.round(np.linspace(0, len(middles) - 1, min(rows + 2, len(middles)))).astype(int))
    frames = [middles[pick] for pick in (picks[1:-1] if len(picks) > rows else picks)]
    tiles = []
    for frame in frames:
        truth = footage.truth(frame)
        for name, answers in results.items():
            masks = masks_of(answers.get(frame))
            image = pictures.overlay(footage.frames[frame], masks, truth, width=480)
            colour = pictures.MACHINE if name == next(iter(results)) else _GREY
            tiles.append(Tile(image, f"frame {frame}", name, colour, f"J {_mean_j(masks, truth):.2f}"))
    legend = Legend(
        title=same_keyframes(len(results)),
        subtitle="Frames far from the keyframes before and after them. Dotted white: the true outline.",
        entries=[(WHAT_IT_IS.get(name, name), pictures.MACHINE if row == 0 else _GREY)
                 for row, name in enumerate(results)],
    )  # fmt: skip
    pictures.save_png(pictures.contact_sheet(tiles, len(results), legend), path)


def write_review(footage: Footage, loop: LoopResult, path: Path, rows: int = 3) -> bool:
    """Writes a sheet with the worst objects before the review, and what became of them.

    One row an object, on the frame where most of its pixels were wrong, but one row for neighbouring frames; those that
    were drawn are left out. Rows are picked by how wrong they were before, not by what the review made of them.

    Returns:
        whether there was something to show
    """
    exemplars = {frame for part in loop.parts for frame in part.exemplars}
    worst: dict[int, tuple[int, int]] = {}
    for frame in sorted(set(range(len(footage.frames))) - exemplars):
        truth, masks = footage.truth(frame), masks_of(loop.propagated.get(frame))
        for object_id in truth.keys() | masks.keys():
            wrong = _wrong_pixels(masks.get(object_id), truth.get(object_id))
            worst[object_id] = max(worst.get(object_id, (0, 0)), (wrong, -frame))
    ordered = sorted(((wrong, -frame, object_id) for object_id, (wrong, frame) in worst.items() if wrong), reverse=True)
    chosen: list[tuple[int, int, int]] = []
    for entry in ordered:
        # What went wrong for one object often went wrong for its neighbour: the same picture once.
        if len(chosen) < rows and all(abs(entry[1] - other[1]) > 2 for other in chosen):
            chosen.append(entry)
    if not chosen:
        return False
    tiles = []
    for _, frame, object_id in chosen:
        truth, image = footage.truth(frame), footage.frames[frame]
        name = f"{footage.label(object_id)} {object_id}, frame {frame}"
        after = masks_of(loop.review.propagated.get(frame))
        badge, hue = "filled anew", pictures.MACHINE
        if after == masks_of(loop.propagated.get(frame)):
            badge, hue = "left as it was", _GREY
        elif frame in loop.review.corrected:
            badge, hue = "corrected by a person", pictures.HUMAN
        for masks, word, colour in (
            (masks_of(loop.propagated.get(frame)), "before review", _GREY),
            (after, badge, hue),
        ):
            j = jaccard(masks.get(object_id), truth.get(object_id))
            tiles.append(Tile(pictures.overlay(image, masks, truth, width=480), name, word, colour, f"J {j:.2f}"))
    legend = Legend(
        title="The worst of each object, before and after one review",
        subtitle="Filled: what FiftyOne holds. Dotted white: the true outline.",
        entries=[("as it was", _GREY), ("a person's", pictures.HUMAN), ("filled anew", pictures.MACHINE)],
    )
    pictures.save_png(pictures.contact_sheet(tiles, 2, legend), path)
    return True


def _wrong_pixels(mask: ObjectMask | None, truth: ObjectMask | None) -> int:
    area = (mask.area if mask is not None else 0) + (truth.area if truth is not None else 0)
    j = jaccard(mask, truth)
    # Of two masks that share s pixels, j = s / (area - s).
    return round(area - 2 * area * j / (1 + j))


def same_keyframes(ways: int) -> str:
    """What the comparison shows."""
    return f"The same keyframes, filled in {WORDS.get(ways, str(ways))} ways"


def _mean_j(masks: Mapping[int, ObjectMask], truth: Mapping[int, ObjectMask]) -> float:
    ids = masks.keys() | truth.keys()
    return float(np.mean([jaccard(masks.get(i), truth.get(i)) for i in ids])) if ids else 1.0


def write_video(footage: Footage, loop: LoopResult, path: Path, on_frame: OnFrame) -> None:
    """Writes the overlay video."""
    exemplars = frozenset(frame for part in loop.parts for frame in part.exemplars) | loop.review.corrected
    timeline = Timeline(len(footage.frames), exemplars, tuple(part.segment.start for part in loop.parts))
    width = max(640, footage.frames.size[1] if footage.frames.size[1] <= 1280 else 1280)
    scale = width / footage.frames.size[1]
    with OverlayVideo(path, footage.frame_rate, timeline) as video:
        for frame, image in footage.frames.read(0, len(footage.frames)):
            objects = loop.review.propagated.get(frame)
            masks = masks_of(objects)
            tags = [
                (f"{footage.label(i)} {i}", i, ((m.box[0] + m.box[2]) / 2 * scale, m.box[1] * scale))
                for i, m in sorted(masks.items())
            ]
            note = "" if frame in exemplars else _confidence(objects)
            video.add(frame, pictures.overlay(image, masks, width=width), tags, note)
            on_frame()


__all__ = [
    "masks_of",
    "quality_table",
    "review_table",
    "same_keyframes",
    "summary",
    "told_edits",
    "write_comparison",
    "write_overviews",
    "write_review",
    "write_summary",
    "write_video",
]
