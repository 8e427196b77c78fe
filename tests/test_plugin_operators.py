"""The App's operators that need no CVAT: called as scripts call them, and as the App does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.plugins as fop
import psutil
import pytest
from fiftyone.operators.executor import ExecutionError
from fixtures_plugin import (
    choice_values,
    complaints,
    context,
    form,
    operator,
    plugin,  # noqa: F401 - a fixture
    run_operator,
    streamed,
    uri,
)
from fixtures_roundtrip import image_dataset
from fixtures_views import camera_rig, filled, labelled_videos, scene_labels, write_media

from labelprop_cvat.backend import lease
from labelprop_cvat.errors import DataError
from labelprop_cvat.plugin import _activity, _steps
from labelprop_cvat.plugin.installing import PLUGIN
from labelprop_cvat.propagation.propagator import get_propagator, register_propagator

pytestmark = pytest.mark.usefixtures("plugin")

FRAMES = 12


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


def images(media: Path, *annotated: int) -> fo.Dataset:
    """Twelve images in two shots of six; ``objects`` holds labels on the annotated ones, ``truth`` on all."""
    paths = [media / "images" / f"{number:04d}.png" for number in range(FRAMES)]
    dataset = image_dataset(
        paths,
        frame_number=lambda number: number + 1,
        truth=scene_labels,
        temporal_segments=lambda number: fo.Classifications(
            classifications=[fo.Classification(label=f"shot_{number // 6}", exemplar_score=0.0)]
        ),
    )
    for number, sample in enumerate(dataset.sort_by("frame_number")):
        if number in annotated:
            sample["objects"] = scene_labels(number)
            sample.save()
    return dataset


def places(dataset: Any, field: str) -> dict[int, list[int]]:
    """Frame numbers, from 1, with the indices of the labels that a field holds there."""
    rows = zip(*dataset.sort_by("frame_number").values(["frame_number", f"{field}.detections.index"]), strict=True)
    return {number: sorted(indices) for number, indices in rows if indices}


# --- the names that users of the known plugin call -------------------------------------------------------------


def test_the_plugin_registers_what_its_description_lists():
    (described,) = [entry for entry in fop.list_plugins() if entry.name == PLUGIN]
    there = {found.name: found for found in foo.list_operators(builtin=False) if found.plugin_name == PLUGIN}
    assert set(described.operators) == there.keys()
    assert there["temporal_segmentation"].config.label == "Temporal Segmentation"
    assert there["select_exemplars"].config.label == "Select Exemplars"
    assert there["propagate_labels"].config.label == "Propagate Labels From Input Field Operator"
    long = {name for name, found in there.items() if found.config.allow_delegated_execution}
    assert {"temporal_segmentation", "select_exemplars", "propagate_labels", "evaluate_propagation"} <= long


def test_images_go_the_whole_way_under_the_known_names(media):
    dataset = images(media, 0, 6)
    done = run_operator(
        "temporal_segmentation",
        dataset,
        temporal_segmentation_method="heuristic",
        temporal_segments_field="temporal_segments",
        sort_field="frame_number",
    )
    assert (done["samples_processed"], done["segments"]) == (FRAMES, 1)
    assert dataset.count_values("temporal_segments.classifications.label") == {"segment_001": FRAMES}
    done = run_operator(
        "select_exemplars",
        dataset,
        temporal_segments_field="temporal_segments",
        exemplar_scoring_method="first_frame",
        sort_field="frame_number",
    )
    assert done["exemplars"] == 1
    scores = dataset.sort_by("frame_number").values("temporal_segments.classifications.exemplar_score", unwind=True)
    assert [score >= 0.5 for score in scores] == [True] + [False] * (FRAMES - 1)
    done = run_operator(
        "propagate_labels",
        dataset,
        input_annotation_field="objects",
        output_annotation_field="filled",
        sort_field="frame_number",
        propagation_method="interpolate",
    )
    assert done["message"].startswith("Annotations propagated from objects to filled")
    assert (done["samples_processed"], done["frames"], done["engine"]) == (FRAMES, FRAMES, "interpolate")
    assert set(places(dataset, "filled")) == set(range(1, FRAMES + 1))


def test_videos_take_their_fields_with_and_without_prefix(media):
    dataset = labelled_videos(media)
    common = {"engine": "hold", "sort_field": "frames.frame_number", "temporal_segments_field": "cuts"}
    run_operator("temporal_segmentation", dataset, temporal_segments_field="cuts", sort_field="frame_number")
    assert isinstance(dataset.first().cuts, fo.TemporalDetections)
    run_operator("select_exemplars", dataset, temporal_segments_field="cuts", exemplar_scoring_method="every:4")
    assert dataset.first().cuts.detections[0].exemplar_frames
    for source, output in (("objects", "one"), ("frames.objects", "two")):
        done = run_operator(
            "propagate_labels", dataset, input_annotation_field=source, output_annotation_field=output, **common
        )
        assert done["message"].startswith(f"Annotations propagated from frames.objects to frames.{output}")
        assert (done["frames"], done["samples_processed"]) == (FRAMES, 2)
        assert filled(dataset, output) == {"a": list(range(1, FRAMES + 1)), "b": []}


def test_dynamic_groups_are_sequences_of_their_own(media):
    dataset = images(media, 1, 8)
    dataset.set_values("clip", [number // 6 for number in range(FRAMES)])
    view = dataset.group_by("clip", order_by="frame_number")
    assert form("temporal_segmentation", view)["sort_field"]["default"] is None
    done = run_operator("temporal_segmentation", view, temporal_segmentation_method="none")
    assert done["segments"] == 2
    done = run_operator("propagate_labels", view, input_annotation_field="objects", engine="hold")
    assert done["frames"] == FRAMES
    origin = {frame: {tuple(d.exemplar_frames) for d in labels.detections} for frame, labels in zip(
        *dataset.sort_by("frame_number").values(["frame_number", "objects_propagated"]), strict=True)}  # fmt: skip
    assert all(len(found) == 1 for found in origin.values())
    assert origin[1] != origin[12]


def test_slices_of_groups_are_taken_one_kind_at_a_time(media):
    dataset = camera_rig(media)
    inputs = form("temporal_segmentation", dataset)
    assert inputs["slices"]["view"]["label"].startswith("Group slices: left, right. ")
    assert "clip" in inputs["slices"]["view"]["label"]
    done = run_operator("temporal_segmentation", dataset, temporal_segmentation_method="fixed", segment_length=3)
    assert done["segments"] == 4
    dataset.group_slice = "clip"
    inputs = form("temporal_segmentation", dataset, _ctx={"group_slice": "clip"})
    assert inputs["slices"]["view"]["label"].startswith("Group slices: clip. ")
    done = run_operator(
        "temporal_segmentation",
        dataset,
        temporal_segmentation_method="none",
        temporal_segments_field="events",
        _ctx={"group_slice": "clip"},
    )
    assert done["segments"] == 1


def test_dynamic_groups_of_slices_are_taken_one_kind_at_a_time(media):
    view = camera_rig(media).group_by("half", order_by="number")
    done = run_operator("temporal_segmentation", view, temporal_segmentation_method="none")
    assert done["segments"] == 4


def test_without_its_sort_field_a_view_keeps_its_order_and_says_so(media):
    dataset = image_dataset([media / "images" / f"{number:04d}.png" for number in (3, 1, 2)], objects=scene_labels)
    done = run_operator(
        "propagate_labels", dataset, input_annotation_field="objects", engine="hold", sort_field="frame_number"
    )
    assert done["notes"][0].startswith("There is no field 'frame_number'")
    assert "first 0003.png" in done["notes"][1]
    told = dict(streamed("propagate_labels", dataset, input_annotation_field="objects", engine="hold", sort_field="x"))
    shown = told["show_output"]["outputs"]["type"]["properties"]
    assert shown["note_0"]["view"]["label"].startswith("There is no field 'x'")


# --- parts of the whole --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_filled(media: Path) -> fo.Dataset:
    """A dataset whose first frame is annotated, for parts of it to be filled."""
    return images(media, 0, 11)


@pytest.fixture
def unfilled(half_filled: fo.Dataset) -> Iterator[fo.Dataset]:
    yield half_filled
    if half_filled.has_field("part"):
        half_filled.delete_sample_field("part")


def propagate_part(dataset: fo.Dataset, /, **params: Any) -> dict[str, Any]:
    names = {"input_annotation_field": "objects", "output_annotation_field": "part", "engine": "hold"}
    return run_operator("propagate_labels", dataset, **{**names, **params})


def test_only_the_selected_samples_are_filled(unfilled):
    ids = unfilled.sort_by("frame_number").values("id")
    done = propagate_part(unfilled, _ctx={"selected": ids[3:5]})
    assert done["frames"] == 2
    assert places(unfilled, "part") == {4: [1, 2], 5: [1, 2]}


def test_only_the_objects_of_selected_labels_are_filled(unfilled):
    first = unfilled.sort_by("frame_number").first()
    label = next(d for d in first.objects.detections if d.index == 2)
    chosen = [{"label_id": label.id, "sample_id": first.id, "field": "objects"}]
    propagate_part(unfilled, _ctx={"selected_labels": chosen})
    assert places(unfilled, "part") == {number: [2] for number in range(1, FRAMES + 1)}
    nobody = unfilled.sort_by("frame_number").skip(5).first().truth.detections[0].copy()
    with pytest.raises(ExecutionError, match="None of the selected labels has an index"):
        propagate_part(unfilled, _ctx={"selected_labels": [{**chosen[0], "label_id": nobody.id}]})


def test_selected_labels_of_one_video_leave_the_others_alone(media):
    dataset = labelled_videos(media)
    other = dataset.match({"name": "b"}).first()
    other.frames[3]["objects"] = scene_labels(2)
    other.save()
    label = other.frames[3].objects.detections[0]
    chosen = [{"label_id": label.id, "sample_id": other.id, "field": "frames.objects", "frame_number": 3}]
    propagate_part(dataset, _ctx={"selected_labels": chosen}, input_annotation_field="objects")
    assert filled(dataset, "part") == {"a": [], "b": list(range(1, FRAMES + 1))}
    assert dataset.count_values("frames.part.detections.index") == {label.index: FRAMES}


def test_a_range_of_frames_and_some_tracks(unfilled):
    propagate_part(unfilled, first_frame=3, last_frame=4, tracks=["1"])
    assert places(unfilled, "part") == {3: [1], 4: [1]}
    propagate_part(unfilled, limit=False, first_frame=3, last_frame=4, tracks=["1"])
    assert len(places(unfilled, "part")) == FRAMES


def test_one_direction_reaches_only_one_side(media):
    dataset = images(media, 3)
    propagate_part(dataset, direction="backward")
    assert set(places(dataset, "part")) == {1, 2, 3, 4}


# --- forms ---------------------------------------------------------------------------------------------------------


def test_forms_offer_the_fields_that_fit(media):
    inputs = form("propagate_labels", images(media, 0))
    assert set(choice_values(inputs["input_annotation_field"])) == {"truth", "objects"}
    assert inputs["sort_field"]["default"] == "frame_number"
    assert inputs["temporal_segments_field"]["default"] == "temporal_segments"
    assert choice_values(inputs["engine"])[0] == "auto"
    assert {"flow", "interpolate", "sam2"} < set(choice_values(inputs["engine"]))
    inputs = form("propagate_labels", labelled_videos(media))
    assert inputs["input_annotation_field"]["default"] == "frames.objects"
    assert "sort_field" not in inputs
    assert "model" not in inputs
    inputs = form("propagate_labels", labelled_videos(media), engine="sam2", limit=True)
    assert {"model", "checkpoint", "device", "image_size", "first_frame"} <= inputs.keys()
    assert [choice["label"] for choice in inputs["tracks"]["view"]["choices"]] == [
        "1: person, 4 labels",
        "2: car, 4 labels",
    ]


def test_a_dataset_without_anything_is_told_what_to_do(media):
    bare = image_dataset([media / "images" / "0000.png"])
    assert "Annotate some frames first" in complaints("propagate_labels", bare)["input_annotation_field"]
    assert "Temporal Segmentation" in complaints("select_exemplars", bare)["temporal_segments_field"]
    assert complaints("temporal_segmentation", bare) == {}
    assert complaints("evaluate_propagation", bare).keys() == {"pred_field", "gt_field"}
    empty = complaints("temporal_segmentation", bare.limit(1).skip(1))
    assert ["There is no sample" in sentence for sentence in empty.values()] == [True]
    # Beside what nobody sees, it would be said to nobody.
    assert list(complaints("temporal_segmentation", fo.Dataset())) == ["problem_0"]
    nothing = operator("propagate_labels").resolve_input(_without_dataset())
    assert [p.error_message for p in nothing.type.properties.values()] == [
        "No dataset is open. Open one and start again."
    ]


def _without_dataset() -> Any:
    found = context("propagate_labels", fo.Dataset())
    found.request_params["dataset_name"] = None
    return found


@pytest.mark.parametrize(
    ("params", "param", "said"),
    [
        ({"input_annotation_field": "nowhere"}, "input_annotation_field", "has no field 'nowhere'"),
        ({"input_annotation_field": "temporal_segments"}, "input_annotation_field", "holds Classifications"),
        ({"output_annotation_field": "objects"}, "output_annotation_field", "never go into the field that people"),
        ({"output_annotation_field": "truth"}, "output_annotation_field", "would be overwritten"),
        ({"engine": "magic"}, "engine", "There is no engine 'magic'"),
        ({"engine": "sam2", "image_size": 100}, "engine", "image_size"),
        ({"direction": "sideways"}, "direction", "both, forward, backward"),
        ({"first_frame": 1.5}, "first_frame", "a whole number from 1, got 1.5"),
        ({"first_frame": 4, "last_frame": 2}, "last_frame", "comes before the first"),
        ({"first_frame": float("inf")}, "first_frame", "a whole number from 1, got inf"),
        ({"tracks": ["one"]}, "tracks", "Numbers such as"),
        ({"tracks": "3-1"}, "tracks", "A range of numbers goes up, by 100000 at most, as '3-5' does, got '3-1'"),
        ({"tracks": "1-999999999"}, "tracks", "A range of numbers goes up"),
        ({"output_annotation_field": {"a": 1}}, "output_annotation_field", "takes a text, got {'a': 1}"),
        ({"output_annotation_field": "$x"}, "output_annotation_field", "an underscore or a dollar sign"),
        ({"engine_options": "fast"}, "engine", "as a dict, got 'fast'"),
        ({"temporal_segments_field": "cuts"}, "temporal_segments_field", "There is no field 'cuts'"),
        ({"view_target": "SELECTED_SAMPLES"}, "view_target", "No samples are selected"),
    ],
)
def test_a_form_says_what_is_wrong_before_anything_runs(half_filled, params, param, said):
    asked = {"input_annotation_field": "objects", **params}
    wrong = complaints("propagate_labels", half_filled, **asked)
    # Of a choice that is not there, it is said at the end of the form.
    assert said in wrong[param if param in wrong else "problem_0"]
    with pytest.raises(ExecutionError, match="Reason: ") as refusal:
        run_operator("propagate_labels", half_filled, **asked)
    assert said in str(refusal.value)
    assert not half_filled.has_field("objects_propagated")


def test_segmentation_and_selection_say_what_is_wrong(half_filled):
    wrong = complaints("temporal_segmentation", half_filled, temporal_segmentation_method="guess")
    assert wrong.keys() == {"temporal_segmentation_method"}
    wrong = complaints(
        "temporal_segmentation",
        half_filled,
        scores_field="temporal_segments",
        temporal_segments_field="temporal_segments",
    )
    assert "two fields" in wrong["scores_field"]
    wrong = complaints("select_exemplars", half_filled, exemplar_scoring_method="best:one")
    assert "best:one" in wrong["exemplar_scoring_method"]
    assert "pred_field" in complaints("evaluate_propagation", half_filled, gt_field="truth")
    same = complaints("evaluate_propagation", half_filled, pred_field="truth", gt_field="truth", eval_key="1 2")
    assert "not judged by itself" in same["gt_field"]
    assert "1 2" in same["eval_key"]


def test_inputs_that_are_gone_or_emptied_in_the_app_are_not_used(half_filled):
    found = context(
        "propagate_labels", half_filled, input_annotation_field="objects", engine="hold", model="large", tracks=["7"],
        limit=False,
    )  # fmt: skip
    step = operator("propagate_labels")
    params = step._given(found, step._resolved(found)[0])
    assert params["engine"] == "hold"
    assert not {"model", "tracks"} & params.keys()
    assert params["sort_field"] == "frame_number"
    emptied = context("propagate_labels", half_filled, input_annotation_field="objects", sort_field=None)
    assert step._given(emptied, step._resolved(emptied)[0])["sort_field"] is None


def test_numbers_of_methods_stand_beside_them(media):
    dataset = images(media)
    assert "exemplar_count" not in form("select_exemplars", dataset)
    inputs = form("select_exemplars", dataset, exemplar_scoring_method="every")
    assert inputs["exemplar_count"]["default"] == 10
    common = {"temporal_segments_field": "temporal_segments", "exemplar_scoring_method": "every"}
    assert run_operator("select_exemplars", dataset, **common, exemplar_count=3)["exemplars"] == 4
    assert run_operator("select_exemplars", dataset, **common)["exemplars"] == 2


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_evaluation_tells_its_numbers_and_keeps_them(media, tmp_path):
    dataset = images(media, 0, 11)
    run_operator("propagate_labels", dataset, input_annotation_field="objects", engine="interpolate")
    inputs = form("evaluate_propagation", dataset)
    assert (inputs["pred_field"]["default"], inputs["gt_field"]["default"]) == ("objects_propagated", "truth")
    report = tmp_path / "report.html"
    done = run_operator(
        "evaluate_propagation",
        dataset,
        eval_key="eval1",
        report=str(report),
        temporal_segments_field="temporal_segments",
    )
    assert 0.2 < done["j"] < 1.0
    assert done["identity_switches"] == 0
    assert f"J {done['j']:.3f}" in done["message"]
    assert dataset.list_evaluations() == ["eval1"]
    assert "<html" in report.read_text()
    assert choice_values(form("evaluate_propagation", dataset)["eval_key"]) == ["eval1"]


# --- in the App: progress, stopping, one at a time -----------------------------------------------------------------


class Watched:
    """An engine that calls somebody on every frame."""

    def __init__(self, call: Any, *, looks_ahead: bool = False) -> None:
        self._call = call
        self._looks_ahead = looks_ahead
        self._engine = get_propagator("hold")
        self.spec = self._engine.spec

    def propagate(self, frames: Any, prompts: Any, span: Any) -> Iterator[Any]:
        for index, _ in frames.read(span.start, span.stop) if self._looks_ahead else ():
            self._call(index)
        for answer in self._engine.propagate(frames, prompts, span):
            if not self._looks_ahead:
                self._call(answer.frame)
            yield answer


@pytest.fixture
def at_each_frame(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers the engine ``watched``, which calls what is given here; everybody looks at every frame."""
    monkeypatch.setattr(_activity, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(_steps, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(_steps, "_POLL_SECONDS", 0.001)
    return lambda call: register_propagator("watched", partial(Watched, call))


def stop(dataset: fo.Dataset) -> None:
    """Asks whoever works on a dataset to stop; from another thread, as the App does."""
    asking = threading.Thread(target=run_operator, args=("stop_step", dataset))
    asking.start()
    asking.join()


def watched(**more: Any) -> dict[str, Any]:
    fields = {"input_annotation_field": "objects", "output_annotation_field": "seen", "engine": "watched"}
    return {**fields, "temporal_segments_field": "temporal_segments", **more}


def dialog_label(params: dict[str, Any]) -> str:
    """What a dialog says about how far the work is; nothing of other messages."""
    properties = params.get("outputs", {}).get("type", {}).get("properties", {})
    return str(properties["progress"]["view"]["label"]) if "progress" in properties else ""


def test_the_app_sees_progress_the_outcome_and_the_new_field(media, at_each_frame):
    dataset = images(media, 0, 6)
    seen = threading.Event()
    at_each_frame(lambda frame: frame != 11 or seen.wait(5))
    stream = operator("propagate_labels").execute(context("propagate_labels", dataset, **watched()))
    told = []
    for message in stream:
        told.append((message.body.operator_uri.rpartition("/")[2], message.body.params))
        if " of 12 frames" in dialog_label(told[-1][1]):
            running = _activity.current(dataset)
            assert running is not None
            assert (running.state, running.operator) == ("running", "propagate_labels")
            seen.set()
    names = [name for name, _ in told]
    assert set(names[:-3]) == {"show_output"}
    assert 0.0 < told[-4][1]["results"]["progress"] <= 1.0
    assert told[-4][1]["outputs"]["type"]["properties"]["stop"]["view"]["operator"] == uri("stop_step")
    assert names[-3:] == ["notify", "show_output", "reload_dataset"]
    assert told[-3][1]["variant"] == "success"
    assert told[-2][1]["results"]["frames"] == FRAMES
    ended = _activity.current(dataset)
    assert ended is not None
    assert (ended.state, ended.message) == ("done", told[-3][1]["message"])
    again = streamed("propagate_labels", dataset, **watched())
    assert again[-1][0] == "reload_samples"


def test_what_fails_in_the_app_is_told_in_its_own_sentence(media, at_each_frame):
    dataset = images(media, 0)

    def broken(frame: int) -> None:
        raise RuntimeError("no such luck")

    at_each_frame(broken)
    told = streamed("propagate_labels", dataset, **watched())
    (notice,) = [params for name, params in told if name == "notify"]
    assert notice["variant"] == "error"
    assert "no such luck" in notice["message"]
    ended = _activity.current(dataset)
    assert ended is not None
    assert ended.state == "failed"


def test_what_is_deleted_under_a_step_is_told(media, at_each_frame):
    dataset = images(media, 0, 6)
    before = dataset.get_field_schema(flat=True).keys()
    at_each_frame(lambda frame: frame == 3 and dataset.delete_samples(dataset.sort_by("frame_number").limit(2)))
    stream = operator("propagate_labels").execute(context("propagate_labels", dataset, **watched()))
    told = [message.body.params for message in stream if message.body.operator_uri == "notify"]
    assert "is no longer in" in told[0]["message"]
    dataset.reload()
    assert dataset.get_field_schema(flat=True).keys() == before, "all is put back as it was"
    at_each_frame(lambda frame: frame == 6 and fo.delete_dataset(dataset.name))
    stream = operator("propagate_labels").execute(context("propagate_labels", dataset, **watched()))
    names = [message.body.operator_uri for message in stream]
    assert names[-3:] == ["notify", "show_output", "reload_dataset"], "the App is told that it has ended"


def test_stopping_keeps_the_segments_that_are_finished(media, at_each_frame):
    dataset = images(media, 0, 6)
    at_each_frame(lambda frame: frame == 8 and stop(dataset))
    told = streamed("propagate_labels", dataset, **watched())
    (notice,) = [params for name, params in told if name == "notify"]
    assert notice["message"] == _activity.STOPPED_SENTENCE
    assert set(places(dataset, "seen")) == set(range(1, 7))
    ended = _activity.current(dataset)
    assert ended is not None
    assert ended.state == "stopped"
    assert "nothing to stop" in run_operator("stop_step", dataset)["message"]


def test_stopping_reaches_an_engine_that_has_not_answered_yet(media, at_each_frame):
    dataset = images(media, 0, 6)
    read: list[int] = []
    at_each_frame(lambda frame: (read.append(frame), frame == 3 and stop(dataset)))
    told = dict(streamed("propagate_labels", dataset, **watched(), engine_options={"looks_ahead": True}))
    assert told["notify"]["message"] == _activity.STOPPED_SENTENCE
    assert read == [0, 1, 2, 3]


def test_a_script_is_told_that_its_step_was_stopped(media, at_each_frame):
    dataset = images(media, 0, 6)
    at_each_frame(lambda frame: frame == 8 and stop(dataset))
    done = run_operator("propagate_labels", dataset, **watched())
    assert done["stopped"] is True
    assert set(places(dataset, "seen")) == set(range(1, 7))


def test_work_ends_when_nobody_listens_any_more(media, at_each_frame):
    dataset = images(media, 0, 6)
    reached, closed = threading.Event(), threading.Event()
    at_each_frame(lambda frame: frame == 8 and (reached.set() or closed.wait(5)))
    stream = operator("propagate_labels").execute(context("propagate_labels", dataset, **watched()))
    next(stream)
    assert reached.wait(10)
    stream.close()
    closed.set()
    for thread in threading.enumerate():
        if thread.name == "propagate_labels":
            thread.join(10)
    ended = _activity.current(dataset)
    assert ended is not None
    assert ended.state == "stopped"
    assert set(places(dataset, "seen")) == set(range(1, 7))


def test_a_second_step_is_refused_while_one_works(media, at_each_frame):
    dataset = images(media, 0, 6)
    busy, free = threading.Event(), threading.Event()

    def hold(frame: int) -> None:
        busy.set()
        free.wait(10)

    at_each_frame(hold)
    first = threading.Thread(target=run_operator, args=("propagate_labels", dataset), kwargs=watched())
    first.start()
    try:
        assert busy.wait(10)
        with pytest.raises(ExecutionError, match=r"works on .* since .* UTC.*Wait until it is done, or stop it"):
            run_operator("select_exemplars", dataset, temporal_segments_field="temporal_segments")
        told = dict(streamed("select_exemplars", dataset, temporal_segments_field="temporal_segments"))
        assert "was not started" in told["notify"]["message"]
    finally:
        free.set()
        first.join(10)
    assert run_operator("select_exemplars", dataset, temporal_segments_field="temporal_segments")["exemplars"] == 2


def test_a_process_that_died_keeps_nobody_out(media):
    dataset = images(media)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(gone.pid).create_time()
    gone.wait()
    with _activity.at_work(dataset, "propagate_labels", "Propagate") as work:
        mine = lease._leases().find_one({"_id": _activity._lease_id(dataset)})
        assert mine is not None
        # As if that had been another process, which was killed in the middle.
        work.finish("", "running")
    lease._leases().insert_one({**mine, "pid": gone.pid, "started": started})
    left = _activity.current(dataset)
    assert left is not None
    assert left.state == "failed"
    assert "ended before it was done" in left.message
    assert run_operator("select_exemplars", dataset, temporal_segments_field="temporal_segments")["exemplars"] == 2


def test_a_live_process_is_not_robbed(media):
    dataset = images(media)
    with _activity.at_work(dataset, "propagate_labels", "Propagate") as work:
        mine = lease._leases().find_one({"_id": _activity._lease_id(dataset)})
        work.finish("", "running")
    assert mine is not None
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(sleeper.pid).create_time()
        lease._leases().insert_one({**mine, "pid": sleeper.pid, "started": started})
        with pytest.raises(DataError, match="'Propagate' works on"), _activity.at_work(dataset, "x", "Other"):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()
