"""Which engine fills the frames where nobody named one, and what that means for runs that exist already."""

from __future__ import annotations

import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, login, write_images
from fixtures_sam2_product import GPU, Engines, Machine

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat import workflow
from labelprop_cvat.backend.labelprop import LabelPropBackendConfig
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.doctor import check_engines
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation import auto, propagator
from labelprop_cvat.propagation.auto import choose_engine
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.propagation.sam2.engine import Sam2Propagator
from labelprop_cvat.propagation.sam2.model import named_model
from labelprop_cvat.propagation.sam2.options import Sam2Options
from labelprop_cvat.propagation.types import ObjectMask, Prompt

RUN = {
    "backend": "labelprop",
    "label_field": "objects",
    "label_type": "instances",
    "classes": ["person", "car"],
    "sort_field": "number",
    "segmentation": "fixed:4",
    "exemplars": "every:4",
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    return Engines(monkeypatch)


# --- the choice ----------------------------------------------------------------------------------------------------


def test_without_weights_it_is_flow(machine: Machine) -> None:
    machine.has_gpu(True)
    choice = choose_engine()
    assert choice.name == "flow"
    assert "weights" in choice.reason
    assert "'labelprop weights' gets them" in choice.reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "needs the package 'torch', which is not installed",
        ),
        (OSError("libcudart.so: cannot open shared object file"), "does not load: libcudart.so"),
    ],
)
def test_an_engine_whose_packages_are_missing_says_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(module: str) -> None:
        raise error

    monkeypatch.setattr(propagator, "import_module", fail)
    with pytest.raises(ConfigurationError, match=f"'sam2'.*{said}.*labelprop doctor"):
        get_propagator("sam2")


def test_weights_of_another_size_will_do(machine: Machine) -> None:
    machine.has_gpu(True)
    for model, taken in (("large", "large"), ("sam2_hiera_tiny", "large"), ("small", "small"), ("tiny", "tiny")):
        machine.get_weights(model)
        choice = choose_engine()
        assert choice.name == "sam2"
        assert f"sam2.1_hiera_{taken}_video.pt" in choice.reason
        assert named_model(Sam2Options()).name == f"sam2.1_hiera_{taken}"
        assert Sam2Propagator().missing() is None
    # A file of the user's own is what it is, and a name is a name.
    assert named_model(Sam2Options(model="base_plus")).name == "sam2.1_hiera_base_plus"


def test_without_a_gpu_it_is_flow(machine: Machine) -> None:
    machine.get_weights()
    choice = choose_engine()
    assert choice.name == "flow"
    assert "no GPU" in choice.reason
    assert "engine='sam2' runs on the CPU" in choice.reason


def test_without_its_packages_it_is_flow(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.get_weights()
    machine.has_gpu(True)
    known = auto.find_spec
    monkeypatch.setattr(auto, "find_spec", lambda name: None if name in ("sam2", "hydra") else known(name))
    choice = choose_engine()
    assert choice.name == "flow"
    assert "sam2, hydra missing" in choice.reason
    assert "labelprop doctor" in choice.reason


def test_with_everything_there_it_is_sam2(machine: Machine) -> None:
    path = machine.get_weights()
    machine.has_gpu(True)
    choice = choose_engine()
    assert choice.name == "sam2"
    assert str(path) in choice.reason
    assert GPU in choice.reason


def test_half_a_file_of_weights_is_none(machine: Machine) -> None:
    with machine.get_weights().open("r+b") as file:
        file.truncate(1000)
    machine.has_gpu(True)
    assert choose_engine().name == "flow"


@pytest.mark.parametrize(
    ("options", "engine"),
    [({"max_pixels": 50_000}, "flow"), ({"checkpoint": "mine.pt"}, "sam2"), ({"model": "large", "window": 8}, "sam2")],
)
@pytest.mark.parametrize("everything", [True, False])
def test_an_option_that_one_engine_has_decides(
    machine: Machine,
    options: dict[str, Any],
    engine: str,
    everything: bool,
) -> None:
    if everything:
        machine.get_weights()
        machine.has_gpu(True)
    choice = choose_engine(options)
    assert choice.name == engine
    assert "only it has" in choice.reason


def test_an_option_that_both_have_does_not_decide(machine: Machine) -> None:
    assert choose_engine({"min_confidence": 0.2}).name == "flow"
    machine.get_weights()
    machine.has_gpu(True)
    assert choose_engine({"min_confidence": 0.2}).name == "sam2"


def test_options_of_two_engines_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'max_pixels' of flow and 'checkpoint' of sam2"):
        choose_engine({"checkpoint": "x", "max_pixels": 50_000, "min_confidence": 0.1})


def test_an_option_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"neither has the option 'max_pixel'.*flow has max_pixels"):
        choose_engine({"max_pixel": 3})


