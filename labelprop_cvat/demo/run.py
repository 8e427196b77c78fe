"""Runs the demo from end to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labelprop_cvat.demo.footage import Footage
from labelprop_cvat.demo.loop import RUN, local_server, make_dataset, run_loop
from labelprop_cvat.demo.measure import OnFrame, Quality, as_boxes, quality, run_engine
from labelprop_cvat.demo.report import (
    quality_table,
    review_table,
    same_keyframes,
    summary,
    write_comparison,
    write_overviews,
    write_review,
    write_summary,
    write_video,
)
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.auto import AUTO, choose_engine
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.types import FrameObjects

# Whatever fills the frames is measured beside these.
BASELINES = ("flow", "interpolate", "hold")

logger = logging.getLogger(__name__)


@contextmanager
def progress_bar(console: Console, description: str, total: int) -> Iterator[OnFrame]:
    """Shows a progress bar over frames; yields what to call once a frame."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


def check_engine(engine: str, options: Mapping[str, Any], console: Console) -> str:
    """Refuses an engine that is not to be had, before any work; returns its name, for ``auto`` that of its choice.

    Raises:
        ConfigurationError: there is no such engine, it does not take these options, or the checkpoint that they name is
            not there
    """
    made = get_propagator(engine, **options)
    missing = made.missing() if hasattr(made, "missing") else None
    if missing and options.get("checkpoint") is not None:
        raise ConfigurationError(missing)
    if missing:
        console.print(missing, highlight=False)
    if engine == AUTO:
        reason = choose_engine(options).reason
        console.print(f"[bold]Engine: {made.spec.name}[/], as {reason}.", highlight=False)
    return made.spec.name


def run_demo(
    footage: Footage,
    folder: Path,
    console: Console,
    *,
    engine: str = "flow",
    engine_options: Mapping[str, Any] | None = None,
    exemplars: str = "every:10",
    keep: str | None = None,
) -> dict[str, Any]:
    """Annotates footage through a local CVAT, propagates, compares, has it reviewed, and leaves pictures and numbers.

    Args:
        footage: frames and truth
        folder: where results go; files of an earlier demo are replaced, others stay
        console: where progress and the table are shown
        engine: what propagates, by its own name; ``flow``, ``interpolate`` and ``hold`` are measured beside it
        engine_options: its options
        exemplars: which frames are annotated, such as ``"every:10"``
        keep: name under which the dataset stays in FiftyOne's database; by default it is deleted

    Returns:
        the summary, as written to ``summary.json``

    Raises:
        DataError: no mask holds an object
    """
    started = time.perf_counter()
    if not any(footage.truth(index) for index in range(len(footage.masks))):
        raise DataError(
            f"The masks of {footage.name} hold no object: every pixel is 0. A mask is a PNG with one value a pixel, "
            f"the object's id."
        )
    folder.mkdir(parents=True, exist_ok=True)
    stale_files = [folder / name for name in ("comparison.png", "review.png", "propagated.webm", "propagated.mp4")]
    for stale in (*folder.glob("overview-*.png"), *stale_files):
        stale.unlink(missing_ok=True)

    dataset = make_dataset(footage, keep, persistent=keep is not None)
    try:
        with local_server() as server:
            loop = run_loop(
                footage,
                dataset,
                server,
                engine=engine,
                engine_options=engine_options,
                exemplars=exemplars,
                step=lambda sentence: console.print(f"[bold]{sentence}[/]"),
            )
            # The server is gone in a moment, and its tasks with it: nobody need be told to delete them.
            dataset.load_annotation_results(RUN).cleanup(force=True)
            dataset.delete_annotation_runs()
    finally:
        if keep is None:
            dataset.delete()

    console.print("[bold]Comparing with simpler ways of filling the same frames[/]")
    qualities: list[Quality] = []
    results: dict[str, dict[int, FrameObjects]] = {engine: dict(loop.propagated)}
    # Simpler ways only: flow is none of them beside interpolate and hold.
    baselines = [name for name in BASELINES if name != engine and (name != "flow" or engine not in BASELINES)]
    with progress_bar(console, "baselines", len(baselines) * len(footage.frames)) as tick:
        qualities.append(quality(engine, loop.propagated, loop.propagated, footage, loop.parts, loop.seconds["load"]))
        after, took = loop.review.propagated, loop.seconds.get("review_load", 0.0)
        reviewed = quality("after review", after, after, footage, loop.parts, took)
        for name in baselines:
            answers, seconds = run_engine(name, footage, loop.keyframes, loop.parts, tick)
            boxes = answers
            # An engine that follows masks is measured as it is used: by the boxes around them.
            if name != "flow":
                boxes, _ = run_engine(name, footage, as_boxes(loop.keyframes), loop.parts, lambda: None)
            results[name] = answers
            qualities.append(quality(name, answers, boxes, footage, loop.parts, seconds))

    console.print("[bold]Drawing pictures[/]")
    with progress_bar(console, "video", len(footage.frames)) as tick:
        write_video(footage, loop, folder / "propagated.webm", tick)
    write_comparison(footage, loop, results, folder / "comparison.png")
    write_review(footage, loop, folder / "review.png")
    overviews = list(write_overviews(footage, loop, engine, folder))

    content = summary(footage, loop, qualities, reviewed, exemplars)
    content["seconds"]["total"] = time.perf_counter() - started
    write_summary(content, folder / "summary.json")
    console.print()
    console.print(quality_table(qualities, len(content["touched_frames"]), content["footage"]["frames"]))
    console.print()
    console.print(review_table(loop.review, qualities[0], reviewed))
    _show_files(console, content, folder, [path.name for path in overviews])
    return content


def _show_files(console: Console, content: dict[str, Any], folder: Path, overviews: list[str]) -> None:
    console.print(f"\n{content['seconds']['total']:.0f} seconds in all. Look at, in {folder}:")
    for name, what in (
        ("propagated.webm", "the video with everything on it"),
        ("review.png", "the worst objects before and after the review"),
        ("comparison.png", same_keyframes(len(content["engines"])).lower()),
        (", ".join(overviews), "each segment at a glance"),
        ("summary.json", "the numbers"),
    ):
        if name.endswith("review.png") and not (folder / name).exists():
            continue
        console.print(f"  {name:32} [dim]{what}[/]", soft_wrap=True)


__all__ = ["check_engine", "run_demo"]
