"""The commands that work on datasets and need no CVAT: segment, select, propagate, evaluate."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from labelprop_cvat.cli._answers import Answer, say
from labelprop_cvat.cli._engines import AUTO_HELP, add_engine, engine_options
from labelprop_cvat.cli._parser import Commands, Parser, add, add_dataset, add_view
from labelprop_cvat.cli._samples import samples_of, segment_rows, show_rows
from labelprop_cvat.wording import counted


def add_segment(commands: Commands[Parser]) -> None:
    """Adds ``labelprop segment``."""
    command = add(
        commands,
        "segment",
        _segment,
        summary="Cut sequences into temporal segments, at cuts, dissolves and fades.",
        usage="DATASET --segments-field FIELD",
        examples=["labelprop segment clips --segments-field segments"],
        interrupted="The sequences that were finished have their segments; the same command cuts all of them again.",
    )
    add_dataset(command, has_option=True)
    add_view(command)
    command.add_argument("--segments-field", required=True, metavar="FIELD", help="where the segments go")
    command.add_argument(
        "--method", default="auto", help="auto, heuristic, adaptive, content, histogram, hash, fixed:N or none (auto)"
    )
    command.add_argument("--minimum-length", type=int, default=5, metavar="N", help="frames of the shortest one (5)")
    command.add_argument("--threshold", type=float, metavar="X", help="what a cut needs; each method has its own")
    command.add_argument("--scores-field", metavar="FIELD", help="where what was measured on every frame goes")
    command.add_argument("--plot", metavar="DIR", help="draw what was measured, what a cut needs, and the cuts")


def _segment(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    threshold = {} if options.threshold is None else {"threshold": options.threshold}
    count = workflow.segment(
        samples_of(options),
        options.segments_field,
        method=options.method,
        sort_field=options.sort_field,
        minimum_length=options.minimum_length,
        scores_field=options.scores_field,
        plot=options.plot,
        **threshold,
    )
    rows = segment_rows(samples_of(options), options.segments_field, options.sort_field)

    def show() -> None:
        show_rows("Temporal segments", rows, ("sequence", "segment", "first", "last", "frames"), _NUMBERS)
        say(f"{counted(count, 'segment')} in {options.segments_field}")

    return Answer({**_named(options, "segments_field", "scores_field", "plot"), "segments": rows}, show)


_NUMBERS = ("first", "last", "frames")


def _named(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("dataset", "view", *names)}


def add_select(commands: Commands[Parser]) -> None:
    """Adds ``labelprop select``."""
    command = add(
        commands,
        "select",
        _select,
        summary="Choose the frames that people shall annotate, in each temporal segment.",
        usage="DATASET --segments-field FIELD",
        examples=["labelprop select clips --segments-field segments --method every:10"],
        interrupted="The sequences that were finished have their exemplars; the same command does all of them again.",
    )
    add_dataset(command, has_option=True)
    add_view(command)
    command.add_argument("--segments-field", required=True, metavar="FIELD", help="where 'labelprop segment' put them")
    command.add_argument(
        "--method",
        default="every:10",
        help="first, middle, uniform:K, every:N, all, diverse:K, coverage:K, or coverage:J as in 0.9 (every:10)",
    )


def _select(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    count = workflow.select(
        samples_of(options), options.segments_field, method=options.method, sort_field=options.sort_field
    )
    rows = segment_rows(samples_of(options), options.segments_field, options.sort_field)

    def show() -> None:
        show_rows("Exemplars", rows, ("sequence", "segment", "frames", "exemplars"), ("frames",))
        say(f"{counted(count, 'exemplar')} in {options.segments_field}")

    return Answer({**_named(options, "segments_field", "method"), "exemplars": count, "segments": rows}, show)


def add_propagate(commands: Commands[Parser]) -> None:
    """Adds ``labelprop propagate``."""
    command = add(
        commands,
        "propagate",
        _propagate,
        summary="Fill a field from the labels that another field holds on some frames, without CVAT.",
        usage="DATASET --input-field FIELD",
        examples=[
            "labelprop propagate clips --input-field frames.objects",
            "labelprop propagate clips --input-field frames.objects --frames 10:40 --track 3 --direction forward",
        ],
        interrupted="The segments that were finished are in the output field, the others are as they were. The same "
        "command fills all of them again; --frames and --only fill some.",
    )
    add_dataset(command, has_option=True)
    add_view(command)
    command.add_argument("--input-field", required=True, metavar="FIELD", help="labels with an index, on some frames")
    command.add_argument("--output-field", metavar="FIELD", help="where the others go (<input field>_propagated)")
    command.add_argument("--segments-field", metavar="FIELD", help="where segments are stored; computed by default")
    command.add_argument("--segmentation", default="auto", metavar="METHOD", help="what computes them (auto)")
    part = command.add_argument_group("a part of it; the rest of the output field stays as it is")
    part.add_argument(
        "--direction",
        choices=["both", "forward", "backward"],
        default="both",
        help="from keyframes before a frame, behind it, or both (both)",
    )
    part.add_argument(
        "--frames",
        type=_frames,
        metavar="10:40",
        help="first and last frame, both filled: numbers on videos, places from 1 on images; 10: and :40 are open",
    )
    part.add_argument(
        "--track", type=int, action="append", metavar="INDEX", help="only this object; may be given several times"
    )
    part.add_argument("--only", action="append", metavar="ID", help="only this sample; may be given several times")
    add_engine(command, default="auto", what=AUTO_HELP)


def _frames(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    try:
        numbers = int(first) if first else None, int(last) if last else None
    except ValueError:
        numbers = None, None
    if not colon and numbers[0] is not None:
        return numbers[0], numbers[0]
    if numbers == (None, None):
        raise argparse.ArgumentTypeError(f"expected something like 10:40, 10: or :40, got {text!r}")
    return numbers


def _propagate(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow
    from labelprop_cvat.sequences import normal_field

    samples = samples_of(options)
    started = time.monotonic()
    with workflow.engine_at_work(options.engine, engine_options(options)) as engine:
        frames = workflow.propagate(
            samples,
            options.input_field,
            options.output_field,
            engine=engine,
            direction=options.direction,
            frames=options.frames,
            tracks=options.track,
            only=options.only,
            sort_field=options.sort_field,
            segments_field=options.segments_field,
            segmentation=options.segmentation,
        )
    seconds = round(time.monotonic() - started, 2)
    output = options.output_field or f"{options.input_field}{workflow.OUTPUT_SUFFIX}"
    dataset = samples._root_dataset
    held = f"{normal_field(samples, output)}.detections"
    labels, objects = dataset.count(held), len(dataset.distinct(f"{held}.instance._id"))

    def show() -> None:
        say(f"{counted(frames, 'frame')} in {output}, by {engine.spec.name}, in {seconds:.1f} s")
        say(f"The field holds {counted(labels, 'label')} of {counted(objects, 'object')} now.")

    names = ("input_field", "direction")
    found = {"output_field": output, "engine": engine.spec.name, "frames": frames, "labels": labels, "objects": objects}
    return Answer({**_named(options, *names), **found, "seconds": seconds}, show)


def add_evaluate(commands: Commands[Parser]) -> None:
    """Adds ``labelprop evaluate``."""
    command = add(
        commands,
        "evaluate",
        _evaluate,
        summary="Say how good a field is, judged by the truth in another one.",
        usage="DATASET --pred FIELD --gt FIELD",
        examples=[
            "labelprop evaluate clips --pred objects_propagated --gt ground_truth --report report.html",
            "labelprop evaluate clips --pred objects_propagated --gt ground_truth --json > scores.json",
        ],
        interrupted="Nothing of this evaluation stays in the dataset.",
    )
    add_dataset(command)
    add_view(command)
    command.add_argument("--pred", required=True, metavar="FIELD", help="labels to judge, such as frames.objects")
    command.add_argument("--gt", required=True, metavar="FIELD", help="labels to judge them by")
    command.add_argument("--segments-field", metavar="FIELD", help="where temporal segments are stored")
    command.add_argument("--report", type=Path, metavar="FILE", help="write a report, one HTML file")
    command.add_argument("--output", type=Path, metavar="FILE", help="write what --json prints to a file; - prints it")
    command.add_argument("--eval-key", metavar="KEY", help="keep it in the dataset, so that the App can filter by it")
    rules = command.add_argument_group("what counts")
    rules.add_argument("--match", default="index", help="index, or overlap where the sides number differently (index)")
    rules.add_argument("--leave-out", default="frames", help="of people's work: frames, labels or nothing (frames)")
    rules.add_argument("--truth", default="stored", help="frames: those with a stored truth, or all (stored)")
    rules.add_argument("--unfilled", default="skip", help="segments without predictions: skip or score (skip)")
    rules.add_argument("--iou", type=float, default=0.5, help="smallest IoU at which identities match (0.5)")
    curves = command.add_argument_group("what more annotation would buy")
    curves.add_argument(
        "--curves", action="store_true", help="fill the frames again from the truth, at several budgets"
    )
    curves.add_argument("--budgets", type=_budgets, metavar="1,2,4", help="annotated frames a segment (1,2,4,8)")
    curves.add_argument(
        "--methods", default="uniform,first", metavar="NAMES", help="how frames are chosen (uniform,first)"
    )
    add_engine(command, default=None, what="by default what fills the field in an annotation run, else auto")


def _budgets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(entry) for entry in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected something like 1,2,4, got {text!r}") from error


def _evaluate(options: argparse.Namespace) -> Answer:
    from labelprop_cvat import workflow

    if options.output == Path("-"):
        options.output, options.json = None, True
    evaluation = workflow.evaluate(
        samples_of(options),
        options.pred,
        options.gt,
        eval_key=options.eval_key,
        match=options.match,
        leave_out=options.leave_out,
        truth=options.truth,
        unfilled=options.unfilled,
        iou=options.iou,
        segments_field=options.segments_field,
        sort_field=options.sort_field,
        curves=options.budgets or options.curves,
        engine=options.engine,
        engine_options=engine_options(options),
        report=options.report,
        json_path=options.output,
        methods=options.methods.split(","),
    )

    def show() -> None:
        evaluation.print_report()
        for path in (options.report, options.output):
            if path is not None:
                say(str(path))

    return Answer(evaluation.to_dict() if options.json else None, show)
