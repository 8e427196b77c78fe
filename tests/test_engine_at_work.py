"""What fills frames is driven the same, whatever it is: clicks, failures, interruptions, and letting go of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fixtures_roundtrip import annotate_by_script, image_dataset, login, video_dataset, write_images, write_video
from fixtures_sam2_product import Engines, Recorder

import labelprop_cvat  # noqa: F401 - registers the backend
import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, DataError, EngineError
from labelprop_cvat.labels import detection_to_mask, label_to_prompt
from labelprop_cvat.propagation.types import PromptKind
from labelprop_cvat.sequences import sequences_of

NAN = math.nan
RUN = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:4",
    "exemplars": "every:4",
    "engine": "recorder",
}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    return Engines(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("scene"), 8)


@pytest.fixture
def dataset(files: list[Path]) -> Iterator[fo.Dataset]:
    made = image_dataset(files)
    yield made
    made.delete()


def put(dataset: fo.Dataset, labels: dict[int, list[fo.Keypoint]], field: str = "clicks") -> None:
    for sample in dataset.sort_by("number"):
        if sample["number"] in labels:
            sample[field] = fo.Keypoints(keypoints=labels[sample["number"]])
            sample.save()


def propagated(dataset: fo.Dataset, field: str = "clicks_propagated") -> list[dict[int, fo.Detection]]:
    return [
        {label.index: label for label in (held.detections if held is not None else ())}
        for held in dataset.sort_by("number").values(field)
    ]


# --- clicks --------------------------------------------------------------------------------------------------------


def test_clicks_become_prompts() -> None:
    label = fo.Keypoint(points=[(0.25, 0.5), (NAN, NAN), (1, 0)], index=3)
    prompt = label_to_prompt(label, frame=2, object_id=3, size=(40, 100))
    assert prompt.kind is PromptKind.POINTS
    assert (prompt.frame, prompt.object_id) == (2, 3)
    assert prompt.points == ((25, 20), (100, 0))
    assert prompt.point_labels == (1, 1)


@pytest.mark.parametrize("attribute", ["sam_labels", "sam2_labels"])
def test_clicks_may_say_where_the_object_is_not(attribute: str) -> None:
    label = fo.Keypoint(points=[(0.5, 0.5), (NAN, NAN), (0.1, 0.1)], **{attribute: [1, 1, 0]})
    prompt = label_to_prompt(label, frame=0, object_id=1, size=(10, 10))
    assert (prompt.points, prompt.point_labels) == (((5, 5), (1, 1)), (1, 0))


@pytest.mark.parametrize("said", [[1], [1, 0, 1], [1, 2], [1, -1], ["1", "0"]])
def test_clicks_that_do_not_fit_are_refused(said: list[Any]) -> None:
    label = fo.Keypoint(label="dog", points=[(0.5, 0.5), (0.1, 0.1)], sam_labels=said)
    with pytest.raises(DataError, match=r"\(dog\) have 2 points and sam_labels=.*one of 1 .* or 0"):
        label_to_prompt(label, frame=0, object_id=1, size=(10, 10))


def test_a_field_of_clicks_is_filled_with_masks(dataset: fo.Dataset, engines: Engines) -> None:
    engine = engines.record("recorder")
    put(
        dataset,
        {
            0: [fo.Keypoint(label="person", index=1, points=[(0.25, 0.25)], sam_labels=[1], colour="red", sharp=[0.5])],
            4: [
                fo.Keypoint(label="person", index=1, points=[(0.5, 0.25)], colour="blue"),
                fo.Keypoint(label="car", index=2, points=[(NAN, NAN)]),
                fo.Keypoint(label="nobody", points=[(0.5, 0.5)]),
            ],
        },
    )
    assert lp.propagate(dataset, "clicks", engine="recorder", sort_field="number", segmentation="none") == 8
    assert engine.spans == [(0, 8)]
    found = propagated(dataset)
    assert [sorted(labels) for labels in found] == [[1]] * 8
    first, later = found[1][1], found[6][1]
    assert (first.label, first["colour"], later["colour"]) == ("person", "red", "blue")
    assert not {"sam_labels", "sharp", "points"} & {name for name, _ in first.iter_fields()}
    mask = detection_to_mask(later, (72, 128))
    assert mask is not None
    assert mask.box == (64, 18, 68, 22)
    assert first.instance.id == later.instance.id
    assert dataset.count("clicks.keypoints") == 4


def test_clicks_in_a_video(tmp_path: Path, engines: Engines) -> None:
    engines.record("recorder")
    dataset = video_dataset(write_video(tmp_path / "street.mp4", 5))
    sample = dataset.first()
    sample.frames[2]["clicks"] = fo.Keypoints(keypoints=[fo.Keypoint(label="car", index=7, points=[(0.5, 0.5)])])
    sample.save()
    assert lp.propagate(dataset, "frames.clicks", engine="recorder", segmentation="none") == 5
    held = dataset.values("frames.clicks_propagated.detections.index")[0]
    assert held == [[], [7], [7], [7], [7]]
    dataset.delete()


@pytest.mark.parametrize("engine", ["flow", "interpolate", "hold", "auto"])
def test_an_engine_without_clicks_refuses_them_before_anything_is_written(
    dataset: fo.Dataset, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIFTYONE_MODEL_ZOO_DIR", str(tmp_path))
    put(dataset, {0: [fo.Keypoint(label="car", index=1, points=[(0.5, 0.5)])]})
    before = dataset.get_field_schema().keys()
    with pytest.raises(ConfigurationError, match=r"'clicks' holds points.*takes box, mask, polygon.*engine='sam2'"):
        lp.propagate(dataset, "clicks", engine=engine, sort_field="number")
    assert dataset.get_field_schema().keys() == before


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [(EngineError("No memory left. Buy some."), "No memory left. Buy some."), (None, "RuntimeError: out of ideas")],
)
def test_a_failure_in_a_segment_names_it_and_the_next_load_goes_on(
    server: LocalCVAT, dataset: fo.Dataset, engines: Engines, error: Exception | None, said: str
) -> None:
    engine = engines.record("recorder", fails_at=6, error=error)
    results = dataset.annotate("run", **RUN, **login(server))
    annotate_by_script(server, results)
    with pytest.raises(EngineError, match=r"frames 4\.\.7 of .*load_annotations\(\) again") as raised:
        dataset.load_annotations("run")
    assert said in str(raised.value)
    assert dataset.count("objects.detections") > 0
    assert [bool(labels) for labels in propagated(dataset, "objects_propagated")] == [True] * 4 + [False] * 4
    assert (engine.open_passes, engine.released) == (0, 1)

    engine.fails_at = None
    dataset.load_annotations("run")
    assert engine.spans == [(0, 4), (4, 8), (4, 8)]
    assert all(propagated(dataset, "objects_propagated"))
    dataset.load_annotations("run")
    assert len(engine.spans) == 3


def test_what_was_filled_before_survives_a_failure(server: LocalCVAT, dataset: fo.Dataset, engines: Engines) -> None:
    engine = engines.record("recorder")
    results = dataset.annotate("run", **RUN, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations("run")
    before = dataset.values("objects_propagated.detections.id")
    engine.fails_at = 5
    with pytest.raises(EngineError):
        results.propagate(again=True)
    after = dataset.values("objects_propagated.detections.id")
    assert after[4:] == before[4:]
    assert after[:4] != before[:4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_cancelled_load_keeps_what_is_finished(
    server: LocalCVAT, dataset: fo.Dataset, engines: Engines, error: Any
) -> None:
    engine = engines.record("recorder", fails_at=6, error=error())
    results = dataset.annotate("run", **RUN, **login(server))
    annotate_by_script(server, results)
    with pytest.raises(error):
        dataset.load_annotations("run")
    assert [bool(labels) for labels in propagated(dataset, "objects_propagated")] == [True] * 4 + [False] * 4
    # The next process finds it in the database.
    del results
    engine.fails_at = None
    fo.load_dataset(dataset.name).load_annotations("run")
    assert engine.spans == [(0, 4), (4, 8), (4, 8)]
    assert all(propagated(dataset, "objects_propagated"))


def test_an_engine_is_made_once_a_load_and_let_go_of(server: LocalCVAT, dataset: fo.Dataset, engines: Engines) -> None:
    engine = engines.record("recorder")
    results = dataset.annotate("run", **RUN, **login(server))
    annotate_by_script(server, results)
    made, released = len(engine.made), engine.released
    dataset.load_annotations("run")
    assert len(engine.spans) == 2
    assert (len(engine.made) - made, engine.released - released) == (1, 1)
    # Nothing to fill, nothing to make.
    dataset.load_annotations("run")
    assert len(engine.made) - made == 1


def test_a_pass_is_closed_where_writing_fails(dataset: fo.Dataset) -> None:
    engine = Recorder("recorder")
    put(dataset, {0: [fo.Keypoint(label="car", index=1, points=[(0.5, 0.5)])]})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    sequence = sequences_of(dataset, sort_field="number")[0]
    with pytest.raises(KeyboardInterrupt) as raised:
        lp.fill_segment(
            dataset,
            sequence,
            start=0,
            stop=8,
            exemplars={0: dataset.sort_by("number").first()["clicks"].keypoints},
            engine=engine,
            output_field="out",
            on_frame=interrupted,
        )
    # Held by the traceback, as in a notebook: it must not depend on being thrown away.
    assert raised.value is not None
    assert engine.open_passes == 0
    assert not dataset.has_field("out")


def test_an_engine_of_the_callers_stays_theirs(dataset: fo.Dataset) -> None:
    engine = Recorder("mine")
    put(dataset, {0: [fo.Keypoint(label="car", index=1, points=[(0.5, 0.5)])]})
    lp.propagate(dataset, "clicks", engine=engine, sort_field="number", segmentation="none")
    assert (engine.released, engine.made) == (0, [])


# --- the command line ----------------------------------------------------------------------------------------------


def test_options_of_an_engine_on_the_command_line(
    dataset: fo.Dataset, engines: Engines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.record("recorder")
    put(dataset, {0: [fo.Keypoint(label="car", index=1, points=[(0.5, 0.5)])]})
    monkeypatch.chdir(Path(dataset.first().filepath).parent)
    words = ["propagate", "--dataset", dataset.name, "--input-field", "clicks", "--sort-field", "number"]
    words += ["--engine", "recorder", "--checkpoint", "weights.pt", "--image-size", "448"]
    for option in ("a=1", "b=0.5", "c=true", "d=None", "e=cuda:1", "f=[1, 2]", "g=x=y", 'h="7"'):
        words += ["--engine-option", option]
    assert main(words) == 0
    assert engine.made == [
        {
            **{"a": 1, "b": 0.5, "c": True, "d": None, "e": "cuda:1", "f": [1, 2], "g": "x=y", "h": "7"},
            "checkpoint": str(Path.cwd() / "weights.pt"),
            "image_size": 448,
        }
    ]
    for wrong in ("a", "=1", "a b=1"):
        with pytest.raises(SystemExit):
            main([*words, "--engine-option", wrong])
        assert "expected something like image_size=448" in capsys.readouterr().err


def test_an_engine_of_a_load_on_the_command_line(
    server: LocalCVAT, dataset: fo.Dataset, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.record("recorder")
    results = dataset.annotate("run", **{**RUN, "engine": "hold"}, **login(server))
    annotate_by_script(server, results)
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", str(server.username))
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", str(server.password))
    assert main(["load", dataset.name, "run", "--engine", "recorder", "--engine-option", "steps=3"]) == 0
    assert engine.made[-1] == {"steps": 3}
    assert engine.spans == [(0, 4), (4, 8)]
    assert main(["load", dataset.name, "run", "--engine-option", "steps=3"]) == 1


def test_a_demo_refuses_options_before_anything_is_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--engine", "flow", "--checkpoint", "x.pt"], "'flow' has no option 'checkpoint'. Its options are max_pixels"),
        (["--engine", "auto", "--engine-option", "nonsense=1"], "neither has the option 'nonsense'"),
        (["--engine", "sam2", "--checkpoint", str(tmp_path / "x.pt")], "x.pt' does not exist"),
        (["--checkpoint", str(tmp_path / "y.pt")], "y.pt' does not exist"),
    ):
        assert main(["demo", *words, "--output", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
