"""The command line. Thin: every command calls one function of the package and shows what it returns.

Exit codes: 0 all went well, 1 something failed (said in one sentence on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelprop_cvat import __version__
from labelprop_cvat.errors import ConfigurationError, LabelPropError

if TYPE_CHECKING:
    from labelprop_cvat.doctor import Finding

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_AUTO = "by default auto: sam2 where its weights and a GPU are, else flow"

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: the words after ``labelprop``; by default those of this process
    """
    options = _parser().parse_args(arguments)
    run: Command = options.run
    try:
        return run(options)
    except LabelPropError as error:
        sys.stderr.write(f"labelprop: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("labelprop: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough.
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labelprop", description="Turn a few frames annotated in CVAT into a fully labelled video in FiftyOne."
    )
    parser.add_argument("--version", action="version", version=f"labelprop-cvat {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_doctor(commands)
    _add_register(commands)
    _add_cvat(commands)
    _add_weights(commands)
    _add_segment(commands)
    _add_select(commands)
    _add_propagate(commands)
    _add_evaluate(commands)
    _add_adopt(commands)
    _add_status(commands)
    _add_load(commands)
    _add_suggest(commands)
    _add_review(commands)
    _add_cleanup(commands)
    return parser


Commands = argparse._SubParsersAction  # what add_subparsers returns; argparse has no public name for it


def _add(commands: Commands, name: str, run: Command, *, summary: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"example:\n  {example}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_doctor(commands: Commands) -> None:
    command = _add(
        commands,
        "doctor",
        _doctor,
        summary="Say what works here, and for each thing that does not, the command that mends it.",
        example="labelprop doctor --url http://localhost:8080 --username admin",
    )
    command.add_argument("--url", help="ask this CVAT server instead of the one that is configured")
    command.add_argument("--username", help="log in to CVAT as this user")
    _add_tls(command)
    command.add_argument("--json", action="store_true", help="print a JSON document instead of a table")


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from labelprop_cvat.doctor import Status, as_json, examine

    findings: list[Finding] = []
    with Console(stderr=True).status("Looking around…") as status:
        for finding in examine(options.url, options.username, _verify(options)):
            findings.append(finding)
            status.update(f"Looking around… {finding.name}")
    if options.json:
        sys.stdout.write(as_json(findings) + "\n")
    else:
        _show_findings(findings)
    return FAILED if any(finding.status is Status.FAILED for finding in findings) else OK


def _show_findings(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labelprop_cvat.doctor import Status

    marks = {Status.OK: "[green]✓[/]", Status.OPTIONAL: "[yellow]○[/]", Status.FAILED: "[red]✗[/]"}
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        table.add_row(marks[finding.status], finding.name, Text(finding.detail))
    console.print(table)
    remedies = [finding for finding in findings if finding.remedy]
    for title, status in (("To mend", Status.FAILED), ("If you want it", Status.OPTIONAL)):
        wanted = [finding for finding in remedies if finding.status is status]
        if wanted:
            console.print(f"\n[bold]{title}[/]")
        for finding in wanted:
            console.print(Text(f"  # {finding.name}", style="dim"))
            # A command that a person copies must not be wrapped.
            console.print(Text(f"  {finding.remedy}"), soft_wrap=True)
    failed = sum(finding.status is Status.FAILED for finding in findings)
    console.print("\n[green]Everything that is needed works.[/]" if not failed else f"\n[red]{failed} to mend.[/]")


def _add_register(commands: Commands) -> None:
    command = _add(
        commands,
        "register",
        _register,
        summary="Make FiftyOne know backend='labelprop' in every process, through its annotation config.",
        example="labelprop register",
    )
    command.add_argument("--unregister", action="store_true", help="take the backend out again")
    command.add_argument("--config", type=Path, metavar="FILE", help="another file than the one FiftyOne reads")


def _register(options: argparse.Namespace) -> int:
    from labelprop_cvat.registration import write_registration

    done = write_registration(options.config, remove=options.unregister)
    state = "not registered" if options.unregister else "registered"
    sys.stdout.write(f"backend 'labelprop' is {'now' if done.changed else 'already'} {state} in {done.path}\n")
    if done.dropped:
        sys.stdout.write(f"Settings that went with it: {', '.join(done.dropped)}\n")
    return OK


def _add_cvat(commands: Commands) -> None:
    cvat = commands.add_parser("cvat", help="a CVAT server of your own", description="A CVAT server of your own.")
    inner = cvat.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = _add(
        inner,
        "serve",
        _serve,
        summary="Run the embedded CVAT-compatible server on this machine until Ctrl-C.",
        example="labelprop cvat serve --directory ~/cvat-data --port 8080",
    )
    command.add_argument(
        "--directory", type=Path, default=Path("cvat-data"), help="where it keeps its data (cvat-data)"
    )
    command.add_argument("--port", type=_port, default=8080, help="port on 127.0.0.1 (8080); 0 takes a free one")
    command.add_argument("--username", default="admin", help="of the administrator, when --password is given (admin)")
    command.add_argument("--password", help="of that user; by default what the folder holds, or a new random one")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, got {value}")
    return value


def _serve(options: argparse.Namespace) -> int:
    from labelprop_cvat.backend.local_cvat import LocalCVAT, serve

    def ready(server: LocalCVAT) -> None:
        password = server.password or "...   # as printed when this folder was made; --password sets another"
        sys.stdout.write(
            f"A local CVAT is at {server.url}, and keeps its data in {options.directory}. For FiftyOne:\n\n"
            f"  export FIFTYONE_CVAT_URL={server.url}\n"
            f"  export FIFTYONE_CVAT_USERNAME={server.username}\n"
            f"  export FIFTYONE_CVAT_PASSWORD={password}\n\n"
            "It has CVAT's REST API, not its web pages. Ctrl-C stops it.\n"
        )
        sys.stdout.flush()

    users = {options.username: options.password} if options.password else None
    try:
        serve(options.directory, options.port, users, ready=ready)
    except OSError as error:
        raise ConfigurationError(
            f"The local CVAT cannot start on port {options.port} with the folder {options.directory}: {error}. "
            f"Take another with --port, or --port 0 for any free one."
        ) from error
    return OK


# --- engines -------------------------------------------------------------------------------------------------------


def _add_weights(commands: Commands) -> None:
    command = _add(
        commands,
        "weights",
        _weights,
        summary="Download the weights of a SAM 2 model, unless they are there, and print where they lie.",
        example="labelprop weights tiny",
    )
    command.add_argument(
        "model",
        nargs="?",
        default="tiny",
        metavar="MODEL",
        help="tiny, small, base_plus, large or an official name (tiny)",
    )
    command.add_argument("--folder", metavar="DIR", help="have them there, wherever else they lie")


def _weights(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from labelprop_cvat.propagation.sam2.weights import fetch_checkpoint, find_checkpoint, model_info

    info = model_info(options.model)
    path = None if options.folder else find_checkpoint(info)
    if path is None:
        shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*shown, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task(info.file_name, total=info.size_bytes)
            path = fetch_checkpoint(
                info,
                folder=options.folder,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    sys.stdout.write(f"{path}\n")
    return OK


def _add_engine(command: argparse.ArgumentParser, *, default: str | None, what: str) -> None:
    group = command.add_argument_group("what fills the other frames")
    group.add_argument("--engine", default=default, metavar="NAME", help=what)
    group.add_argument(
        "--engine-option",
        type=_engine_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the engine, such as image_size=448; may be given several times",
    )
    group.add_argument("--checkpoint", type=_absolute, metavar="FILE", help="weights of SAM 2; by default its own")
    group.add_argument("--model", metavar="NAME", help="which SAM 2, such as tiny or large")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="of frames in SAM 2; less is faster, coarser")
    group.add_argument("--device", metavar="NAME", help="of SAM 2: cuda, mps or cpu")


def _engine_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected something like image_size=448, got {text!r}")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _absolute(text: str) -> str:
    # It is stored with the run, and a later command may be called in another folder.
    return str(Path(text).expanduser().absolute())


def _engine_options(options: argparse.Namespace) -> dict[str, Any]:
    named = {name: getattr(options, name) for name in ("checkpoint", "model", "image_size", "device")}
    return {**dict(options.engine_option), **{name: value for name, value in named.items() if value is not None}}


# --- the demo ------------------------------------------------------------------------------------------------------


def _add_demo(commands: Commands) -> None:
    command = _add(
        commands,
        "demo",
        _demo,
        summary="Annotate a few frames of a video through a local CVAT, propagate them, and measure the result.",
        example="labelprop demo --frames clip/frames --masks clip/masks --engine sam2",
    )
    source = command.add_mutually_exclusive_group()
    source.add_argument("--frames", type=Path, metavar="DIR", help="images to run on instead of a rendered video")
    source.add_argument("--video", type=Path, metavar="FILE", help="a video to run on instead of a rendered one")
    command.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="the truth about --frames or --video: one PNG a frame, pixel value = object id, 0 = background",
    )
    command.add_argument("--labels", type=_labels, default={}, metavar="1=dog,2=car", help="classes of the object ids")
    command.add_argument("--length", type=_length, default=120, metavar="N", help="frames of the rendered video (120)")
    command.add_argument("--exemplars", default="every:10", metavar="METHOD", help="which frames are drawn (every:10)")
    _add_engine(command, default="auto", what=_AUTO)
    command.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="where results go (demo-output)"
    )
    command.add_argument(
        "--keep", metavar="NAME", help="leave the dataset in your own FiftyOne database under this name"
    )
    command.add_argument("--json", action="store_true", help="print the summary instead of the table")
    command.set_defaults(usage=command.error)


def _labels(text: str) -> dict[int, str]:
    try:
        pairs = (entry.split("=", 1) for entry in text.split(","))
        return {int(number): name.strip() for number, name in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected something like 1=dog,2=car, got {text!r}") from error


def _length(text: str) -> int:
    value = int(text)
    if value < 4:
        raise argparse.ArgumentTypeError(f"the rendered video needs at least 4 frames, got {value}")
    return value


def _demo(options: argparse.Namespace) -> int:
    own = options.frames or options.video
    if bool(own) != bool(options.masks):
        options.usage(
            "--masks DIR goes with --frames or --video: the demo needs to know the truth, to draw the exemplars as a "
            "person would and to measure the rest. To annotate your own footage in CVAT, see docs/quick-start.md."
        )
    from rich.console import Console

    from labelprop_cvat.demo import use_own_database

    if options.keep is None:
        use_own_database()

    from labelprop_cvat.demo.footage import frames_footage, render_footage, video_footage
    from labelprop_cvat.demo.run import check_engine, progress_bar, run_demo
    from labelprop_cvat.propagation.exemplars import ExemplarSpec

    ExemplarSpec.parse(options.exemplars)
    console = Console(stderr=options.json)
    engine_options = _engine_options(options)
    engine = check_engine(options.engine, engine_options, console)
    if options.frames:
        footage = frames_footage(options.frames, options.masks, options.labels)
    elif options.video:
        footage = video_footage(options.video, options.masks, options.labels)
    else:
        console.print("[bold]Rendering a video[/]")
        half = options.length // 2
        with progress_bar(console, "frames", 2 * half) as tick:
            footage = render_footage(options.output / "input", half, tick)
    with _saying_what_fills():
        result = run_demo(
            footage,
            options.output,
            console,
            engine=engine,
            engine_options=engine_options,
            exemplars=options.exemplars,
            keep=options.keep,
        )
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    elif options.keep is not None:
        console.print(f"Look at it in the App: fiftyone app launch {options.keep}", soft_wrap=True)
    return OK


# --- datasets ------------------------------------------------------------------------------------------------------


def _add_dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dataset", required=True, metavar="NAME", help="a FiftyOne dataset")


def _add_sequences(command: argparse.ArgumentParser) -> None:
    _add_dataset(command)
    command.add_argument("--view", metavar="NAME", help="a saved view of it")
    command.add_argument("--sort-field", metavar="FIELD", help="what orders an image collection")


def _samples(options: argparse.Namespace) -> Any:
    dataset = _dataset(options)
    if options.view is None:
        return dataset
    if not dataset.has_saved_view(options.view):
        known = ", ".join(dataset.list_saved_views()) or "none"
        raise ConfigurationError(f"The dataset {dataset.name!r} has no saved view {options.view!r}; it has: {known}.")
    return dataset.load_saved_view(options.view)


def _dataset(options: argparse.Namespace) -> Any:
    import fiftyone as fo

    if not fo.dataset_exists(options.dataset):
        known = ", ".join(fo.list_datasets()) or "none"
        raise ConfigurationError(
            f"There is no dataset {options.dataset!r} in FiftyOne's database; it has: {known}. One that was made "
            f"without persistent=True is gone with the process that made it."
        )
    return fo.load_dataset(options.dataset)


def _add_segment(commands: Commands) -> None:
    command = _add(
        commands,
        "segment",
        _segment,
        summary="Cut sequences into temporal segments, at cuts, dissolves and fades.",
        example="labelprop segment --dataset clips --segments-field segments",
    )
    _add_sequences(command)
    command.add_argument("--segments-field", required=True, metavar="FIELD", help="where the segments go")
    command.add_argument(
        "--method", default="auto", help="auto, heuristic, adaptive, content, histogram, hash, fixed:N or none (auto)"
    )
    command.add_argument("--minimum-length", type=int, default=5, metavar="N", help="frames of the shortest one (5)")
    command.add_argument("--threshold", type=float, metavar="X", help="what a cut needs; each method has its own")
    command.add_argument("--scores-field", metavar="FIELD", help="where what was measured on every frame goes")
    command.add_argument("--plot", metavar="DIR", help="draw what was measured, what a cut needs, and the cuts")


def _segment(options: argparse.Namespace) -> int:
    from labelprop_cvat import workflow

    threshold = {} if options.threshold is None else {"threshold": options.threshold}
    count = workflow.segment(
        _samples(options),
        options.segments_field,
        method=options.method,
        sort_field=options.sort_field,
        minimum_length=options.minimum_length,
        scores_field=options.scores_field,
        plot=options.plot,
        **threshold,
    )
    sys.stdout.write(f"{count} segment{'s' * (count != 1)} in {options.segments_field}\n")
    return OK


def _add_select(commands: Commands) -> None:
    command = _add(
        commands,
        "select",
        _select,
        summary="Choose the frames that people shall annotate, in each temporal segment.",
        example="labelprop select --dataset clips --segments-field segments --method every:10",
    )
    _add_sequences(command)
    command.add_argument("--segments-field", required=True, metavar="FIELD", help="where 'labelprop segment' put them")
    command.add_argument(
        "--method",
        default="every:10",
        help="first, middle, uniform:K, every:N, all, diverse:K, coverage:K, or coverage:J as in 0.9 (every:10)",
    )


def _select(options: argparse.Namespace) -> int:
    from labelprop_cvat import workflow

    count = workflow.select(
        _samples(options), options.segments_field, method=options.method, sort_field=options.sort_field
    )
    sys.stdout.write(f"{count} exemplar{'s' * (count != 1)} in {options.segments_field}\n")
    return OK


def _add_propagate(commands: Commands) -> None:
    command = _add(
        commands,
        "propagate",
        _propagate,
        summary="Fill a field from the labels that another field holds on some frames, without CVAT.",
        example="labelprop propagate --dataset clips --input-field frames.objects",
    )
    _add_sequences(command)
    command.add_argument("--input-field", required=True, metavar="FIELD", help="labels with an index, on some frames")
    command.add_argument("--output-field", metavar="FIELD", help="where the others go (<input field>_propagated)")
    command.add_argument("--segments-field", metavar="FIELD", help="where segments are stored; computed by default")
    _add_engine(command, default="auto", what=_AUTO)


def _propagate(options: argparse.Namespace) -> int:
    from labelprop_cvat import workflow

    with _saying_what_fills(), workflow.engine_at_work(options.engine, _engine_options(options)) as engine:
        count = workflow.propagate(
            _samples(options),
            options.input_field,
            options.output_field,
            engine=engine,
            sort_field=options.sort_field,
            segments_field=options.segments_field,
        )
    output = options.output_field or f"{options.input_field}{workflow.OUTPUT_SUFFIX}"
    sys.stdout.write(f"{count} frames in {output}, by {engine.spec.name}\n")
    return OK


def _add_evaluate(commands: Commands) -> None:
    command = _add(
        commands,
        "evaluate",
        _evaluate,
        summary="Say how good a field is, judged by the truth in another one.",
        example="labelprop evaluate clips --pred objects_propagated --gt ground_truth --report report.html",
    )
    command.add_argument("dataset", metavar="DATASET", help="a FiftyOne dataset")
    command.add_argument("--view", metavar="NAME", help="a saved view of it")
    command.add_argument("--sort-field", metavar="FIELD", help="what orders an image collection")
    command.add_argument("--pred", required=True, metavar="FIELD", help="labels to judge, such as frames.objects")
    command.add_argument("--gt", required=True, metavar="FIELD", help="labels to judge them by")
    command.add_argument("--segments-field", metavar="FIELD", help="where temporal segments are stored")
    command.add_argument("--report", type=Path, metavar="FILE", help="write a report, one HTML file")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
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
    _add_engine(command, default=None, what="by default what fills the field in an annotation run, else auto")


def _budgets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(entry) for entry in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected something like 1,2,4, got {text!r}") from error


def _evaluate(options: argparse.Namespace) -> int:
    from labelprop_cvat import workflow

    with _saying_what_fills():
        evaluation = workflow.evaluate(
            _samples(options),
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
            engine_options=_engine_options(options),
            report=options.report,
            json_path=options.json,
            methods=options.methods.split(","),
        )
    evaluation.print_report()
    for path in (options.report, options.json):
        if path is not None:
            sys.stdout.write(f"{path}\n")
    return OK


# --- runs ----------------------------------------------------------------------------------------------------------


def _add_run(commands: Commands, name: str, run: Command, summary: str) -> argparse.ArgumentParser:
    command = _add(commands, name, run, summary=summary, example=f"labelprop {name} clips run1")
    command.add_argument("dataset", metavar="DATASET", help="a FiftyOne dataset")
    command.add_argument("run_key", metavar="RUN", help="the anno_key that annotate() was given")
    command.add_argument("--url", help="where CVAT is by now; by default where the run was sent")
    command.add_argument("--username", help="log in to CVAT as this user")
    _add_tls(command)
    return command


def _add_tls(command: argparse.ArgumentParser) -> None:
    tls = command.add_mutually_exclusive_group()
    tls.add_argument("--ca", type=Path, metavar="FILE", help="certificates to check the server's with")
    tls.add_argument("--insecure", action="store_true", help="do not check the server's TLS certificate at all")


def _verify(options: argparse.Namespace) -> bool | str | None:
    """How certificates are checked; None where nothing was said about it."""
    if options.insecure:
        return False
    return None if options.ca is None else str(options.ca)


def _results(options: argparse.Namespace) -> Any:
    """The results of a run of ours, which connect as the options say."""
    from labelprop_cvat.workflow import run_results

    login = {"url": options.url, "username": options.username, "verify": _verify(options)}
    return run_results(_dataset(options), options.run_key, **login)


def _add_adopt(commands: Commands) -> None:
    command = _add(
        commands,
        "adopt",
        _adopt,
        summary="Make a run of tasks that are in CVAT already, whoever made them; 'labelprop load' brings them home.",
        example="labelprop adopt clips old --task 12 --task 13 --label-field objects --sort-field filepath",
    )
    command.add_argument("dataset", metavar="DATASET", help="a FiftyOne dataset")
    command.add_argument("run_key", metavar="RUN", help="the key of the new run")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--task", type=int, action="append", metavar="N", help="a task; may be given several times")
    which.add_argument("--project", type=int, metavar="N", help="all tasks of a project")
    which.add_argument("--project-name", metavar="NAME", help="all tasks of the project of this name")
    command.add_argument("--label-field", metavar="FIELD", help="where labels go; by default a field for each kind")
    command.add_argument("--label-type", metavar="TYPE", help="of that field, such as detections; by default what fits")
    command.add_argument(
        "--data-path", type=Path, metavar="PATH", help="folder of the media, or JSON file: name to path"
    )
    command.add_argument("--download-media", action="store_true", help="download what is missing into --data-path")
    command.add_argument("--known-only", action="store_true", help="add no samples for media that are none yet")
    command.add_argument("--create", action="store_true", help="make the dataset if there is none of this name")
    command.add_argument("--view", metavar="NAME", help="a saved view of the dataset")
    command.add_argument("--sort-field", metavar="FIELD", help="what orders an image collection")
    command.add_argument("--segments-field", metavar="FIELD", help="where segments are stored; computed by default")
    _add_engine(command, default=None, what=f"{_AUTO}; none fills nothing")
    command.add_argument("--url", help="where CVAT is; by default as configured")
    command.add_argument("--username", help="log in to CVAT as this user")
    command.add_argument("--organization", metavar="NAME", help="short name of the organization that the tasks are in")
    _add_tls(command)


def _adopt(options: argparse.Namespace) -> int:
    import fiftyone as fo

    from labelprop_cvat import workflow

    made = options.create and not fo.dataset_exists(options.dataset)
    dataset = fo.Dataset(options.dataset, persistent=True) if made else _dataset(options)
    names = ("label_field", "label_type", "data_path", "sort_field", "segments_field", "engine")
    asked = {name: getattr(options, name) for name in (*names, "url", "username", "organization")}
    asked["engine_options"] = _engine_options(options) or None
    try:
        results = workflow.adopt(
            _samples(options),
            options.run_key,
            task_ids=options.task,
            project_id=options.project,
            project_name=options.project_name,
            download_media=options.download_media,
            insert_new=not options.known_only,
            **{name: value for name, value in {**asked, "verify": _verify(options)}.items() if value is not None},
        )
    except BaseException:
        if made and len(dataset) == 0:
            dataset.delete()
        raise
    rows = results.get_status(refresh=False)
    tasks = {row["task_id"] for row in rows}
    fields = ", ".join(results.config.label_schema)
    sys.stdout.write(
        f"{len(tasks)} tasks with {len(rows)} jobs and {sum(row['frames'] for row in rows)} frames are in the run "
        f"{options.run_key!r} now, for {fields}. Load them: labelprop load {options.dataset} {options.run_key}\n"
    )
    return OK


def _add_status(commands: Commands) -> None:
    command = _add_run(commands, "status", _status, "Say how far people and propagation are with a run, job by job.")
    command.add_argument("--json", action="store_true", help="print a JSON document instead of a table")


def _status(options: argparse.Namespace) -> int:
    results = _results(options)
    if options.json:
        sys.stdout.write(json.dumps(results.get_status(), indent=2) + "\n")
    else:
        results.print_status()
    return OK


def _add_load(commands: Commands) -> None:
    command = _add_run(commands, "load", _load, "Bring finished annotations of a run to FiftyOne and propagate them.")
    command.add_argument(
        "--wait",
        type=_minutes,
        metavar="MINUTES",
        help="first wait until all jobs are finished; when the time is up, load those that are, and exit with 1",
    )
    _add_engine(command, default=None, what="instead of the run's own, this once; none leaves the frames for later")


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"minutes are a number from 0, got {text}")
    return value


def _load(options: argparse.Namespace) -> int:
    results = _results(options)
    all_finished = True
    if options.wait is not None:
        _show_progress()
        all_finished = results.wait(60 * options.wait)
    asked = {"engine": options.engine, "engine_options": _engine_options(options) or None}
    # The same results, which FiftyOne holds by now.
    with _saying_what_fills():
        results.dataset.load_annotations(
            options.run_key, **{name: value for name, value in asked.items() if value is not None}
        )
    sys.stdout.write(f"{results.summary}\n")
    return OK if all_finished else FAILED


def _add_suggest(commands: Commands) -> None:
    command = _add_run(
        commands, "suggest", _suggest, "Say which frames of a run to annotate next, why, and when to stop."
    )
    command.add_argument("--budget", type=int, default=5, metavar="N", help="at most so many frames (default: 5)")
    command.add_argument(
        "--target", type=float, default=0.9, metavar="J", help="IoU that every object shall reach (default: 0.9)"
    )
    command.add_argument(
        "--least-gain", type=float, metavar="G", help="leave out frames that gain less IoU a minute, over all objects"
    )
    command.add_argument("--send", action="store_true", help="send them to CVAT as the next round")
    command.add_argument("--json", action="store_true", help="print a JSON document instead of a table")


class _ToErrors(io.TextIOBase):
    """Writes to standard error without being it: progress bars turn aside log handlers that share their stream."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)


def _suggest(options: argparse.Namespace) -> int:
    # A document has standard output for itself; progress bars go there otherwise.
    with redirect_stdout(_ToErrors()) if options.json else nullcontext():
        suggestions = _results(options).suggest(options.budget, target=options.target, least_gain=options.least_gain)
        number = suggestions.send() if options.send and suggestions.frames else None
    if options.json:
        sys.stdout.write(json.dumps({**suggestions.to_dict(), "round": number}, indent=2) + "\n")
        return OK
    suggestions.print()
    if number is not None:
        sys.stdout.write(f"They are in CVAT as round {number}, with the propagated labels to be corrected.\n")
    elif suggestions.frames:
        sys.stdout.write(f"Send them: labelprop suggest {options.dataset} {options.run_key} --send\n")
    return OK


def _add_review(commands: Commands) -> None:
    command = _add_run(commands, "review", _review, "Send what was propagated in a run to CVAT to be reviewed.")
    command.add_argument(
        "--frames",
        metavar="WHICH",
        help="which frames reviewers see: all, every:n, or uncertain (default: as the run was asked for, else all)",
    )
    command.add_argument(
        "--as",
        dest="review_as",
        choices=["polygons"],
        help="send masks as tracks of polygons: their corners can be dragged; less exact",
    )
    command.add_argument(
        "--segments", nargs="+", metavar="LABEL", help="only these temporal segments, reviewed before or not"
    )
    command.add_argument(
        "--history", action="store_true", help="send nothing; show what each round sent, changed, cost and came to"
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="with --history: draw it, too, as .png or .svg")
    command.add_argument("--json", action="store_true", help="print a JSON document instead of a text")


def _review(options: argparse.Namespace) -> int:
    if options.plot is not None and not options.history:
        raise ConfigurationError("--plot draws the history: give --history with it.")
    asked = {"--frames": options.frames, "--as": options.review_as, "--segments": options.segments}
    unused = [name for name, value in asked.items() if value is not None]
    if options.history and unused:
        raise ConfigurationError(f"--history sends nothing: leave out {', '.join(unused)}, or --history.")
    if options.history:
        return _show_history(options)
    # A document has standard output for itself; progress bars go there otherwise.
    with redirect_stdout(_ToErrors()) if options.json else nullcontext():
        results = _results(options)
        number = results.request_review(options.segments, frames=options.frames, review_as=options.review_as)
        rows = [row for row in results.get_status(refresh=False) if row["round"] == number]
    if options.json:
        sys.stdout.write(json.dumps({"round": number, "jobs": rows}, indent=2) + "\n")
    elif number is None:
        why = "every segment that is filled is under review, in no doubt, or unchanged since its last review."
        if not any(row["propagated"] for row in results.get_status(refresh=False)):
            load = f"labelprop load {options.dataset} {options.run_key}"
            why = f"no segment is filled yet. When jobs are completed: {load}"
        sys.stdout.write(f"Nothing to review: {why}\n")
    else:
        doubts = sum(len(row["doubts"]) for row in rows)
        sys.stdout.write(
            f"Round {number} is in CVAT for review: {_counted(sum(row['frames'] for row in rows), 'frame')} in "
            f"{_counted(len(rows), 'job')}, with {_counted(doubts, 'doubt') if doubts else 'no doubts'} as issues.\n"
        )
        sys.stdout.writelines(f"{row['url']}\n" for row in rows)
    return OK


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _show_history(options: argparse.Namespace) -> int:
    history = _results(options).history()
    if options.plot is not None:
        history.plot(options.plot)
    if options.json:
        sys.stdout.write(json.dumps(history.to_dict(), indent=2) + "\n")
    else:
        history.print()
    return OK


@contextmanager
def _saying_what_fills() -> Iterator[None]:
    """Shows what engines log: which one was taken and why, on what device, and where it is in long passes."""
    logger = logging.getLogger("labelprop_cvat.propagation")
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _show_progress() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("labelprop_cvat")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _add_cleanup(commands: Commands) -> None:
    command = _add_run(commands, "cleanup", _cleanup, "Delete a run's tasks from CVAT; what is in FiftyOne stays.")
    command.add_argument("--force", action="store_true", help="also tasks that hold work nobody loaded")


def _cleanup(options: argparse.Namespace) -> int:
    results = _results(options)
    others = sorted(str(task.id) for task in results.ledger.tasks() if task.adopted)
    results.cleanup(force=options.force)
    if results.get_status(refresh=False):
        return FAILED
    if others:
        sys.stdout.write(
            f"{options.run_key!r} has let go of the tasks it adopted; they are in CVAT: {', '.join(others)}.\n"
        )
        return OK
    sys.stdout.write(f"Everything of {options.run_key!r} is gone from CVAT.\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
