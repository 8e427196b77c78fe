"""The command line: exit codes, sentences instead of stacks, help with an example."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelprop_cvat import __version__, cli, registration
from labelprop_cvat.backend.cvat.errors import LoginRefused, ServerFailure, Throttled, TLSFailed, Unreachable
from labelprop_cvat.cli import main
from labelprop_cvat.errors import DataError, RunInUse

EVERY = [
    *("segment", "select", "annotate", "status", "load", "suggest", "review", "evaluate", "cleanup"),
    *("propagate", "adopt", "demo", "doctor", "register", "plugin", "weights", "cvat"),
]


def leaves() -> Iterator[list[str]]:
    """The words of every command."""
    for name, command in cli._parser().commands.choices.items():
        inner = command.commands
        yield from ([name, word] for word in inner.choices) if inner is not None else [[name]]


def shown_help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_listed_by_the_loops_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_help(capsys)
    assert re.findall(r"^  ([a-z]+) ", text, re.MULTILINE) == EVERY
    assert "3    nothing to do now" in text


def test_no_command_at_all_is_wrong_usage_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "the loop, in its order:" in said.err


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_help(capsys, *words)
    assert re.search(rf"examples?:\n  labelprop {' '.join(words)}", text)
    assert f"usage: labelprop {' '.join(words)}" in text
    for option in ("--json", "--verbose", "--quiet"):
        assert option in text
    # Other users of the machine see the words of a command. The local server's is a password for this machine alone.
    assert "--token" not in text
    assert "--password" not in text or words == ["cvat", "serve"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["segmnt", "clips"], "there is no command 'segmnt'. Did you mean 'segment'?"),
        (["xyzzy"], "There are: adopt, annotate,"),
        (["plugin", "instal"], "there is no command 'instal'. Did you mean 'install'?"),
        (["plugin"], "the following arguments are required: COMMAND"),
        (["segment", "clips", "--segment-field", "x"], "Did you mean '--segments-field'?"),
        (["segment", "clips", "--segments-field=x", "--min", "3"], "there is no option --min."),
        (["evaluate", "clips", "--pred", "a", "--gt", "b", "--json", "x.json"], "end the command with: > x.json"),
        (["load", "clips"], "the following arguments are required: RUN"),
        (["status", "clips", "--wait", "1"], "--wait waits for one run"),
        (["cvat", "serve", "--port", "70000"], "a port is 0 to 65535"),
        (["propagate", "clips", "--input-field", "x", "--frames", "a:b"], "expected something like 10:40"),
        (["annotate", "clips", "run", "--label-field", "x", "--classes", ","], "expected names like a,b"),
        (["annotate", "clips", "run", "--label-schema", "/nowhere.json"], "a JSON file with a label schema"),
    ],
)
def test_wrong_usage_is_2(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--json"] if "--json" not in words else words)
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert "usage: labelprop" in said.err
    assert sentence in said.err
    error = json.loads(said.out)["error"]
    assert (error["type"], error["exit_code"]) == ("UsageError", 2)
    assert sentence in error["message"]


def test_words_may_stand_in_any_order() -> None:
    parser = cli._parser()
    for words in (["status", "clips", "run"], ["status", "clips", "--json", "run"], ["status", "-q", "clips", "run"]):
        options = parser.parse_args(words)
        assert (options.dataset, options.run_key) == ("clips", "run")
    assert parser.parse_args(["status", "clips", "--json"]).run_key is None
    assert parser.parse_args(["weights", "--folder", "x", "large"]).model == "large"
    # As these commands took it once.
    for words in (["--dataset", "clips", "--input-field", "x"], ["--input-field", "x", "--dataset=clips"]):
        assert parser.parse_args(["propagate", *words]).dataset == "clips"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "kind"),
    [
        (DataError("The view is empty."), 1, "DataError"),
        (LoginRefused("No."), 1, "LoginRefused"),
        (TLSFailed("The certificate cannot be verified.", not_sent=True), 1, "TLSFailed"),
        (Unreachable("Nobody is there.", not_sent=True), 4, "Unreachable"),
        (ServerFailure("It fell over.", status=503), 4, "ServerFailure"),
        (Throttled("Later."), 4, "Throttled"),
        (RunInUse("Another process."), 4, "RunInUse"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
    ids=lambda value: getattr(value, "__class__", type(value)).__name__,
)
def test_failures_are_sentences(
    raised: BaseException, code: int, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        # Whatever is printed on the way is not in the way of the document.
        print("something")  # noqa: T201
        raise raised

    monkeypatch.setattr(registration, "write_registration", fail)
    assert main(["register"]) == code
    said = capsys.readouterr()
    assert said.err.startswith("something\nlabelprop: ")
    assert "Traceback" not in said.err
    assert said.out == ""
    assert main(["register", "--json"]) == code
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert f"labelprop: {error['message']}\n" in said.err


def test_a_defect_is_a_sentence_too_unless_more_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from labelprop_cvat import cli, registration\n"
        "registration.write_registration = lambda *_, **__: 1 / 0\n"
        "sys.exit(cli.main())"
    )

    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, "register", *words], capture_output=True, text=True)

    short, long = said("--json"), said("--verbose")
    assert (short.returncode, long.returncode) == (1, 1)
    assert short.stderr.startswith("labelprop: ZeroDivisionError: division by zero.")
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr
    assert json.loads(short.stdout)["error"]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize(("words", "code"), [("weights nonsense --json", 1), ("--help", 0)])
def test_a_reader_that_goes_away_is_no_failure(words: str, code: int) -> None:
    # Standard output is a pipe whose reader is gone before anything is written.
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "labelprop_cvat.cli", *words.split()]
    with os.fdopen(write, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert "BrokenPipe" not in done.stderr


def test_register_and_unregister(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "annotation_config.json"
    assert main(["register", "--config", str(path)]) == 0
    assert "now registered" in capsys.readouterr().out
    assert main(["register", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **{"registered": True, "changed": False, "path": str(path), "dropped": []}
    }
    assert "labelprop" in json.loads(path.read_text())["backends"]
    assert main(["register", "--config", str(path), "--unregister"]) == 0
    assert json.loads(path.read_text())["backends"] == {}


def test_register_names_a_malformed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "annotation_config.json"
    path.write_text("{broken")
    assert main(["register", "--config", str(path)]) == 1
    assert "annotation_config.json is not valid JSON (line 1" in capsys.readouterr().err
    assert path.read_text() == "{broken"


def test_the_plugin_comes_and_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--plugins-dir", str(tmp_path / "plugins")]

    def asked(word: str) -> tuple[int, dict[str, object]]:
        code = main(["plugin", word, *where, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = asked("status")
    assert (code, found["state"], found["works"]) == (3, "missing", False)
    assert main(["plugin", "status", *where]) == 3
    assert "To mend it: labelprop plugin install" in capsys.readouterr().out
    code, found = asked("install")
    assert (code, found["state"], found["changed"]) == (0, "linked", True)
    assert Path(str(found["path"])).is_symlink()
    assert asked("status")[0] == 0
    code, found = asked("uninstall")
    assert (code, found["state"], found["changed"]) == (0, "missing", True)
    assert not Path(str(found["path"])).is_symlink()


def test_the_command_line_starts_fast() -> None:
    code = "import sys, labelprop_cvat.cli as c; c._parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fiftyone", "torch", "cv2", "rich", "numpy", "requests"} & set(loaded)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a line in which ``labelprop`` is the command line."""
    line = line.replace("labelprop", f'"{sys.executable}" -m labelprop_cvat.cli')
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )


def test_output_that_goes_nowhere_is_a_sentence_at_most(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    done = shell(
        f"labelprop register --config {config} >&-; echo $? >&2;"
        f"labelprop register --config {config} --json >/dev/full; echo $? >&2;"
        "(sleep 0.5; labelprop propagate --json; echo $? >&2) | true; sleep 2",
        PYTHONUNBUFFERED="1",
    )
    assert "Traceback" not in done.stderr
    assert re.findall(r"^\d$", done.stderr, re.MULTILINE) == ["0", "1", "2"]
    assert "The command is done, and what it says cannot be written to standard output: No space left" in done.stderr


def test_letters_that_a_terminal_has_not_are_shown_somehow(tmp_path: Path) -> None:
    done = shell(f"labelprop register --config {tmp_path}/ü.json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\xfc.json" in done.stdout
