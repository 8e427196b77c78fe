"""The panel's callbacks, called as the App calls them: with the state that it was told to keep."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pydash
import pytest
from bson import json_util
from fiftyone.operators.executor import ExecutionContext, Executor
from fixtures_plugin import operator, plugin, uri
from fixtures_roundtrip import annotate_by_script, first_round, image_dataset, login, video_dataset, write_images
from fixtures_roundtrip import write_video as write_scene_video
from fixtures_views import scene_labels

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.plugin import _activity
from labelprop_cvat.plugin.panel import _figures, _panel
from labelprop_cvat.sequences import FrameRef
from labelprop_cvat.workflow import (
    FrameState,
    SegmentOverview,
    SequenceOverview,
    evaluate,
    propagate,
    review,
    segment,
    select,
)

__all__ = ["plugin"]

FRAMES = 12
pytestmark = pytest.mark.usefixtures("plugin")


class Panel:
    """The panel as the App shows it: keeps state and data, and what it was told to do.

    Args:
        samples: the dataset or view that is open
    """

    def __init__(self, samples: Any) -> None:
        self.samples = samples
        self.state: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.root: dict[str, Any] = {}
        self.sent = False

    def call(self, method: str, **params: Any) -> list[tuple[str, dict[str, Any]]]:
        """Calls a callback; returns what the App was told besides drawing."""
        view = self.samples if isinstance(self.samples, fo.DatasetView) else None
        request = {
            "dataset_name": None if self.samples is None else self.samples._root_dataset.name,
            "view": None if view is None else json.loads(json_util.dumps(view._serialize())),
            "params": {
                "panel_id": "p",
                "panel_state": copy.deepcopy(self.state),
                "__method__": method,
                **params,
            },
        }
        executor = Executor()
        ctx = ExecutionContext(request, executor=executor, operator_uri=uri("label_propagation"))
        operator("label_propagation").execute(ctx)
        self.told = []
        self.sent = any(entry.operator_uri == "patch_panel_data" for entry in executor._requests)
        for entry in executor._requests:
            # What the App gets is JSON.
            name, said = entry.operator_uri, json.loads(json.dumps(entry.params))
            if name == "patch_panel_state":
                for key, value in said["state"].items():
                    pydash.set_(self.state, key, value)
            elif name == "patch_panel_data":
                for key, value in said["data"].items():
                    pydash.set_(self._data, key, value)
            elif name == "show_panel_output":
                self.root = said["output"]["type"]["properties"]
            else:
                self.told.append((name, said))
            # The App shows data laid over state, and takes what it shows into the state.
            self.data = laid_over({part: self.state.get(part) for part in self._data}, self._data)
            self.state.update(copy.deepcopy(self.data))
        return self.told

    def open(self) -> Panel:
        """Opens it."""
        self.call("on_load")
        return self

    @property
    def summary(self) -> dict[str, Any]:
        return self.state["summary"]

    def part(self, path: str) -> dict[str, Any]:
        """A drawn part, by its names."""
        found: dict[str, Any] = {"type": {"properties": self.root}}
        for name in path.split("."):
            found = found["type"]["properties"][name]
        return found

    def traces(self, kind: str) -> list[dict[str, Any]]:
        """The timeline's traces of a kind, one a sequence."""
        return [t for t in self.data["timeline_part"]["timeline"] if t["name"].startswith(f"{kind}|")]

    def button(self, name: str) -> dict[str, Any]:
        return self.part(f"steps.{name}")["view"]


