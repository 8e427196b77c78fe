"""The part of docs/cli.md that the parser of the command line has to say: every command, its options and its examples.

``python tests/fixtures_reference.py`` writes it into the page again after the command line has changed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from labelprop_cvat import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
BEGIN, END = "<!-- from the parser -->\n", "<!-- as far as here -->\n"
# Groups of options that several commands have; they are described once.
SHARED = ("what fills the other frames", "how to connect to CVAT", "what is shown")


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its words after ``labelprop``, in the order of ``--help``."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, command in action.choices.items():
            yield from commands(command, f"{name} {word}".strip())


def reference() -> str:
    """What belongs between the two marks of the page."""
    found = dict(commands(cli._parser()))
    shared = {title: _usual(title, list(found.values())) for title in SHARED}
    usual = {name: text for options, _ in shared.values() for name, text in options.items()}
    parts = [_section(name, command, usual) for name, command in found.items()]
    for title, (options, told) in shared.items():
        rows = [f"| {name} | {text} |" for name, text in options.items()]
        head = f"## {title[0].upper()}{title[1:]}\n\n" + (f"{told}\n\n" if told else "")
        parts.append(f"{head}| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _section(name: str, command: argparse.ArgumentParser, usual: dict[str, str]) -> str:
    """A command; of shared options only those that mean something else than usual."""
    lines = [f"## {name}\n", _plain(command.description or "") + "\n"]
    examples, codes = _epilog(command)
    lines.append("```bash\n" + "\n".join(examples) + "\n```\n")
    rows, shared = [], []
    for group in command._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if group.title in SHARED and actions:
            shared.append(f"[{group.title}](#{_anchor(group.title)})")
            rows += [_row(action) for action in actions if usual[_name(action)] != _help(action)]
        elif group.title in SHARED:
            continue
        else:
            rows += [_row(action) for action in actions if "--help" not in action.option_strings]
    if rows:
        lines.append("| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    if codes:
        lines.append(f"Exit codes: {codes}.\n")
    lines.append("Also: " + ", ".join(shared) + ".\n")
    return "\n".join(lines)


def _usual(title: str, found: list[argparse.ArgumentParser]) -> tuple[dict[str, str], str]:
    """The options of a group with what most commands say of each, and what is said about the group."""
    said: dict[str, list[str]] = {}
    told = ""
    for command in found:
        for group in command._action_groups:
            if group.title == title:
                told = _plain(group.description or "") or told
                for action in group._group_actions:
                    said.setdefault(_name(action), []).append(_help(action))
    return {name: max(texts, key=texts.count) for name, texts in said.items()}, told


def _row(action: argparse.Action) -> str:
    return f"| {_name(action)} | {_help(action)} |"


def _name(action: argparse.Action) -> str:
    shown = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices is not None:
        shown = "\\|".join(map(str, action.choices))
    value = " ".join(shown) if isinstance(shown, tuple) else shown
    if not action.option_strings:
        return f"`[{value}]`" if action.nargs == "?" else f"`{value}`"
    more = " ..." if action.nargs in ("+", "*") else ""
    needed = ", needed" if action.required else ""
    return f"`{', '.join(action.option_strings)}{' ' + value if value else ''}{more}`{needed}"


def _help(action: argparse.Action) -> str:
    return _plain((action.help or "").replace("%%", "%")).replace("|", "\\|").replace("<", "&lt;")


def _epilog(command: argparse.ArgumentParser) -> tuple[list[str], str]:
    text = command.epilog or ""
    shown, _, codes = text.partition("exit codes:")
    examples = [line.removeprefix("  ") for line in shown.splitlines()[1:] if line.strip()]
    return examples, _plain(codes).rstrip(".")


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def rewritten(page: str) -> str:
    """The page with that part as it is now."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + reference() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
