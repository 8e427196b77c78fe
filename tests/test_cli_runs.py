"""The commands of the loop as a script sees them: documents and exit codes; and as people see them."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, image_dataset, write_images

from labelprop_cvat import cli
from labelprop_cvat.backend.labelprop import LabelPropBackendConfig
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import _work, main, runs

FRAMES = 8


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as server:
        yield server


@pytest.fixture(autouse=True)
def configured(server: LocalCVAT, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URL", server.url), ("USERNAME", server.username), ("PASSWORD", server.password)):
        monkeypatch.setenv(f"FIFTYONE_CVAT_{name}", str(value))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("frames"), FRAMES)


@pytest.fixture
def dataset(paths: list[Path]) -> Iterator[fo.Dataset]:
    dataset = image_dataset(paths)
    yield dataset
    dataset.delete()


class Script:
    """Calls commands with ``--json``, and checks that there is one document and nothing else."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, Any]:
        self._capsys.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(self._capsys.readouterr().out)


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(capsys)


def coming(script: Script, name: str) -> str:
    """The step that comes next, by the list of runs."""
    code, found = script("status", name)
    assert code == 0
    return str(found["runs"][-1]["next"]["step"])


LABELS = ["--label-field", "objects", "--label-type", "instances", "--classes", "person, car"]


def test_the_loop_by_documents(dataset: fo.Dataset, server: LocalCVAT, script: Script) -> None:
    name, ordered = dataset.name, ["--sort-field", "number", "--segments-field", "parts"]
    code, found = script("status", name)
    assert (code, found["runs"], found["next"]["step"]) == (0, [], "segment")
    code, found = script("segment", name, *ordered, "--method", "fixed:4")
    assert (code, [(row["first"], row["last"]) for row in found["segments"]]) == (0, [(1, 4), (5, 8)])
    code, found = script("select", name, *ordered, "--method", "every:3")
    assert (code, found["exemplars"]) == (0, 4)
    assert [row["exemplars"] for row in found["segments"]] == [[1, 4], [5, 8]]

    code, sent = script("annotate", name, "run", *LABELS, *ordered, "--engine", "hold")
    assert (code, sent["frames"], len(sent["jobs"])) == (0, 4, 2)
    assert sent["jobs"][0]["url"].startswith(server.url)
    code, found = script("status", name, "run")
    assert (code, len(found["jobs"]), found["all_finished"]) == (0, 2, False)
    assert coming(script, name) == "status"
    assert script("status", name, "run", "--wait", "0")[0] == 3
    code, found = script("load", name, "run")
    assert (code, found["is_news"], found["finished"], found["jobs"]) == (3, False, 0, 2)

    results = dataset.load_annotation_results("run")
    annotate_by_script(server, results)
    code, found = script("status", name)
    (run,) = found["runs"]
    assert (code, run["run"], run["finished"], run["jobs"], run["collected"]) == (0, "run", 2, 2, 0)
    assert (run["label_fields"], run["next"]["step"], run["asked_cvat"]) == (["objects"], "load", True)
    assert script("status", name, "run", "--wait", "0")[0] == 0
    code, found = script("load", name, "run")
    assert (code, found["is_news"], found["engine"], found["labels"]) == (0, True, "hold", 8)
    assert (found["output_fields"], len(found["filled"])) == (["objects_propagated"], 2)
    code, found = script("load", name, "run")
    assert (code, found["is_news"], found["finished"], found["filled"]) == (3, False, 2, [])
    assert coming(script, name) == "review"

    code, found = script("suggest", name, "run", "--target", "0.01")
    assert (code, found["frames"], found["stop"]) == (3, [], True)
    code, found = script("review", name, "run")
    assert (code, found["round"], len(found["jobs"])) == (0, 2, 2)
    assert script("review", name, "run") == (3, {"dataset": name, "run": "run", "round": None, "jobs": []})
    assert coming(script, name) == "status"
    code, found = script("review", name, "run", "--history")
    assert (code, [row["kind"] for row in found["rounds"]]) == (0, ["exemplars", "review"])
    code, found = script("cleanup", name, "run")
    assert (code, len(found["deleted"]), found["kept"], found["let_go"]) == (0, 2, [], [])
    assert script("status", name, "run")[1]["jobs"] == []


