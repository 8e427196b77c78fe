"""How the words of a command line are read: one grammar for all commands, and help that goes by the loop's order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from labelprop_cvat.cli._answers import Answer, meant

Command = Callable[[argparse.Namespace], Answer]

Commands = argparse._SubParsersAction  # what add_subparsers returns; argparse has no public name for it

NO_HARM = "Nothing was changed."
_SHOWN = "what is shown"


class UsageError(Exception):
    """Words that make no command.

    Args:
        parser: that of the command that was meant, or of all of them
        message: what is wrong, in a sentence
    """

    def __init__(self, parser: Parser, message: str) -> None:
        super().__init__(message)
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError`, and says which word was meant where one is misspelled.

    Options are never abbreviated: a script would break when another option of the same beginning comes.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.summary = ""
        self.takes_dataset_option = False
        # Positional words that may be left out, by the names of their values: argparse does not see them behind
        # an option.
        self.late: tuple[str, ...] = ()
        self.commands: Commands[Parser] | None = None

    def format_help(self) -> str:
        """The help, with what all commands have at its end."""
        self._action_groups.sort(key=lambda group: group.title == _SHOWN)
        return super().format_help()

    def error(self, message: str) -> Any:
        """Raises :class:`UsageError`."""
        raise UsageError(self, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Reads words, all of which must be known."""
        words = sys.argv[1:] if args is None else list(args)
        if self.commands is not None and words and not words[0].startswith("-"):
            known = sorted(self.commands.choices)
            if words[0] not in known:
                hint = meant(words[0], known) or f" There are: {', '.join(known)}."
                raise UsageError(self, f"there is no command {words[0]!r}.{hint}")
        if self.takes_dataset_option:
            words = _dataset_first(words)
        if self.commands is None:
            # Said before what is missing: it is missing since it is misspelled, perhaps.
            options = [word for word in words if word.startswith("--") and word != "--"]
            unknown = [word for word in options if word.split("=")[0] not in self._option_string_actions]
            if unknown:
                raise UsageError(self, self._unknown(unknown))
        found, left = super().parse_known_args(words, namespace)
        for name in self.late:
            if left and not left[0].startswith("-") and getattr(found, name) is None:
                setattr(found, name, left.pop(0))
        if left:
            raise UsageError(self, self._unknown(left))
        return found, left

    def _unknown(self, words: Sequence[str]) -> str:
        word = next((word for word in words if word.startswith("-")), words[0])
        if not word.startswith("-"):
            is_file = word.endswith(".json")
            hint = f" --json prints; to keep what it prints, end the command with: > {word}" if is_file else ""
            return f"unrecognized arguments: {' '.join(words)}.{hint}"
        return f"there is no option {word}.{meant(word.split('=')[0], sorted(self._option_string_actions))}"


def _dataset_first(words: list[str]) -> list[str]:
    """Moves the dataset of ``--dataset NAME``, as these commands took it once, to its place."""
    for place, word in enumerate(words):
        if word == "--dataset" and place + 1 < len(words):
            return [words[place + 1], *words[:place], *words[place + 2 :]]
        if word.startswith("--dataset="):
            return [word.partition("=")[2], *words[:place], *words[place + 1 :]]
    return words


def add(
    commands: Commands[Parser],
    name: str,
    run: Command,
    *,
    summary: str,
    usage: str,
    examples: Sequence[str],
    interrupted: str = NO_HARM,
    on_datasets: bool = True,
    codes: str | None = None,
) -> Parser:
    """Adds a command.

    Args:
        commands: where to
        name: its name
        run: what it does
        summary: what it does, in a sentence
        usage: its words after its name, those of options in one word
        examples: whole command lines
        interrupted: what Ctrl-C leaves behind and how to go on, in a sentence
        on_datasets: whether it works on datasets, which takes FiftyOne
        codes: what its own exit codes say, where they say more than those of all commands
    """
    shown = "".join(f"  {example}\n" for example in examples)
    head = "example" if len(examples) == 1 else "examples"
    said = f"\nexit codes: {codes}\n" if codes else ""
    short = summary[0].lower() + summary[1:].rstrip(".")
    command: Parser = commands.add_parser(name, help=short, description=summary, epilog=f"{head}:\n{shown}{said}")
    command.usage = f"{command.prog} {usage} [options]".replace("  ", " ")
    command.summary = short
    command.set_defaults(run=run, parser=command, interrupted=interrupted, on_datasets=on_datasets)
    shows = command.add_argument_group(_SHOWN)
    shows.add_argument("--json", action="store_true", help="print one JSON document on standard output instead")
    loudness = shows.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="tell each step on standard error")
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress, and no warnings")
    return command


def add_dataset(command: Parser, *, has_option: bool = False) -> None:
    """Adds the dataset, the first word of every command that has one.

    Args:
        command: the command
        has_option: also take ``--dataset NAME``, as it was before
    """
    command.add_argument("dataset", metavar="DATASET", help="a FiftyOne dataset")
    command.takes_dataset_option = has_option


def add_view(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds what says which samples, and in which order."""
    command.add_argument("--view", metavar="NAME", help="a saved view of the dataset")
    command.add_argument("--sort-field", metavar="FIELD", help="what orders an image collection")


def add_run(command: Parser, key_help: str = "the anno_key of an annotation run", *, is_needed: bool = True) -> None:
    """Adds the name of a run, the second word."""
    command.add_argument("run_key", metavar="RUN", nargs=None if is_needed else "?", help=key_help)
    if not is_needed:
        command.late = ("run_key",)


def add_connection(command: Parser, url_help: str) -> None:
    """Adds where CVAT is and who logs in. Passwords are no options: other users of a machine can read them."""
    group = command.add_argument_group(
        "how to connect to CVAT",
        "Passwords and tokens come from FIFTYONE_CVAT_PASSWORD or FIFTYONE_CVAT_TOKEN,\n"
        "from FiftyOne's annotation config, or are asked for on a terminal.",
    )
    group.add_argument("--url", help=url_help)
    group.add_argument("--username", metavar="NAME", help="log in to CVAT as this user")
    tls = group.add_mutually_exclusive_group()
    tls.add_argument("--ca", metavar="FILE", help="certificates to check the server's with")
    tls.add_argument("--insecure", action="store_true", help="do not check the server's TLS certificate at all")


def verify(options: argparse.Namespace) -> bool | str | None:
    """How certificates are checked; None where nothing was said about it."""
    return False if options.insecure else options.ca


def login(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_connection` asked for, without what was left out."""
    asked = {"url": options.url, "username": options.username, "verify": verify(options)}
    return {name: value for name, value in asked.items() if value is not None}
