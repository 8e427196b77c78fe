"""The commands about this machine: doctor, register, plugin, weights, cvat serve, demo."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelprop_cvat.cli._answers import FAILED, NOTHING, OK, Answer, say, write_document
from labelprop_cvat.cli._engines import AUTO_HELP, add_engine, engine_options
from labelprop_cvat.cli._parser import Commands, Parser, UsageError, add, add_connection, verify
from labelprop_cvat.cli._work import showing_progress
from labelprop_cvat.errors import ConfigurationError

if TYPE_CHECKING:
    from labelprop_cvat.doctor import Finding
    from labelprop_cvat.plugin.installing import Installation


def _add_group(commands: Commands[Parser], name: str, summary: str) -> Commands[Parser]:
    """Adds a word that has commands of its own."""
    group: Parser = commands.add_parser(name, description=f"{summary[0].upper()}{summary[1:]}.")
    group.usage = f"{group.prog} COMMAND [options]"
    group.summary = summary
    group.commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True, prog=group.prog)
    return group.commands


# --- doctor and register -------------------------------------------------------------------------------------------


def add_doctor(commands: Commands[Parser]) -> None:
    """Adds ``labelprop doctor``."""
    command = add(
        commands,
        "doctor",
        _doctor,
        summary="Say what works here, and for each thing that does not, the command that mends it.",
        usage="",
        examples=["labelprop doctor", "labelprop doctor --url http://localhost:8080 --username admin"],
        on_datasets=False,
        codes="1 where something that is needed does not work",
    )
    add_connection(command, "ask this CVAT server instead of the one that is configured")


def _doctor(options: argparse.Namespace) -> Answer:
    from rich.console import Console

    from labelprop_cvat.doctor import Status, as_json, examine

    findings: list[Finding] = []
    with Console(stderr=True, quiet=options.quiet).status("Looking around…") as status:
        for finding in examine(options.url, options.username, verify(options)):
            findings.append(finding)
            status.update(f"Looking around… {finding.name}")
    is_broken = any(finding.status is Status.FAILED for finding in findings)
    return Answer(json.loads(as_json(findings)), lambda: _show_findings(findings), FAILED if is_broken else OK)


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


def add_register(commands: Commands[Parser]) -> None:
    """Adds ``labelprop register``."""
    command = add(
        commands,
        "register",
        _register,
        summary="Make FiftyOne know backend='labelprop' in every process, through its annotation config.",
        usage="",
        examples=["labelprop register"],
        on_datasets=False,
    )
    command.add_argument("--unregister", action="store_true", help="take the backend out again")
    command.add_argument("--config", type=Path, metavar="FILE", help="another file than the one FiftyOne reads")


def _register(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.registration import write_registration

    done = write_registration(options.config, remove=options.unregister)

    def show() -> None:
        state = "not registered" if options.unregister else "registered"
        say(f"backend 'labelprop' is {'now' if done.changed else 'already'} {state} in {done.path}")
        if done.dropped:
            say(f"Settings that went with it: {', '.join(done.dropped)}")

    document = {
        "registered": not options.unregister,
        "changed": done.changed,
        "path": str(done.path),
        "dropped": list(done.dropped),
    }
    return Answer(document, show)


# --- the App's plugin ----------------------------------------------------------------------------------------------


def add_plugin(commands: Commands[Parser]) -> None:
    """Adds ``labelprop plugin`` and its commands."""
    inner = _add_group(commands, "plugin", "install, uninstall or look for the plugin of the FiftyOne App")
    for name, run, summary in (
        ("install", _install, "Link the plugin into FiftyOne's plugins directory."),
        ("uninstall", _uninstall, "Take the plugin out of FiftyOne's plugins directory."),
        ("status", _plugin_status, "Say whether the App has the plugin."),
    ):
        command = add(
            inner,
            name,
            run,
            summary=summary,
            usage="",
            examples=[f"labelprop plugin {name}"],
            on_datasets=False,
            codes="3 where the App does not show the plugin" if name == "status" else None,
        )
        command.add_argument("--plugins-dir", type=Path, metavar="DIR", help="another one than FiftyOne's own")


def _install(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.plugin.installing import install

    done = install(options.plugins_dir)
    return _installation(done, OK if done.works else NOTHING)


def _uninstall(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.plugin.installing import uninstall

    return _installation(uninstall(options.plugins_dir), OK)


def _plugin_status(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.plugin.installing import status

    found = status(options.plugins_dir)
    return _installation(found, OK if found.works else NOTHING)


def _installation(found: Installation, code: int) -> Answer:
    def show() -> None:
        say(found.message)
        if found.remedy and code != OK:
            say(f"To mend it: {found.remedy}")

    document = {
        "state": found.state.value,
        "works": found.works,
        "enabled": found.enabled,
        "changed": found.changed,
        "path": str(found.path),
        "target": None if found.target is None else str(found.target),
        "message": found.message,
        "remedy": found.remedy,
    }
    return Answer(document, show, code)


# --- a CVAT of one's own -------------------------------------------------------------------------------------------


def add_cvat(commands: Commands[Parser]) -> None:
    """Adds ``labelprop cvat serve``."""
    command = add(
        _add_group(commands, "cvat", "a CVAT server of your own: cvat serve"),
        "serve",
        _serve,
        summary="Run the embedded CVAT-compatible server on this machine until Ctrl-C.",
        usage="",
        examples=["labelprop cvat serve --directory ~/cvat-data --port 8080"],
        interrupted="The server is stopped; the same command starts it again with everything it had.",
        on_datasets=False,
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


def _serve(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.backend.local_cvat import LocalCVAT, serve

    def ready(server: LocalCVAT) -> None:
        directory = options.directory.absolute()
        if options.json:
            login = {"url": server.url, "username": server.username, "password": server.password}
            write_document({**login, "directory": str(directory)}, options.out)
        else:
            password = server.password or "...   # as printed when this folder was made; --password sets another"
            options.out.write(
                f"A local CVAT is at {server.url}, and keeps its data in {options.directory}. For FiftyOne:\n\n"
                f"  export FIFTYONE_CVAT_URL={server.url}\n"
                f"  export FIFTYONE_CVAT_USERNAME={server.username}\n"
                f"  export FIFTYONE_CVAT_PASSWORD={password}\n\n"
                "It has CVAT's REST API, not its web pages. Ctrl-C stops it.\n"
            )
        options.out.flush()

    users = {options.username: options.password} if options.password else None
    try:
        serve(options.directory, options.port, users, ready=ready)
    except OSError as error:
        raise ConfigurationError(
            f"The local CVAT cannot start on port {options.port} with the folder {options.directory}: {error}. "
            f"Take another with --port, or --port 0 for any free one."
        ) from error
    # The document, or the sentence, is out since the server was ready.
    return Answer(None, lambda: None)


# --- weights -------------------------------------------------------------------------------------------------------


def add_weights(commands: Commands[Parser]) -> None:
    """Adds ``labelprop weights``."""
    command = add(
        commands,
        "weights",
        _weights,
        summary="Download the weights of a SAM 2 model, unless they are there, and print where they lie.",
        usage="[MODEL]",
        examples=["labelprop weights tiny"],
        interrupted="What was downloaded stays; the same command goes on from there.",
        on_datasets=False,
    )
    command.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="tiny, small, base_plus, large or an official name (tiny)",
    )
    command.late = ("model",)
    command.add_argument("--folder", metavar="DIR", help="have them there, wherever else they lie")


def _weights(options: argparse.Namespace) -> Answer:
    from labelprop_cvat.propagation.sam2.weights import find_checkpoint, model_info

    info = model_info(options.model or "tiny")
    there = None if options.folder else find_checkpoint(info)
    path = there or _fetched(info, options)
    document = {"model": info.name, "path": str(path), "was_there": there is not None, "bytes": path.stat().st_size}
    return Answer(document, lambda: say(str(path)))


def _fetched(info: Any, options: argparse.Namespace) -> Path:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from labelprop_cvat.propagation.sam2.weights import fetch_checkpoint

    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True, quiet=options.quiet)
    with Progress(*shown, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(info.file_name, total=info.size_bytes)
        path: Path = fetch_checkpoint(
            info,
            folder=options.folder,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return path


# --- the demo ------------------------------------------------------------------------------------------------------


def add_demo(commands: Commands[Parser]) -> None:
    """Adds ``labelprop demo``."""
    command = add(
        commands,
        "demo",
        _demo,
        summary="Annotate a few frames of a video through a local CVAT, propagate them, and measure the result.",
        usage="",
        examples=["labelprop demo", "labelprop demo --frames clip/frames --masks clip/masks --engine sam2"],
        interrupted="What it wrote so far is in the output folder; nothing else stays.",
        on_datasets=False,
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
    add_engine(command, default="auto", what=AUTO_HELP)
    command.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="where results go (demo-output)"
    )
    command.add_argument(
        "--keep", metavar="NAME", help="leave the dataset in your own FiftyOne database under this name"
    )


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


def _demo(options: argparse.Namespace) -> Answer:
    own = options.frames or options.video
    if bool(own) != bool(options.masks):
        raise UsageError(
            options.parser,
            "--masks DIR goes with --frames or --video: the demo needs to know the truth, to draw the exemplars as a "
            "person would and to measure the rest. To annotate your own footage in CVAT, see docs/quick-start.md.",
        )
    from rich.console import Console

    from labelprop_cvat.demo import use_own_database

    if options.keep is None:
        use_own_database()

    from labelprop_cvat.demo.footage import frames_footage, render_footage, video_footage
    from labelprop_cvat.demo.run import check_engine, progress_bar, run_demo
    from labelprop_cvat.propagation.exemplars import ExemplarSpec

    ExemplarSpec.parse(options.exemplars)
    # It shows what it does while it does it.
    console = Console(stderr=True, quiet=options.quiet) if options.json else Console(file=options.out)
    asked = engine_options(options)
    engine = check_engine(options.engine, asked, console)
    if options.frames:
        footage = frames_footage(options.frames, options.masks, options.labels)
    elif options.video:
        footage = video_footage(options.video, options.masks, options.labels)
    else:
        console.print("[bold]Rendering a video[/]")
        half = options.length // 2
        with progress_bar(console, "frames", 2 * half) as tick:
            footage = render_footage(options.output / "input", half, tick)
    with showing_progress(options):
        result = run_demo(
            footage,
            options.output,
            console,
            engine=engine,
            engine_options=asked,
            exemplars=options.exemplars,
            keep=options.keep,
        )

    def show() -> None:
        if options.keep is not None:
            say(f"Look at it in the App: fiftyone app launch {options.keep}")

    return Answer(result, show)
