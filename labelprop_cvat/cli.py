"""The command line. Thin: every command calls one function of the package and shows what it returns.

Exit codes: 0 all went well, 1 something failed (said in one sentence on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labelprop_cvat import __version__
from labelprop_cvat.errors import LabelPropError

if TYPE_CHECKING:
    from labelprop_cvat.doctor import Finding

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

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
    _add_doctor(commands)
    _add_register(commands)
    _add_cvat(commands)
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
    command.add_argument("--json", action="store_true", help="print a JSON document instead of a table")


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from labelprop_cvat.doctor import Status, as_json, examine

    findings: list[Finding] = []
    with Console(stderr=True).status("Looking around…") as status:
        for finding in examine(options.url, options.username):
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


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, got {value}")
    return value


def _serve(options: argparse.Namespace) -> int:
    from labelprop_cvat.backend.local_cvat import serve

    serve(options.directory, options.port)
    return OK


if __name__ == "__main__":
    sys.exit(main())
