"""docs/messages.md has a line for everything that the product can say, and for nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from fixtures_messages import _Reader, answers_of_the_local_server, error_classes, heading, messages

PAGE = Path(__file__).resolve().parents[1] / "docs" / "messages.md"
SPAN = re.compile(r"(`+) ?(.+?) ?(?<!`)\1(?!`)")
LOCAL = "## The local server"


def entries(text: str) -> dict[str, str | None]:
    """Message -> remedy, of a part of the page; None where one paragraph has the remedy of a whole list."""
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            said, remedy = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"), maxsplit=1)
        elif line.startswith("- `"):
            said, remedy = line.removeprefix("- "), None
        else:
            continue
        for _, span in SPAN.findall(said.replace("\\|", "|")):
            assert span not in found, f"twice in docs/messages.md: {span}"
            found[span] = remedy
    return found


@pytest.fixture(scope="module")
def page() -> tuple[dict[str, str | None], dict[str, str | None]]:
    product, local = PAGE.read_text().split(LOCAL)
    return entries(product), entries(local)


def test_every_message_has_a_line(page):
    missing = {message.heading: message.module for message in messages() if message.heading not in page[0]}
    assert not missing, "docs/messages.md needs a row with a remedy for:\n" + "\n".join(
        f"| `{said}` | ({module}) |" for said, module in missing.items()
    )


def test_every_line_is_of_a_message(page):
    said = {message.heading for message in messages()}
    stale = [line for line in page[0] if line not in said]
    assert not stale, "docs/messages.md has rows of messages that no code says:\n" + "\n".join(stale)


def test_answers_of_the_local_server_are_listed(page):
    assert sorted(page[1]) == sorted(answers_of_the_local_server())


def test_every_row_says_what_to_do(page):
    for said, remedy in (page[0] | page[1]).items():
        if remedy is not None:
            assert len(remedy) >= 10, said
            assert said.lower() not in remedy.lower(), said


SOURCE = """
import logging
import warnings
_WHERE = "in the shop"

class LabelPropError(Exception): ...
class Sold(LabelPropError): ...
class Broken(Sold): ...

def sold(n, why):
    if n > 2:
        raise Sold(f"There are {n} cheeses {_WHERE!r}, expected two. Take one back.")
    hint = "Ask again." if why else "Go away."
    error = Broken("The cheese is " + _told(n) + " gone. " + hint)
    logging.getLogger().warning("%d of %s runny, at %.1f%% of its weight", 1, "it", 2.5)
    warnings.warn("a contract")
    raise error

def _told(n):
    return f"all {n} of it" if n else "none of it"

def sent_back(n):
    if n == 404:
        kind, message = Sold, f"no cheese at {n}"
    else:
        kind = Broken
        message = "the shop is closed"
    return kind(message)

def other():
    raise KeyError("this is for nobody")
"""


def test_messages_are_found_wherever_they_are_made():
    tree = ast.parse(SOURCE)
    classes = error_classes([tree])
    assert classes == {"LabelPropError", "Sold", "Broken"}
    assert sorted(_Reader(tree, classes).templates()) == sorted(
        [
            "There are … cheeses 'in the shop', expected two. Take one back.",
            "The cheese is all … of it gone. Ask again.",
            "… of … runny, at …% of its weight",
            "a contract",
            "no cheese at …",
            "the shop is closed",
        ]
    )


def test_a_heading_is_what_was_found():
    assert heading("There are … cheeses here, expected two. Take one back.") == "There are … cheeses here, expected two"
    assert heading("… (…) failed: …. It is in the log of the server.") == (
        "… (…) failed: …. It is in the log of the server"
    )
    assert heading("It failed. The reason (which was: Here) stays unknown. Ask.") == (
        "It failed. The reason (which was: Here) stays unknown"
    )
