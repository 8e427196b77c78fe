"""The documents are true: links lead somewhere, commands and parameters exist, the example engine works."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import fixtures_reference
import numpy as np
import pytest

from labelprop_cvat import cli, workflow
from labelprop_cvat.backend.labelprop import LabelPropBackendConfig
from labelprop_cvat.backend.results import LabelPropResults
from labelprop_cvat.propagation import propagator
from labelprop_cvat.propagation.frames import ArraySource
from labelprop_cvat.propagation.propagator import get_propagator, register_propagator
from labelprop_cvat.propagation.types import ObjectMask, Prompt, Segment

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "labelprop_cvat" / "plugin"
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# What annotate() itself takes, besides the backend's own parameters.
FIFTYONES = {"backend", "launch_editor", "label_field", "label_type", "classes", "attributes", "label_schema"}


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        assert path.is_file(), link
        if anchor:
            assert anchor in anchors(path.read_text()), link


def commands(parser: argparse.ArgumentParser, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """The options of every command."""
    found = {prefix: {option for action in parser._actions for option in action.option_strings}}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= commands(inner, (*prefix, name))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document):
    known = commands(cli._parser())
    for line in re.findall(r"\blabelprop ((?:[a-z]+|--[a-z-]+)[^`#\n]*)", document.read_text()):
        words = line.split()
        name = tuple(words[:2]) if tuple(words[:2]) in known else (words[0],)
        if words[0].startswith("--"):
            name = ()
        if name not in known:
            # Prose, such as "the entry labelprop in ...": a command stands in code.
            assert f"`labelprop {words[0]}" not in document.read_text(), line
            continue
        for word in words:
            if word.startswith("--"):
                assert word in known[name], line


def test_the_reference_of_the_command_line_is_what_the_parser_says():
    page = fixtures_reference.PAGE.read_text()
    assert page == fixtures_reference.rewritten(page), "run: python tests/fixtures_reference.py"


def test_every_input_of_the_operators_is_in_the_documents_and_no_other():
    text = (ROOT / "docs" / "plugin.md").read_text()
    operators = text.partition("## Operators")[2].partition("## CVAT in the App")[0]
    modules = [path for path in PLUGIN.glob("*.py") if path.name not in ("_steps.py", "_activity.py", "installing.py")]
    source = "".join(path.read_text() for path in modules)
    inputs = set(re.findall(r"inputs\.(?:str|int|float|bool|list|enum)\(\s*\"(\w+)\"", source))
    inputs |= set(re.findall(r"add_label_field\([^\"]*\"(\w+)\"", source))
    assert len(inputs) > 40
    cells = [row.split("|")[1] for row in operators.splitlines() if row.startswith("| ")]
    listed = {name for row in operators.splitlines() if row.startswith("| ") for name in re.findall(r"`(\w+)`", row)}
    assert inputs <= listed, inputs - listed
    known = inputs | {"view_target", "propagation_method", "engine_options"}
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named <= known, named - known
    for name in re.findall(r"^  - (\w+)$", (PLUGIN / "fiftyone.yml").read_text(), re.MULTILINE):
        assert f"### {name}\n" in operators or name == "label_propagation" or name.startswith("FIFTYONE_"), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_parameters_of_annotate_exist(document):
    known = FIFTYONES | set(inspect.signature(LabelPropBackendConfig).parameters)
    for call in re.findall(r"annotate\(([^`]*?)\)\n?", document.read_text(), re.DOTALL):
        used = set(re.findall(r"\b([a-z_]+)=", call)) - {"frame_number"}
        assert used <= known, used - known


def calls(text: str, name: str) -> Iterator[tuple[str, ast.Call | None]]:
    """What is asked of a variable in code, such as ``lp.segment(...)``; the call is None where it is cut short."""
    for found in re.finditer(rf"\b{name}\.(\w+)\(", text):
        depth, stop = 1, found.end()
        while depth and stop < len(text):
            depth += {"(": 1, ")": -1}.get(text[stop], 0)
            stop += 1
        try:
            parsed = ast.parse(text[found.start() : stop], mode="eval").body
        except SyntaxError:
            parsed = None
        yield found[1], parsed if isinstance(parsed, ast.Call) else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_and_their_parameters_exist(document):
    text = document.read_text()
    for name, call in [*calls(text, "lp"), *calls(text, "workflow")]:
        assert name in workflow.__all__, f"{document.name}: workflow.{name}"
        known = inspect.signature(getattr(workflow, name)).parameters
        if call is not None and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            used = {keyword.arg for keyword in call.keywords}
            assert used <= set(known), f"{document.name}: {name} has no {used - set(known)}"
    for name, _ in calls(text, "results"):
        assert hasattr(LabelPropResults, name), f"{document.name}: results.{name}"


def test_the_engine_in_the_documents_works(monkeypatch):
    monkeypatch.setattr(propagator, "_factories", dict(propagator._factories))
    text = (ROOT / "docs" / "engines.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class FirstOnly" in block]
    names: dict = {}
    exec(compile(code, "engines.md", "exec"), names)
    register_propagator("first-only-of-the-documents", names["FirstOnly"])
    engine = get_propagator("first-only-of-the-documents")
    mask = ObjectMask(2, 3, np.ones((4, 5), bool))
    frames = ArraySource(np.zeros((4, 20, 20, 3), np.uint8))
    answers = list(engine.propagate(frames, [Prompt(1, 7, mask=mask)], Segment(0, 4)))
    assert [answer.frame for answer in answers] == [0, 1, 2, 3]
    assert answers[1].objects[7].mask == mask
    assert not answers[2].objects


def test_every_target_of_the_makefile_that_is_mentioned_exists():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake (demo|test|lint|bench|clean|wheel|install|[a-z]+)\b`", document.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
