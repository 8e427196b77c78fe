"""The command line: exit codes, sentences instead of stacks, help with an example."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from labelprop_cvat import __version__, cli
from labelprop_cvat.cli import main
from labelprop_cvat.errors import DataError


def subcommands(*prefix: str) -> list[list[str]]:
    """Every command below a prefix, as the help lists them."""
    text = subprocess.run(
        [sys.executable, "-m", "labelprop_cvat.cli", *prefix, "--help"], capture_output=True, text=True, check=True
    ).stdout
    _, _, listed = text.partition("COMMAND\n")
    return [[*prefix, name] for name in re.findall(r"^    ([a-z]+) ", listed, re.MULTILINE)]


def test_every_command_has_help_with_an_example(capsys):
    commands = subcommands()
    assert ["doctor"] in commands
    commands = [command for command in commands if command != ["cvat"]] + subcommands("cvat")
    assert ["cvat", "serve"] in commands
    for command in commands:
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert re.search(rf"example:\n  labelprop {' '.join(command)}", text), command


@pytest.mark.parametrize("words", [[], ["nonsense"], ["doctor", "--nonsense"], ["cvat", "serve", "--port", "70000"]])
def test_wrong_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "usage: labelprop" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(("raised", "code"), [(DataError("The view is empty."), 1), (KeyboardInterrupt(), 130)])
def test_failures_are_sentences(raised, code, capsys, monkeypatch):
    def fail(options):
        raise raised

    monkeypatch.setattr(cli, "_register", fail)
    assert main(["register"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("labelprop: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_register_and_unregister(tmp_path, capsys):
    path = tmp_path / "annotation_config.json"
    assert main(["register", "--config", str(path)]) == 0
    assert "now registered" in capsys.readouterr().out
    assert main(["register", "--config", str(path)]) == 0
    assert "already registered" in capsys.readouterr().out
    assert "labelprop" in json.loads(path.read_text())["backends"]
    assert main(["register", "--config", str(path), "--unregister"]) == 0
    assert json.loads(path.read_text())["backends"] == {}


def test_register_names_a_malformed_file(tmp_path, capsys):
    path = tmp_path / "annotation_config.json"
    path.write_text("{broken")
    assert main(["register", "--config", str(path)]) == 1
    assert "annotation_config.json is not valid JSON (line 1" in capsys.readouterr().err
    assert path.read_text() == "{broken"


def test_the_command_line_starts_fast():
    code = "import sys, labelprop_cvat.cli as c; c._parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fiftyone", "torch", "cv2", "rich"} & set(loaded)
