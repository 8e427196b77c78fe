"""What an evaluation leaves behind: fields in the dataset, JSON, a report, the command's table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fiftyone as fo
import pytest
from fixtures_evaluation import boxed, fill
from fixtures_roundtrip import annotate_by_script, image_dataset, login, write_images

import labelprop_cvat.workflow as lp
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, DataError, EngineError
from labelprop_cvat.evaluation import SCHEMA, Evaluation
from labelprop_cvat.propagation.propagator import get_propagator

COUNT = 6
HERE, HALF, AWAY = (10, 10), (20, 10), (80, 40)
HOSTILE = "<script>alert('x')</script>\"&{{ 7*7 }}"
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("reports"), COUNT)


@pytest.fixture
def dataset(images: list[Path]) -> Iterator[fo.Dataset]:
    made = image_dataset(images)
    fill(made, "truth", [{1: HERE, 2: AWAY}] * COUNT)
    fill(made, "guess", [{1: HERE, 2: AWAY}, {1: HALF}, {1: HERE, 2: HERE}, {1: HERE, 2: AWAY}] + [{1: HERE}] * 2,
         keyframes=[0], confidence=0.5)  # fmt: skip
    yield made
    made.delete()


def evaluate(dataset: Any, **options: Any) -> Evaluation:
    return lp.evaluate(dataset, "guess", "truth", **{"sort_field": "number", "progress": False, **options})


def sidebar(dataset: fo.Dataset) -> dict[str, list[str]]:
    """The App's groups of fields."""
    return {group.name: list(group.paths) for group in dataset.app_config.sidebar_groups or ()}