def test_work_that_nobody_loaded_is_kept(
    dataset: fo.Dataset, server: LocalCVAT, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", dataset.name, "run", *LABELS, "--sort-field", "number", "--exemplars", "first"]) == 0
    said = capsys.readouterr().out
    assert f"When people are done: labelprop load {dataset.name} run" in said
    results = dataset.load_annotation_results("run")
    (number,) = results.task_ids
    assert f"{server.url}/tasks/{number}/jobs/" in said
    annotate_by_script(server, results)
    assert script("cleanup", dataset.name, "run")[1]["kept"] == [number]
    assert main(["cleanup", dataset.name, "run"]) == 1
    assert f"labelprop cleanup {dataset.name} run --force" in capsys.readouterr().out
    assert script("cleanup", dataset.name, "run", "--force") == (
        0,
        {"dataset": dataset.name, "run": "run", "deleted": [number], "kept": [], "let_go": []},
    )


def test_a_password_is_asked_for_once(
    dataset: fo.Dataset, server: LocalCVAT, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.delenv("FIFTYONE_CVAT_PASSWORD")
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or str(server.password))
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    words = [*LABELS, "--sort-field", "number", "--exemplars", "first", "--engine", "hold"]
    for command in (["annotate", dataset.name, "run", *words], ["load", dataset.name, "run", "--wait", "0"]):
        assert main(command) == (0 if command[0] == "annotate" else 3)
        assert len(asked) == 1
        assert f"of {server.username} at {server.url}" in asked.pop()
        dataset._annotation_cache.clear()
    assert main(["cleanup", dataset.name, "run"]) == 0
    assert len(asked) == 1


def test_every_parameter_of_a_run_is_an_option() -> None:
    parameters = set(inspect.signature(LabelPropBackendConfig).parameters)
    # Secrets stand in no command line; the others are FiftyOne's to give, or another word for the same.
    elsewhere = {"password", "token", "headers", "name", "email", "kwargs"}
    # These have an option of another name, or that of a switch.
    renamed = {"verify", "use_cache", "engine_options", "label_schema"}
    # CVAT takes these from few; scripts that need them use Python.
    rare = {"use_zip_chunks", "coerce_text_attrs"}
    command = cli._parser().commands.choices["annotate"]
    words = ["annotate", "a", "b", "--label-field", "c"]
    options = set(vars(command.parse_args(words[1:])))
    assert parameters - options == elsewhere | (renamed - options) | rare
    # What is given here but not handed on would be ignored without a word.
    handed_on = {*runs._PARAMETERS, *runs._SWITCHED_OFF, "engine_options", "url", "username", "verify"}
    assert parameters & options <= handed_on
    assert set(runs._SWITCHED_OFF.values()) <= options


def test_what_a_run_is_asked_for_arrives(dataset: fo.Dataset, tmp_path: Path) -> None:
    schema = {
        "boxes": {"type": "detections", "classes": ["a"]},
        "weather": {"type": "classification", "classes": ["b"]},
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    words = ["--sort-field", "number", "--exemplars", "every:4", "--missing", "absent", "--segmentation", "none"]
    words += ["--engine", "flow", "--engine-option", "max_pixels=10000", "--output-field", "filled"]
    words += ["--review", "--review-frames", "every:2", "--review-as", "polygons", "--max-rounds", "2"]
    words += [
        "--task-name",
        "mine",
        "--image-quality",
        "60",
        "--segment-size",
        "1",
        "--job-states",
        "completed,rejected",
    ]
    words += ["--frame-start", "2", "--no-label-edits", "--no-attributes", "--no-cache", "--timeout", "30"]
    assert main(["annotate", dataset.name, "run", "--label-schema", str(tmp_path / "schema.json"), *words]) == 0
    results = dataset.load_annotation_results("run")
    config = results.config
    assert list(config.label_schema) == ["boxes", "weather"]
    assert [(row["frames"], row["task_name"][:4]) for row in results.get_status(refresh=False)] == [(1, "mine")] * 2
    asked = {name: getattr(config, name) for name in ("missing", "engine", "engine_options", "output_field", "review")}
    assert asked == {
        **{"missing": "absent", "engine": "flow", "engine_options": {"max_pixels": 10000}},
        **{"output_field": "filled", "review": True},
    }
    asked = {name: getattr(config, name) for name in ("review_frames", "review_as", "max_rounds", "image_quality")}
    assert asked == {"review_frames": "every:2", "review_as": "polygons", "max_rounds": 2, "image_quality": 60}
    assert (config.job_states, config.use_cache, config.timeout) == (["completed", "rejected"], False, 30)
    results.cleanup(force=True)


def test_a_server_that_is_away_is_4_and_a_wrong_name_is_1(
    dataset: fo.Dataset, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["annotate", dataset.name, "run", *LABELS, "--engine", "none", "--exemplars", "first", "-q"]) == 0
    dataset.save_view("start", dataset.limit(2))
    name = dataset.name
    for words, sentence in (
        (["status", f"{name}x", "run"], f"Did you mean {name!r}?"),
        (["load", name, "rum"], "it has: run. Did you mean 'run'?"),
        (["load", name, "xyz"], "it has: run."),
        (["segment", name, "--view", "strat", "--segments-field", "x"], "Did you mean 'start'?"),
        (["annotate", name, "run", *LABELS], "already"),
    ):
        code, found = script(*words)
        assert code == found["error"]["exit_code"] == 1
        assert sentence in found["error"]["message"]
    dataset._annotation_cache.clear()
    monkeypatch.setenv("FIFTYONE_CVAT_URL", "http://127.0.0.1:9")
    code, found = script("load", name, "run", "--url", "http://127.0.0.1:9")
    assert (code, found["error"]["type"], found["error"]["exit_code"]) == (4, "Unreachable", 4)
    code, found = script("status", name, "--url", "http://127.0.0.1:9")
    assert (code, found["runs"][0]["asked_cvat"], found["runs"][0]["jobs"]) == (0, False, 1)


def test_a_part_is_propagated(dataset: fo.Dataset, script: Script) -> None:
    for place, sample in enumerate(dataset.sort_by("number")):
        if place in (0, FRAMES - 1):
            box = {"bounding_box": [0.1 + 0.05 * place, 0.2, 0.2, 0.3]}
            boxes = [fo.Detection(label="person", index=index, **box) for index in (1, 2)]
            sample["objects"] = fo.Detections(detections=boxes)
            sample.save()
    ids = dataset.sort_by("number").values("id")
    words = ["propagate", dataset.name, "--input-field", "objects", "--sort-field", "number", "--engine", "interpolate"]

    def filled() -> list[list[int]]:
        labels = dataset.sort_by("number").values("objects_propagated.detections.index")
        return [sorted(found or []) for found in labels]

    code, found = script(*words, "--frames", "2:3", "--track", "2")
    assert (code, found["frames"], found["labels"], found["objects"]) == (0, 2, 2, 1)
    assert (found["engine"], found["output_field"]) == ("interpolate", "objects_propagated")
    assert filled() == [[], [2], [2], [], [], [], [], []]
    assert script(*words, "--only", ids[4])[1]["frames"] == 1
    assert filled() == [[], [2], [2], [], [1, 2], [], [], []]
    # Interpolation shows nothing before the first keyframe that it knows.
    code, found = script(*words, "--frames", "7:", "--direction", "backward", "--track", "1", "--track", "2")
    assert (code, found["direction"], found["labels"]) == (0, "backward", 6)
    assert filled() == [[], [2], [2], [], [1, 2], [], [], [1, 2]]


def test_progress_and_warnings_go_to_standard_error(
    dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", dataset.name, "--segments-field", "parts", "--method", "content"]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def said(*more: str) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr("sys.stderr", terminal)
            patched.setattr(_work, "_MOMENT_S", -1.0)
            patched.setenv("TERM", "xterm")
            assert main([*words, *more]) == 0
        return terminal.getvalue()

    shown = said()
    assert "No sort_field was given" in shown
    assert "frames searched for cuts" in shown
    assert f"/{FRAMES}" in shown
    assert "1 segment in parts" in capsys.readouterr().out
    assert said("--quiet") == ""
    # Without a terminal there are no bars, and FiftyOne has its own back.
    assert main(words) == 0
    assert "searched" not in capsys.readouterr().err
    assert fo.config.show_progress_bars