def test_the_engine_tells_which_it_is(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "labelprop_cvat"):
        engine = get_propagator("auto", max_pixels=50_000)
    assert engine.spec.name == "flow"
    (said,) = caplog.messages
    assert said.startswith("engine='auto' takes flow: ")
    with pytest.raises(ConfigurationError, match="max_pixels must be at least"):
        get_propagator("auto", max_pixels=1)


def test_torch_is_imported_only_where_nothing_else_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys; from labelprop_cvat.propagation.propagator import get_propagator as g;"
        "print(g('auto').spec.name, 'torch' in sys.modules)"
    )
    places = dict.fromkeys(("FIFTYONE_MODEL_ZOO_DIR", "TORCH_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **places}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["flow", "False"]


def test_it_is_the_default_everywhere() -> None:
    for function in (LabelPropBackendConfig.__init__, workflow.propagate):
        assert inspect.signature(function).parameters["engine"].default == "auto"


# --- runs that exist -----------------------------------------------------------------------------------------------


def test_what_earlier_versions_filled_keeps_its_name() -> None:
    # Computed with the first version of this package: a change here fills every run of every user anew.
    mask = ObjectMask.from_full(np.eye(5, 7, dtype=bool))
    prompts = [
        Prompt(0, 1, mask=mask),
        Prompt(0, 2, box=(1.5, 2, 30.25, 40)),
        Prompt(4, 3, polygon=(((0, 0), (5, 0), (5, 5)),)),
        Prompt(6, 1, absent=True),
    ]
    exemplars = {0: [fo.Detection(label="car", index=2, bounding_box=[0, 0, 1, 1], colour="red", keyframe=True)]}
    signature = workflow.prompts_signature(prompts, exemplars, "flow []")
    assert signature == GOLDEN


GOLDEN = "9cd638046f77bd336ea8a79e70fb83bd5bb69129b96f5e1d39dfbd15c56b2c20"


def test_points_and_what_they_say_count() -> None:
    def named(**given: Any) -> str:
        return workflow.prompts_signature([Prompt(0, 1, **given)], {}, "sam2 []")

    names = [
        named(points=((1, 2), (3, 4))),
        named(points=((1, 2), (3, 5))),
        named(points=((1, 2), (3, 4)), point_labels=(1, 0)),
    ]
    assert len(set(names)) == 3
    assert named(points=((1, 2), (3, 4)), point_labels=(1, 1)) == names[0]


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


def move_a_mask(server: LocalCVAT, results: Any, segment: int) -> None:
    """A person moves one mask of a segment to the right by a pixel."""
    results.refresh()
    (task,) = results.ledger.tasks()
    (job,) = (job for job in task.jobs if job.segment == segment)
    with client_of(server) as client:
        shape = client.annotations(job_id=job.id)["shapes"][0]
        *pixels, left, top, right, bottom = shape["points"]
        shape["points"] = [*pixels, left + 1, top, right + 1, bottom]
        client.update_annotations({"tags": [], "shapes": [shape], "tracks": []}, job_id=job.id)


def test_another_machine_fills_only_what_changed(
    server: LocalCVAT,
    dataset: fo.Dataset,
    machine: Machine,
    engines: Engines,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flow, sam2 = engines.record("flow"), engines.record("sam2")
    results = dataset.annotate("run", **RUN, **login(server))
    assert dataset.get_annotation_info("run").config.engine == "auto"
    annotate_by_script(server, results)
    dataset.load_annotations("run")
    assert (flow.spans, sam2.spans) == ([(0, 4), (4, 8)], [])

    machine.get_weights()
    machine.has_gpu(True)
    dataset.load_annotations("run")
    assert (len(flow.spans), sam2.spans) == (2, [])
    move_a_mask(server, results, 1)
    with caplog.at_level(logging.INFO, "labelprop_cvat"):
        dataset.load_annotations("run")
    assert (len(flow.spans), sam2.spans) == (2, [(4, 8)])
    assert sum("engine='auto' takes sam2" in said for said in caplog.messages) == 1
    # Who wants it all from one says so.
    assert len(results.propagate(again=True)) == 2
    assert (len(flow.spans), sam2.spans) == (2, [(4, 8), (0, 4), (4, 8)])
    assert len(results.propagate(again=True, engine="flow")) == 2
    assert (flow.spans[2:], len(sam2.spans)) == ([(0, 4), (4, 8)], 3)
    assert results.propagate() == []
    with pytest.raises(ConfigurationError, match="no propagation engine named 'fow'"):
        results.propagate(again=True, engine="fow")


def test_a_load_may_name_another_engine_for_once(
    server: LocalCVAT,
    dataset: fo.Dataset,
    machine: Machine,
    engines: Engines,
) -> None:
    flow, sam2 = engines.record("flow"), engines.record("sam2")
    results = dataset.annotate("run", **RUN, engine="flow", engine_options={"max_pixels": 9000}, **login(server))
    annotate_by_script(server, results)
    dataset.load_annotations("run", engine="none")
    assert dataset.count("objects.detections") > 0
    assert not dataset.has_field("objects_propagated")
    dataset.load_annotations("run", engine="sam2", engine_options={"checkpoint": "here.pt"})
    assert (flow.spans, sam2.spans) == ([], [(0, 4), (4, 8)])
    assert sam2.made[-1] == {"checkpoint": "here.pt"}

    # It was for once: the next load is the run's own again, and finds nothing to do.
    dataset.load_annotations("run")
    move_a_mask(server, results, 0)
    dataset.load_annotations("run", engine_options={"min_confidence": 0.5})
    assert (flow.spans, len(sam2.spans)) == ([(0, 4)], 2)
    assert flow.made[-1] == {"max_pixels": 9000, "min_confidence": 0.5}
    move_a_mask(server, results, 0)
    dataset.load_annotations("run")
    assert flow.made[-1] == {"max_pixels": 9000}


def test_a_wrong_engine_of_a_load_is_refused_before_anything_is_written(server: LocalCVAT, dataset: fo.Dataset) -> None:
    results = dataset.annotate("run", **RUN, engine="hold", **login(server))
    annotate_by_script(server, results)
    for given in ({"engine": "sma2"}, {"engine_options": {"max_pixels": 9000}}, {"engine": "auto", "job": 3}):
        with pytest.raises(ConfigurationError, match=r"sma2|max_pixels|'job'"):
            dataset.load_annotations("run", **given)
        assert not dataset.has_field("objects")
    dataset.load_annotations("run")
    assert dataset.count("objects_propagated.detections") > 0


def test_a_run_that_only_annotates_takes_no_engine(server: LocalCVAT, dataset: fo.Dataset) -> None:
    dataset.annotate("run", **{**RUN, "exemplars": None}, engine="none", **login(server))
    with pytest.raises(ConfigurationError, match="only annotates"):
        dataset.load_annotations("run", engine="flow")


def test_options_that_cannot_be_stored_are_refused(server: LocalCVAT, dataset: fo.Dataset) -> None:
    with pytest.raises(ConfigurationError, match="engine_options are stored with the run"):
        dataset.annotate("run", **RUN, engine="hold", engine_options={"f": object()}, **login(server))
    with pytest.raises(ConfigurationError, match="engine_options is a dict"):
        dataset.annotate("run", **RUN, engine="hold", engine_options="max_pixels=9000", **login(server))
    assert dataset.list_annotation_runs() == []


def test_a_path_is_stored_as_text(
    server: LocalCVAT,
    dataset: fo.Dataset,
    engines: Engines,
) -> None:
    engines.record("sam2")
    dataset.annotate("run", **RUN, engine="sam2", engine_options={"checkpoint": Path("a/b.pt")}, **login(server))
    assert dataset.get_annotation_info("run").config.engine_options == {"checkpoint": "a/b.pt"}


def test_the_doctor_says_what_is_taken_here(machine: Machine) -> None:
    assert re.search(r"auto, .*flow, .*; auto takes flow here: no weights.* on this machine", check_engines().detail)
    machine.get_weights()
    machine.has_gpu(True)
    assert "auto takes sam2 here" in check_engines().detail


# --- weights that are not there yet ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"weights of sam2\.1_hiera_tiny \(156 MB\) are not on this machine"),
        ({"model": "large"}, r"\(898 MB\) are not on this machine.*'labelprop weights sam2\.1_hiera_large'"),
        ({"checkpoint": "/nowhere/mine.pt"}, r"/nowhere/mine\.pt.* does not exist"),
    ],
)
def test_annotate_warns_of_weights_that_are_not_there_and_downloads_nothing(
    server: LocalCVAT,
    dataset: fo.Dataset,
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    said: str,
) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("nothing shall be downloaded")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    dataset.annotate("run", **RUN, engine="sam2", engine_options=options, **login(server))
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("labelprop_cvat.workflow")]
    assert re.search(f"^The engine 'sam2' could not fill frames here and now: .*{said}", warning)


def test_annotate_does_not_warn_where_all_is_there(
    server: LocalCVAT, dataset: fo.Dataset, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    weights = machine.get_weights()
    dataset.annotate("found", **RUN, engine="sam2", **login(server))
    dataset.annotate("named", **RUN, engine="sam2", engine_options={"checkpoint": str(weights)}, **login(server))
    dataset.annotate("other", **RUN, engine="auto", **login(server))
    assert [record for record in caplog.records if record.name.startswith("labelprop_cvat.workflow")] == []