def laid_over(old: Any, new: Any) -> Any:
    """What the App makes of two values: of lists, too, only the elements that the new one has are replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: laid_over(old.get(key), new.get(key, old.get(key))) for key in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        both = [laid_over(was, now) for was, now in zip(old, new, strict=False)]
        return both + (new if len(new) > len(old) else old)[len(both) :]
    return copy.deepcopy(new)


@contextmanager
def working(dataset: fo.Dataset) -> Iterator[None]:
    """A step works on a dataset, in a thread of its own."""
    begun, leave = threading.Event(), threading.Event()

    def work() -> None:
        with _activity.at_work(dataset, "propagate_labels", "Propagate") as found:
            found._note(what="frames", done=3, total=12)
            begun.set()
            leave.wait(60)
            found.finish("done")

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("panel") / "images", FRAMES)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as local:
        yield local


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    _panel._kept.clear()


@pytest.fixture
def images(paths: list[Path]) -> fo.Dataset:
    """Twelve images in two segments, with a label on the first frame of each, and the others filled in."""
    dataset = image_dataset(paths)
    segment(dataset, "shots", method="fixed:6", sort_field="number")
    select(dataset, "shots", method="first", sort_field="number")
    for sample in dataset.match(fo.ViewField("number").is_in([0, 6])).iter_samples(autosave=True):
        sample["drawn"] = scene_labels(sample["number"])
    propagate(dataset, "drawn", engine="hold", segments_field="shots", sort_field="number")
    return dataset


def test_plots_are_sent_again_only_where_they_have_changed(images: fo.Dataset) -> None:
    panel = Panel(images).open()
    assert panel.sent
    before = copy.deepcopy(panel.data)
    panel.call("on_refresh")
    assert not panel.sent
    assert panel.data == before
    sample = images.match(fo.ViewField("number") == 3).first()
    sample["drawn"] = scene_labels(3)
    sample.save()
    panel.call("on_refresh")
    assert panel.sent
    assert panel.data != before
    panel.call("on_load")
    assert panel.sent, "a panel that is opened again shows nothing by itself"


def test_nothing_there() -> None:
    assert "Open a dataset" in Panel(None).open().part("nothing")["default"]
    panel = Panel(fo.Dataset()).open()
    assert "no images or videos" in panel.part("next_step")["default"]
    assert panel.button("segment")["disabled"]
    assert "timeline_part" not in panel.root


def test_the_first_step(paths: list[Path]) -> None:
    panel = Panel(image_dataset(paths)).open()
    assert "send them to CVAT" in panel.part("welcome")["default"]
    assert panel.button("segment")["variant"] == "contained"
    assert panel.button("select")["variant"] == "outlined"
    assert "load" not in panel.part("steps")["type"]["properties"], "there is no run"
    ((name, said),) = panel.call("on_step", step="segment")
    assert name == "prompt_user_for_operation"
    assert said["operator_uri"] == uri("temporal_segmentation")
    assert said["params"] == {"temporal_segments_field": "temporal_segments", "sort_field": "number"}
    assert said["on_success"].endswith("label_propagation#on_step_done")
    assert "timer" in panel.root, "it looks whether the step begins"
    with working(panel.samples):
        pass
    panel.call("on_step_done")
    assert "timer" not in panel.root, "it has ended"


def test_the_timeline_and_its_clicks(images: fo.Dataset) -> None:
    panel = Panel(images).open()
    (blocks,), (strip,), (marks,) = panel.traces("segments"), panel.traces("frames"), panel.traces("marks")
    assert blocks["text"] == ["segment_001", "segment_002"]
    assert blocks["ids"] == ["0|6|collection", "6|12|collection"]
    assert strip["z"] == [[5, 3, 3, 3, 3, 3, 5, 3, 3, 3, 3, 3]]
    assert marks["x"] == [1, 7]
    _mean, lowest = panel.traces("curve")
    assert lowest["y"][0] == 1.0
    assert lowest["y"][5] < lowest["y"][1]
    ((name, said),) = panel.call("on_timeline", trace=blocks["name"], id=blocks["ids"][1], x=12, y=1.5, idx=1)
    assert name == "set_view"
    opened = fo.DatasetView._build(images, said["view"])
    assert opened.values("number") == [6, 7, 8, 9, 10, 11]
    assert "back" in panel.part("top")["type"]["properties"]
    # The App tells the panel of the new view, and it still shows the whole.
    panel.samples = opened
    before = panel.state["summary"]
    panel.call("on_change_view", value={})
    assert panel.state["summary"] == before
    assert panel.state["opened"]
    # What the view leaves out is shown together with what follows.
    ((name, said),) = panel.call("on_timeline", trace=strip["name"], idx=[0, 2])
    assert name == "set_view"
    assert fo.DatasetView._build(images, said["view"]).values("number") == [2, 3, 4, 5]
    ((name, said),) = panel.call("on_timeline", trace=lowest["name"], id=lowest["ids"][7], idx=7)
    assert name == "open_sample"
    assert images[said["id"]]["number"] == 7
    assert panel.call("on_back") == [("clear_view", {})]
    panel.samples = images
    panel.call("on_change_view", value={})
    assert not panel.state["opened"]
    assert "back" not in panel.part("top")["type"]["properties"]
    ((name, said),) = panel.call("on_timeline", trace=strip["name"], idx=[0, 2])
    assert name == "open_sample"
    assert images[said["id"]]["number"] == 2
    assert panel.call("on_timeline", trace="curve|gone", id="1|gone", idx=1) == []
    assert panel.call("on_timeline", trace="", id=None, idx=None) == []


def test_nobody_waits_for_what_somebody_else_looks_at(images: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()
    look = _panel.overview

    def slow(samples: Any, **more: Any) -> Any:
        if isinstance(samples, fo.DatasetView) and samples._stages:
            asked.set()
            answered.wait(20)
        return look(samples, **more)

    monkeypatch.setattr(_panel, "overview", slow)
    other = threading.Thread(target=Panel(images.limit(3)).call, args=("on_load",))
    other.start()
    assert asked.wait(20)
    own = Panel(images)
    mine = threading.Thread(target=own.call, args=("on_load",))
    mine.start()
    mine.join(10)
    assert not mine.is_alive()
    assert own.state["summary"]["headline"].startswith("12 frames")
    answered.set()
    other.join(20)
    mine.join(20)


def test_what_cannot_be_told_is_a_sentence_in_the_panel(images: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(_panel, "overview", broken)
    panel = Panel(images)
    panel.call("on_load")
    assert "no such luck" in panel.root["trouble"]["view"]["label"]


def test_the_worst_frames(images: fo.Dataset) -> None:
    panel = Panel(images).open()
    rows = panel.data["worst_part"]["frames"]
    assert rows[0]["value"].startswith("confidence ")
    ((name, said),) = panel.call("on_worst", row=0, path="worst_part.frames")
    assert name == "open_sample"
    assert images[said["id"]].filepath.endswith(rows[0]["frame"])
    assert panel.call("on_worst", row=len(rows)) == []
    images.delete_samples([said["id"]])
    _panel._kept.clear()
    panel.state["summary"]["worst"][0][1] = 99
    assert panel.call("on_worst", row=0)[0][0] == "notify"


def test_picking(images: fo.Dataset) -> None:
    images.clone_sample_field("shots", "other")
    panel = Panel(images).open()
    assert panel.summary["picked"]["segments_field"] == "shots"
    # The App tells of every default as if somebody had picked it.
    assert panel.call("on_pick", path="pickers.segments_field", value="shots") == []
    assert "pickers" not in panel.state
    panel.call("on_pick", path="pickers.segments_field", value="other")
    assert panel.summary["picked"]["segments_field"] == "other"
    ((_, said),) = panel.call("on_step", step="propagate")
    assert said["params"] == {
        "input_annotation_field": "drawn",
        "output_annotation_field": "drawn_propagated",
        "sort_field": "number",
        "temporal_segments_field": "other",
    }
    # Fields may go while it is open.
    images.delete_sample_field("other")
    images.delete_sample_field("drawn")
    _panel._kept.clear()
    panel.call("on_refresh")
    assert panel.summary["picked"]["segments_field"] is None
    assert panel.summary["picked"]["input_field"] is None
    images.add_sample_field("holes", fo.IntField)
    panel.call("on_pick", path="pickers.sort_field", value="holes")
    assert "holes" in panel.part("trouble")["view"]["label"]
    assert panel.summary["headline"].startswith("12 frames"), "what can be shown is"
    panel.samples = fo.Dataset()
    panel.call("on_change_dataset", value=None)
    assert "trouble" not in panel.root


def test_a_run_from_sending_to_review(paths: list[Path], server: LocalCVAT, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in login(server).items():
        monkeypatch.setenv(f"FIFTYONE_CVAT_{name.upper()}", value)
    dataset = image_dataset(paths)
    asked = {"label_field": "objects", "label_type": "instances", "classes": ["person", "car"], "engine": "hold"}
    results = dataset.annotate(
        "run", backend="labelprop", sort_field="number", segmentation="none", exemplars="every:6", **asked,
        **login(server),
    )  # fmt: skip
    panel = Panel(dataset).open()
    assert panel.button("status")["variant"] == "contained"
    assert panel.summary["picked"]["anno_key"] == "run"
    annotate_by_script(server, results)
    panel.call("on_refresh")
    assert panel.button("load")["variant"] == "contained"
    assert "load it" in panel.part("next_step")["default"]
    jobs = panel.part("run_part.jobs")["default"]
    assert f"({results.get_status(refresh=False)[0]['url']})" in jobs
    assert "**completed**, to be loaded" in jobs
    ((_, said),) = panel.call("on_step", step="load")
    assert said["operator_uri"] == uri("load_annotations")
    assert said["params"] == {"anno_key": "run"}
    dataset.load_annotations("run")
    panel.call("on_step_done")
    assert panel.button("suggest")["variant"] == "contained"
    assert panel.traces("frames")[0]["z"][0][1] == 3
    assert panel.data["worst_part"]["frames"]
    review(dataset, "run")
    panel.call("on_step_done")
    assert "validation: new" in panel.part("run_part.jobs")["default"]
    assert panel.traces("frames")[0]["z"][0][1] == 2
    assert "password" not in json.dumps(panel.state)
    assert server.password not in json.dumps([panel.state, panel.data])


def test_a_server_that_is_gone(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image_dataset(paths)
    with LocalCVAT(anonymous_rate=None) as local:
        first_round(local, dataset)
        panel = Panel(dataset).open()
        panel.call("on_refresh")
        assert "FIFTYONE_CVAT_PASSWORD" in panel.part("trouble")["view"]["label"], "there is no login"
        assert "loaded" in panel.part("run_part.jobs")["default"]
        for name, value in login(local).items():
            monkeypatch.setenv(f"FIFTYONE_CVAT_{name.upper()}", value)
        panel.call("on_refresh")
        assert panel.summary["asked"]
        assert "trouble" not in panel.root
    panel.call("on_refresh")
    assert "as they were last seen" in panel.part("note_0")["view"]["label"]
    assert "loaded" in panel.part("run_part.jobs")["default"]


def test_an_evaluation_is_drawn(images: fo.Dataset) -> None:
    for sample in images.iter_samples(autosave=True):
        sample["truth"] = scene_labels(sample["number"])
    evaluate(images, "drawn_propagated", "truth", eval_key="judged", segments_field="shots", sort_field="number")
    panel = Panel(images).open()
    plots = panel.data["evaluation_part"]["plots"]
    assert plots["objects"][0]["y"] == sorted(plots["objects"][0]["y"])
    assert len(plots["segments"][0]["y"]) == 2
    assert sum(int(text.split()[0]) for text in plots["calibration"][0]["text"]) == 20
    assert "judged by `truth`: J 0." in panel.part("evaluation_part.line")["default"]
    assert panel.data["worst_part"]["frames"][0]["value"].startswith("J ")
    assert len(panel.traces("curve")) == 3, "J is a curve, too"
    ((_, said),) = panel.call("on_step", step="evaluate")
    assert {name: said["params"][name] for name in ("pred_field", "gt_field", "eval_key")} == {
        "pred_field": "drawn_propagated",
        "gt_field": "truth",
        "eval_key": "judged",
    }
    images.delete_evaluation("judged")
    panel.call("on_refresh")
    assert "evaluation_part" not in panel.root
    assert panel.call("on_step", step="evaluate")[0][1]["params"]["eval_key"] == "propagation"


def test_videos(tmp_path: Path) -> None:
    videos = [write_scene_video(tmp_path / f"clip_{number}.mp4", 8) for number in range(6)]
    dataset = video_dataset(*videos)
    segment(dataset, "shots", method="fixed:4")
    panel = Panel(dataset).open()
    assert len(panel.traces("frames")) == 4, "a page of them"
    assert "Sequences 1 to 4 of 6" in panel.part("timeline_part.pages.page")["default"]
    panel.call("on_next")
    strip = panel.traces("frames")[1]
    assert len(panel.traces("frames")) == 2
    panel.call("on_next")
    assert panel.state["first"] == 4
    last = dataset.skip(5).first()
    told = panel.call("on_timeline", trace=strip["name"], idx=[0, 5])
    assert told[0][0] == "set_view"
    clip = fo.DatasetView._build(dataset, told[0][1]["view"])
    assert clip.values(["sample_id", "support"]) == ([last.id], [[6, 8]])
    (block, _) = panel.traces("segments")
    ((_, said),) = panel.call("on_timeline", trace=block["name"], id=block["ids"][1], idx=1)
    assert fo.DatasetView._build(dataset, said["view"]).values("support") == [[5, 8]]
    panel.call("on_previous")
    assert panel.state["first"] == 0


def test_groups(paths: list[Path]) -> None:
    dataset = image_dataset(paths[:6], scene=lambda number: "north")
    dataset.add_samples([fo.Sample(str(p), number=n, scene="south") for n, p in enumerate(paths[:6])], progress=False)
    view = dataset.group_by("scene", order_by="number")
    segment(view, "shots", method="fixed:3")
    panel = Panel(view).open()
    strips = panel.traces("frames")
    assert [strip["name"] for strip in strips] == ["frames|north", "frames|south"]
    ((name, said),) = panel.call("on_timeline", trace="frames|south", idx=[0, 4])
    # A sample inside a group opens only where samples stand one by one.
    assert name == "set_view"
    opened = fo.DatasetView._build(dataset, said["view"])
    assert opened.values(["scene", "number"]) == (["south", "south"], [4, 5])
    panel.samples = opened
    ((name, said),) = panel.call("on_back")
    assert name == "set_view"
    assert fo.DatasetView._build(dataset, said["view"])._is_dynamic_groups


def test_what_runs_is_shown_and_stopped(images: fo.Dataset) -> None:
    panel = Panel(images).open()
    assert "timer" not in panel.root
    with working(images):
        panel.call("on_poll")
        assert "3 of 12 frames" in panel.part("running.progress")["view"]["label"]
        assert "timer" in panel.root
        panel.call("on_stop")
        activity = _activity.current(images)
        assert activity is not None
        assert activity.is_stopping
        assert panel.part("running.stop")["view"]["disabled"]
        images.delete_sample_field("drawn_propagated")
    panel.call("on_poll")
    assert "running" not in panel.root
    assert "timer" not in panel.root
    assert panel.summary["picked"]["output_field"] is None, "it has looked again"
    assert panel.call("on_stop")[0][0] == "notify"


def test_long_sequences_are_thinned_and_lose_no_dip() -> None:
    count = 6000
    lowest = np.full(count, 0.9)
    lowest[1234] = 0.1
    sequence = SequenceOverview(
        key="long",
        name="<b>long</b>",
        media_type="image",
        frames=tuple(FrameRef(str(position)) for position in range(count)),
        segments=(SegmentOverview("one & only", 0, count),),
        states=np.full(count, FrameState.PROPAGATED, np.uint8),
        exemplars=np.zeros(count, bool),
        lowest=lowest,
        mean=np.full(count, np.nan),
        quality=np.full(count, np.nan),
        filepaths=tuple(f"{position:05}.png" for position in range(count)),
    )
    data, layout = _figures.timeline([sequence])
    assert len(json.dumps(data)) < 150_000
    (curve,) = (trace for trace in data if trace["name"] == "curve|long")
    assert curve["ids"][curve["y"].index(0.1)] == "1234|long"
    (strip,) = (trace for trace in data if trace["name"] == "frames|long")
    column = next(column for column, text in enumerate(strip["text"][0]) if text.startswith("01230.png to"))
    assert _figures.column_position(sequence, column) == 1230
    assert "&lt;b&gt;" in layout["annotations"][0]["text"], "names are no markup"