class Checker(HTMLParser):
    """Raises where a tag is closed that is not open, and collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data"):
                self.loads.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def test_the_report_is_well_formed_and_loads_nothing(dataset: fo.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    lp.segment(dataset, "shots", method="fixed:3", sort_field="number")
    evaluation = evaluate(dataset, report=path, curves=[1, 2], engine="hold", segments_field="shots")
    page = checked(path)
    assert page.loads
    assert all(value.startswith("data:image/jpeg;base64,") for value in page.loads)
    assert page.handlers == []
    assert page.seen.count("img") == len(evaluation.worst) == 2
    assert page.seen.count("script") == 1
    text = path.read_text(encoding="utf-8")
    plain = re.sub(r"base64,[^\"]*", "", text)
    assert set(re.findall(r"//[^\"\s]*", plain)) == {"//www.w3.org/2000/svg"}, "the name of a format, not a place"
    assert "url(" not in text
    assert "@import" not in text
    # Confidence, distance, two curves, one line over the frames.
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "nan" not in plain.lower().replace("isnan", "")
    for said in ("Temporal segments", "What more annotation would buy", "hold, uniform", f"{evaluation.scores.j:.3f}"):
        assert said in page.text


def test_names_from_the_dataset_are_escaped(images: list[Path], tmp_path: Path) -> None:
    dataset = image_dataset(images, clip=lambda number: HOSTILE)
    fill(dataset, "truth", [{1: HERE}] * COUNT)
    fill(dataset, "guess", [{1: HALF}] * COUNT)
    for sample in dataset:
        for label in sample["truth"].detections:
            label.label = HOSTILE
        sample.save()
    path = tmp_path / "report.html"
    lp.evaluate(dataset.group_by("clip", order_by="number"), "guess", "truth", report=path, progress=False)
    page = checked(path)
    assert page.seen.count("script") == 1
    assert HOSTILE in page.text
    for drawing in re.findall(r"<svg.*?</svg>", path.read_text(encoding="utf-8"), re.DOTALL):
        ElementTree.fromstring(drawing)
    dataset.delete()


def test_a_report_of_boxes_without_people_or_confidence(dataset: fo.Dataset, tmp_path: Path) -> None:
    fill(dataset, "drawn", [{1: HERE}] * 5 + [{}], boxed)
    fill(dataset, "found", [{}] + [{1: HALF}] * 5, boxed)
    path = tmp_path / "report.html"
    lp.evaluate(dataset, "found", "drawn", report=path, sort_field="number", progress=False)
    page = checked(path)
    assert "box IoU" in page.text
    assert "mIoU" not in page.text.split("How this was made")[0]
    assert "Is the confidence honest" not in page.text
    assert "not predicted" in page.text
    assert "is not there" in page.text


def test_json(dataset: fo.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    fill(dataset, "drawn", [{1: HERE}] * COUNT, boxed)
    evaluation = lp.evaluate(dataset, "guess", "drawn", json_path=path, sort_field="number", progress=False)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (found["schema"], found["version"]) == (SCHEMA, 1)
    assert found["overall"]["j"] is None
    assert found["overall"]["box_iou"] == pytest.approx(evaluation.scores.box_iou, abs=1e-6)
    frames = found["sequences"][0]["object_frames"]
    assert len({len(column) for column in frames.values()}) == 1
    assert frames["position"] == evaluation.sequences[0].object_frames.position.tolist()
    assert None in frames["j"]
    assert sum(entry["count"] for entry in found["confidence"]["bins"]) == found["confidence"]["count"]
    assert found["options"]["match"] == "index"
    assert set(found["made"]) >= {"at", "labelprop-cvat", "fiftyone"}
    with pytest.raises(DataError, match="cannot be written"):
        evaluation.save_json(tmp_path)


def test_what_is_written_to_frames_and_labels(dataset: fo.Dataset) -> None:
    evaluation = evaluate(dataset, eval_key="ev")
    dataset.reload()
    view = dataset.sort_by("number")
    assert view.values("ev_j") == [None, *(pytest.approx(v) for v in (1 / 6, 0.5, 1.0, 0.5, 0.5))]
    assert view.values("ev_worst") == [None, *(pytest.approx(v) for v in (0.0, 0.0, 1.0, 0.0, 0.0))]
    assert list(zip(*(view.values(f"ev_{name}") for name in ("tp", "fp", "fn")), strict=True)) == [
        (None, None, None), (0, 1, 2), (1, 1, 1), (2, 0, 0), (1, 0, 1), (1, 0, 1)
    ]  # fmt: skip
    bad = dataset.filter_labels("guess", fo.ViewField("ev_j").exists() & (fo.ViewField("ev_j") < 0.5))
    assert bad.count("guess.detections") == 2
    assert dataset.match(fo.ViewField("ev_worst") == 0.0).count() == 4
    assert dataset.list_evaluations(method="labelprop") == ["ev"]
    stored = dataset.load_evaluation_results("ev", cache=False)
    assert stored.metrics() == evaluation.to_dict()["overall"]
    assert "object_frames" not in stored.summary["sequences"][0]
    patches = dataset.to_evaluation_patches("ev")
    # Of each pair that matches one patch; of any other one for each of its labels; and people's own.
    assert patches.count_values("type") == {"tp": 5, "fp": 2, "fn": 5, None: 4}
    assert sidebar(dataset)["ev"] == [f"ev_{name}" for name in ("j", "f", "box_iou", "worst", "tp", "fp", "fn")]
    dataset.rename_evaluation("ev", "again")
    assert dataset.get_field("again_j") is not None
    assert dataset.get_field("guess.detections.again_iou") is not None
    dataset.delete_evaluation("again")
    left = [name for name in dataset.get_field_schema(flat=True) if re.search(r"(ev|again)(_|$)", name)]
    assert left == []
    assert not sidebar(dataset).keys() & {"ev", "again"}
    assert dataset.count("guess.detections") == 9


def test_evaluating_again_overwrites_its_own_key_only(dataset: fo.Dataset) -> None:
    evaluate(dataset, eval_key="one")
    evaluate(dataset, eval_key="two")
    fill(dataset, "guess", [{1: HERE, 2: AWAY}] * COUNT)
    evaluate(dataset, eval_key="two", match="overlap")
    dataset.reload()
    assert dataset.list_evaluations() == ["one", "two"]
    view = dataset.sort_by("number")
    assert view.values("one_j")[1:3] == pytest.approx([1 / 6, 0.5])
    assert view.values("two_j") == [1.0] * COUNT
    assert dataset.get_evaluation_info("two").config.match == "overlap"
    # What is no evaluation of ours is not touched.
    dataset.evaluate_detections("guess", gt_field="truth", eval_key="theirs")
    with pytest.raises(ConfigurationError, match="another evaluation under the key 'theirs'"):
        evaluate(dataset, eval_key="theirs")
    dataset.add_sample_field("mine_f", fo.StringField)
    with pytest.raises(ConfigurationError, match="'mine_f'"):
        evaluate(dataset, eval_key="mine")
    assert dataset.list_evaluations() == ["one", "theirs", "two"]


def test_what_an_evaluation_says_of_a_label_is_no_attribute_of_the_object(dataset: fo.Dataset) -> None:
    def signature() -> str:
        held = dataset.sort_by("number").values("truth")
        return lp.prompts_signature([], {number: value.detections for number, value in enumerate(held)}, "hold")

    before = signature()
    evaluate(dataset, eval_key="ev")
    dataset.evaluate_detections("guess", gt_field="truth", eval_key="theirs")
    assert dataset.count_values("truth.detections.ev")["fn"] == 5
    assert signature() == before
    lp.propagate(dataset, "truth", engine="hold", sort_field="number", segmentation="none", progress=False)
    carried = dataset.get_field_schema(flat=True)
    assert not [name for name in carried if re.search(r"truth_propagated.*\.(ev|theirs)(_|$)", name)]


def test_an_evaluation_that_fails_leaves_nothing(dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = get_propagator("hold")

    def fail(*_: Any) -> Iterator[Any]:
        raise EngineError("The engine broke.")
        yield

    monkeypatch.setattr(engine, "propagate", fail)
    with pytest.raises(EngineError):
        evaluate(dataset, eval_key="ev", curves=[1], engine=engine)
    assert dataset.list_evaluations() == []
    assert not [name for name in dataset.get_field_schema(flat=True) if "ev_" in name]


def test_the_run_that_fills_the_field(dataset: fo.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with LocalCVAT(anonymous_rate=None) as server:
        results = dataset.annotate(
            "run1", backend="labelprop", label_field="objects", label_type="instances", classes=["person", "car"],
            sort_field="number", segmentation="none", exemplars="every:5", engine="hold", output_field="filled",
            **login(server),
        )  # fmt: skip
        annotate_by_script(server, results)
        dataset.load_annotations("run1")
        assert set(dataset.distinct("filled.detections.index")) == {1, 2}
        again = {"curves": [1], "sort_field": "number", "progress": False, "match": "overlap"}
        found = lp.evaluate(dataset, "filled", "truth", **again)
        assert found.curves[0].engine == "hold"
        assert found.sequences[0].annotated == (0, 5)
        assert "exchange the two" not in caplog.text
        lp.evaluate(dataset, "truth", "filled", sort_field="number", progress=False, match="overlap")
        assert "exchange the two" in caplog.text
        results.cleanup(force=True)


def test_the_command(dataset: fo.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", dataset.name, "--pred", "guess", "--gt", "truth", "--sort-field", "number"]
    report, document = tmp_path / "report.html", tmp_path / "found.json"
    more = ["--report", str(report), "--output", str(document), "--eval-key", "ev"]
    assert main([*words, *more, "--curves", "--budgets", "1,2", "--methods", "first", "--engine", "hold"]) == 0
    said = capsys.readouterr().out
    overall = json.loads(document.read_text())["overall"]
    assert f"{overall['j']:.3f}" in said
    assert "hold, first" in said
    assert "1 of 6 frames annotated by people" in said
    assert str(report) in said
    checked(report)
    dataset.reload()
    assert dataset.list_evaluations() == ["ev"]
    assert main([*words[:2], "--pred", "nothing", "--gt", "truth"]) == 1
    assert "no field 'nothing'" in capsys.readouterr().err
    assert main([*words, "--match", "name"]) == 1
    assert "expected one of index, overlap" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", dataset.name, "--pred", "guess"])
    assert stopped.value.code == 2
