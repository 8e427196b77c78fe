"""The examples of the loop run from end to end: exemplars, reviews, and the round after which nothing is left."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fiftyone as fo
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def _no_datasets_left() -> Iterator[None]:
    before = set(fo.list_datasets())
    yield
    for name in set(fo.list_datasets()) - before:
        fo.delete_dataset(name)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an example with some words on its command line; gives what it prints."""

    def run_(name: str, *words: str) -> str:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        spec.loader.exec_module(module)
        module.main()
        return capsys.readouterr().out

    return run_


def the_dataset() -> fo.Dataset:
    (name,) = [name for name in fo.list_datasets() if "loop" in fo.load_dataset(name).list_annotation_runs()]
    return fo.load_dataset(name)


@pytest.mark.parametrize(
    ("name", "words", "prefix"),
    [
        ("loop_images", ["--length", "18", "--reviews", "2"], ""),
        ("loop_groups", ["--length", "18", "--reviews", "2"], ""),
        ("loop_video", ["--length", "18", "--reviews", "1"], "frames."),
    ],
)
def test_the_loop_as_a_script(run: Callable[..., str], name: str, words: list[str], prefix: str) -> None:
    printed = run(name, *words)
    dataset = the_dataset()
    results = dataset.load_annotation_results("loop")
    history = results.history()
    assert history.is_over
    assert [row.kind for row in history][:2] == ["exemplars", "review"]
    assert history[0].actions.drawn > 0
    assert sum(sum(row.edits.values()) for row in history) > 0
    assert re.search(r"Run loop: rounds", printed)

    sources = dataset.count_values(f"{prefix}objects_propagated.detections.source")
    assert sources["manual"] > history[0].actions.drawn
    assert sources.get("propagated", 0) + sources.get("reviewed", 0) > 0
    everything = dataset.values(f"{prefix}objects_propagated.detections.index", unwind=True)
    assert len(everything) == sum(sources.values())
    assert set(everything) == {1, 2, 3, 4, 5, 6}
