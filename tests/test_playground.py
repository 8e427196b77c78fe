"""The dataset to play with: what is in it, and that the loop's steps work on it as the example's last words say."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest

from labelprop_cvat import workflow
from labelprop_cvat.demo.playground import make_playground, playground_view
from labelprop_cvat.demo.scene import FRAME_RATE, Shot
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.labels import read_states
from labelprop_cvat.sequences import computed_segments, sequences_of

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "run_demo.py"
SIZE = (72, 128)
LENGTH = 6


@pytest.fixture(autouse=True)
def _no_datasets_left() -> Iterator[None]:
    before = set(fo.list_datasets())
    yield
    for name in set(fo.list_datasets()) - before:
        fo.delete_dataset(name)


def playground(folder: Path, **options: Any) -> fo.Dataset:
    return make_playground(**{"folder": folder, "scenes": 3, "length": LENGTH, "size": SIZE, **options})


@pytest.mark.parametrize("media_format", ["image", "group", "video"])
def test_shots_with_cuts_and_labels_on_the_first_frame_of_each(tmp_path: Path, media_format: str) -> None:
    dataset = playground(tmp_path, media_format=media_format)
    assert dataset.persistent
    prefix = "frames." if media_format == "video" else ""
    samples = playground_view(dataset)
    sequences = sequences_of(samples, sort_field="frame_number" if media_format == "image" else None)
    shots = [Shot(number) for number in range(3)]
    rendered = [frame for shot in shots for frame in shot.render(LENGTH, SIZE)]
    if media_format == "group":
        assert [(one.name, len(one)) for one in sequences] == [(shot.name, LENGTH) for shot in shots]
    else:
        (sequence,) = sequences
        starts = [found.segment.start for found in computed_segments(sequence)[0]]
        assert starts == [0, LENGTH, 2 * LENGTH]

    place = 0
    classes = {index: label for shot in shots for index, label in shot.labels.items()}
    for sequence in sequences:
        truth = [objects.objects for objects, _ in read_states(samples, sequence, f"{prefix}ground_truth")]
        first = [objects.objects for objects, _ in read_states(samples, sequence, f"{prefix}labels_test")]
        for position in range(len(sequence)):
            frame = rendered[place]
            errors = [np.abs(sequence.source[position].astype(int) - other.image).mean() for other in rendered]
            assert np.argmin(errors) == place
            assert set(truth[position]) == set(np.unique(frame.ids)) - {0}
            for index, state in truth[position].items():
                assert np.array_equal(state.mask.to_full(SIZE), frame.ids == index)
            assert set(first[position]) == (set(truth[position]) if place % LENGTH == 0 else set())
            place += 1
    assert place == len(rendered)
    if media_format == "video":
        metadata = dataset.first().metadata
        assert (metadata.frame_rate, metadata.total_frame_count) == (FRAME_RATE, len(rendered))
        assert metadata.mime_type == "video/webm"

    labels = [label for frame in _unwound(dataset, f"{prefix}ground_truth") for label in frame.detections]
    assert {(label.index, label.label) for label in labels} <= set(classes.items())
    assert len({(label.index, str(label.instance.id)) for label in labels}) == len({label.index for label in labels})


def _unwound(dataset: fo.Dataset, field: str) -> list[fo.Detections]:
    return dataset.values(field, unwind=True) if field.startswith("frames.") else dataset.values(field)


def test_any_number_of_shots_none_like_another() -> None:
    shots = [Shot(number) for number in range(14)]
    assert len({shot.name for shot in shots}) == 14
    indices = [index for shot in shots for index in shot.labels]
    assert indices == list(range(1, len(indices) + 1))
    pictures = [next(shot.render(1, (36, 64))).image.astype(int) for shot in shots[:12]]
    for place, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 5 for other in pictures[:place])
    for shot in shots[9:12]:
        (frame,) = shot.render(1, (36, 64))
        assert set(np.unique(frame.ids)) - {0} <= set(shot.labels)


def test_what_is_in_the_way_is_replaced_only_when_told(tmp_path: Path) -> None:
    small = {"name": "playground of a test", "scenes": 1, "length": 5, "size": (36, 64)}
    first = playground(tmp_path / "a", **small)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="--overwrite"):
        playground(tmp_path / "b", **small)
    assert first.count() == 5
    again = playground(tmp_path / "b", **small, overwrite=True)
    assert all("/b/" in path for path in again.values("filepath"))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]

    with pytest.raises(ConfigurationError, match="files in"):
        playground(tmp_path / "b", **{**small, "name": "another of a test"})
    assert not fo.dataset_exists("another of a test")
    fo.Dataset("mine, of a test").add_sample(fo.Sample(filepath="/mine.jpg"))
    with pytest.raises(ConfigurationError, match="no playground"):
        playground(tmp_path / "c", **{**small, "name": "mine, of a test"}, overwrite=True)
    assert fo.load_dataset("mine, of a test").count() == 1


@pytest.mark.parametrize(
    ("option", "value"), [("scenes", 0), ("length", 4), ("size", (35, 64)), ("size", (8, 8)), ("media_format", "gif")]
)
def test_options_out_of_range_leave_nothing(tmp_path: Path, option: str, value: object) -> None:
    before = fo.list_datasets()
    with pytest.raises(ConfigurationError):
        playground(tmp_path / "new", **{option: value})
    assert fo.list_datasets() == before
    assert not (tmp_path / "new").exists()


def test_a_stopped_rendering_leaves_nothing(tmp_path: Path) -> None:
    before = fo.list_datasets()

    def stop() -> None:
        raise KeyboardInterrupt

    for media_format in ("image", "video"):
        with pytest.raises(KeyboardInterrupt):
            playground(tmp_path / "new", media_format=media_format, on_frame=stop)
        assert fo.list_datasets() == before
        assert not (tmp_path / "new").exists()


@pytest.fixture
def run_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the example with some words on its command line; gives its exit code, and what it prints."""

    def run(*words: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location("run_demo", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "argv", ["run_demo.py", *words])
        spec.loader.exec_module(module)
        code = module.main()
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("media_format", ["image", "group", "video"])
def test_the_last_words_of_the_example_are_right(
    run_demo: Callable[..., tuple[int, str, str]], tmp_path: Path, media_format: str
) -> None:
    # The spelling of the known plugin's script.
    words = ["--num_scenes=2", f"--media-format={media_format}", "--length", "5", "--folder", str(tmp_path)]
    code, said, _ = run_demo(*words)
    assert code == 0
    python = said.split("In Python:")[1].split("On the command line:")[0]
    script = "\n".join(line.strip() for line in python.strip().splitlines())
    names: dict[str, Any] = {}
    exec(script.replace('_propagated"', '_propagated", engine="hold"', 1), names)
    name = f"playground-{media_format}-2"
    evaluation = workflow.evaluate(names["samples"], **_fields(media_format))
    assert evaluation.dataset == name
    assert evaluation.scores.frames == 8
    assert evaluation.scores.j > 0.5
    assert f"fiftyone app launch {name}\n" in said
    code, _, complained = run_demo(*words)
    assert code == 1
    assert "--overwrite" in complained


def _fields(media_format: str) -> dict[str, Any]:
    prefix = "frames." if media_format == "video" else ""
    fields = {"pred_field": f"{prefix}labels_test_propagated", "gt_field": f"{prefix}ground_truth"}
    return {**fields, "sort_field": "frame_number"} if media_format == "image" else fields
