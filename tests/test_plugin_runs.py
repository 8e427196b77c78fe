"""Runs from the App: every step of the loop is an operator, which says what is wrong before it does anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.internal.secrets import UnencryptedSecret
from fiftyone.operators.executor import ExecutionError
from fiftyone.plugins.secrets import PluginSecretsResolver
from fixtures_plugin import (
    choice_values,
    complaints,
    form,
    plugin,  # noqa: F401 - a fixture
    run_operator,
    streamed,
    uri,
)
from fixtures_roundtrip import annotate_by_script, client_of, image_dataset, truth, write_images, write_video
from fixtures_views import scene_labels

from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import JobPage, ScriptedReviewer
from labelprop_cvat.plugin._activity import current, request_stop
from labelprop_cvat.progress import Stopped
from labelprop_cvat.workflow import adopt, run_keys, run_results

pytestmark = pytest.mark.usefixtures("plugin")

CLASSES = ["person", "car"]
FRAMES = 8
PASSWORD = "Xq7-secret-of-nobody"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    users = {"anna": PASSWORD}
    with LocalCVAT(tmp_path_factory.mktemp("cvat"), users=users, anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def login(server: LocalCVAT) -> Iterator[None]:
    """As where the App runs: the login is configured, and no step is given one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FIFTYONE_CVAT_URL", server.url)
        patched.setenv("FIFTYONE_CVAT_USERNAME", "anna")
        patched.setenv("FIFTYONE_CVAT_PASSWORD", PASSWORD)
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), FRAMES)


@pytest.fixture
def dataset(paths: list[Path]) -> fo.Dataset:
    return image_dataset(paths, truth=scene_labels)


def request(samples: Any, **params: Any) -> dict[str, Any]:
    """A small run: masks of two objects on the first frame of each segment."""
    asked = {"label_field": "objects", "label_type": "instances", "classes": CLASSES, "engine": "hold"}
    return run_operator("request_annotations", samples, **{**asked, "exemplars": "first", **params})


def work(server: LocalCVAT, dataset: fo.Dataset, key: str = "run1", **options: Any) -> None:
    annotate_by_script(server, run_results(dataset, key), **options)


@pytest.fixture(scope="module")
def loaded(server: LocalCVAT, login: None, plugin: str, paths: list[Path]) -> fo.Dataset:  # noqa: F811
    """A run of one segment that was annotated and filled. No test changes it."""
    dataset = image_dataset(paths, truth=scene_labels)
    request(dataset)
    work(server, dataset)
    run_operator("load_annotations", dataset)
    return dataset


# --- the loop --------------------------------------------------------------------------------------------------------


def test_the_whole_loop_is_walked_by_operators_alone(server: LocalCVAT, dataset: fo.Dataset) -> None:
    segmented = run_operator("temporal_segmentation", dataset, temporal_segmentation_method="fixed:4")
    assert segmented["segments"] == 2
    run_operator("select_exemplars", dataset, exemplar_scoring_method="first_frame")
    sent = request(dataset, exemplars=None)
    assert (sent["anno_key"], sent["tasks"], sent["jobs"], sent["samples_processed"]) == ("run1", 1, 2, 2)
    assert sent["message"].startswith("The run 'run1' is in CVAT: 2 frames in 2 jobs of 1 task.")
    work(server, dataset)

    home = run_operator("load_annotations", dataset)
    assert (home["jobs"], home["finished_jobs"], home["samples_processed"]) == (2, 2, 2)
    assert (home["labels"], home["engine"], len(home["segments_filled"])) == (4, "hold", 2)
    assert dataset.count("objects.detections") == 4
    assert dataset.count("objects_propagated.detections") == 2 * FRAMES
    status = run_operator("run_status", dataset)
    assert status["message"] == "Run 'run1': 2 of 2 jobs finished."
    assert [row["engine"] for row in status["rows"]] == ["hold", "hold"]
    assert [line.split(" | ")[2] for line in status["table"].splitlines()[2:]] == ["annotation: completed, loaded"] * 2

    further = run_operator("suggest_frames", dataset, budget=1, send=True)
    assert (further["round"], len(further["frames"]), len(further["rows"])) == (2, 1, 1)
    assert further["message"].endswith("They are in CVAT as round 2.")
    work(server, dataset)
    run_operator("load_annotations", dataset)
    assert dataset.count("objects.detections") == 6
    judged = run_operator("evaluate_propagation", dataset, pred_field="objects_propagated", gt_field="truth")
    assert 0.5 < judged["j"] < 1.0

    review = run_operator("request_review", dataset)
    assert (review["round"], review["jobs"], review["samples_processed"]) == (3, 2, FRAMES)
    with client_of(server) as client:
        for row in run_operator("run_status", dataset)["rows"]:
            if row["kind"] == "review":
                ScriptedReviewer(client, threshold=0.95).review(row["job_id"], truth())
    reviewed = run_operator("load_annotations", dataset)
    assert reviewed["finished_jobs"] == reviewed["jobs"] == 5

    ended = run_operator("cleanup_run", dataset)
    assert ended["message"] == "Everything of 'run1' is gone from CVAT. What is in FiftyOne stays."
    assert (ended["kept"], ended["deleted"]) == ([], 3)
    assert dataset.count("objects_propagated.detections") == 2 * FRAMES
    assert run_operator("run_status", dataset)["message"] == "Run 'run1' has nothing in CVAT."


def test_in_the_app_a_step_streams_how_it_ends_and_suggestions_become_the_view(loaded: fo.Dataset) -> None:
    told = streamed("suggest_frames", loaded, budget=2)
    kinds = [kind for kind, _ in told]
    assert {"notify", "show_output", "set_view"} <= set(kinds)
    (view,) = (params["view"] for kind, params in told if kind == "set_view")
    shown = fo.DatasetView._build(loaded, view)
    assert len(shown) == 2
    (output,) = (params for kind, params in told if kind == "show_output")
    assert {"message", "rows", "predicted_j"} <= set(output["outputs"]["type"]["properties"])
    assert output["results"]["rows"][0]["why"].startswith(("person 1: ", "car 2: "))
    assert not any(kind == "set_view" for kind, _ in streamed("suggest_frames", loaded, budget=2, show=False))


def test_videos_are_asked_for_by_either_spelling_of_the_field(server: LocalCVAT, tmp_path: Path) -> None:
    videos = fo.Dataset()
    videos.add_sample(fo.Sample(str(write_video(tmp_path / "a.mp4", 4))))
    sent = request(videos, label_field="objects")
    assert list(run_results(videos, "run1").config.label_schema) == ["frames.objects"]
    assert sent["output_fields"] == ["frames.objects_propagated"]
    work(server, videos, first_number=1)
    assert run_operator("load_annotations", videos)["samples_processed"] == 1
    assert videos.count("frames.objects_propagated.detections") == 8


def test_only_what_is_looked_at_is_sent(dataset: fo.Dataset) -> None:
    ids = dataset.values("id")[2:5]
    chosen = {"selected": ids, "view_target": "SELECTED_SAMPLES"}
    assert request(dataset, exemplars="all", _ctx=chosen)["samples_processed"] == 3
    view = dataset.skip(6)
    assert request(view, anno_key="other", exemplars="all")["samples_processed"] == 2


def test_a_load_of_another_engine_is_of_that_one_this_once(server: LocalCVAT, dataset: fo.Dataset) -> None:
    request(dataset)
    work(server, dataset)
    run_operator("load_annotations", dataset, engine="none")
    assert dataset.get_field("objects_propagated") is None
    run_operator("load_annotations", dataset, engine="interpolate")
    assert dataset.count("objects_propagated.detections") == 2 * FRAMES
    assert run_operator("run_status", dataset, ask=False)["rows"][0]["engine"] == "interpolate"
    assert run_results(dataset, "run1").config.engine == "hold"


# --- forms -----------------------------------------------------------------------------------------------------------


def test_the_form_of_a_request_knows_the_dataset(dataset: fo.Dataset) -> None:
    run_operator("temporal_segmentation", dataset, temporal_segmentation_method="fixed:4")
    inputs = form("request_annotations", dataset, label_field="truth", exemplars="first")
    assert inputs["anno_key"]["default"] == "run1"
    assert inputs["classes"]["default"] == ["car", "person"]
    assert choice_values(inputs["label_type"]) == ["instances", "detections"]
    assert inputs["label_type"]["default"] == "instances"
    assert inputs["sort_field"]["default"] == "number"
    assert inputs["temporal_segments_field"]["default"] == "temporal_segments"
    assert inputs["outlook"]["view"]["label"] == "2 frames will go to CVAT, in 2 jobs of 1 task"
    assert not {"url", "job_reviewers", "no_login"} & set(inputs)
    # What is complete, or the truth, is nobody's to edit by a click.
    sample = dataset.first()
    sample["truth"] = None
    sample.save()
    dataset.set_values("machine", [scene_labels(number) for number in range(FRAMES)])
    assert form("request_annotations", dataset)["label_field"]["default"] == "objects"
    sample["drafts"] = scene_labels(0)
    sample.save()
    assert form("request_annotations", dataset)["label_field"]["default"] == "drafts"
    inputs = form("request_annotations", dataset, review=True, more_settings=True)
    assert {"url", "username", "job_reviewers", "project_name", "job_assignees"} <= set(inputs)


# Parameters of a request, the input that complains, and what it says.
WRONG = [
    ({"anno_key": "my run"}, "anno_key", "The key of a run is a name of letters"),
    ({"label_field": ""}, "label_field", "No label field was named."),
    ({"label_field": "filepath"}, "label_field", "The field 'filepath' is FiftyOne's own"),
    ({"label_field": "truth", "label_type": "polygons"}, "label_field", "'truth' of .* can be annotated as 'inst"),
    ({"label_type": "boxes"}, "label_type", "There is no label type 'boxes'. Choose one of: instances"),
    ({"classes": []}, "classes", "'objects' holds no labels yet. Name the classes"),
    ({"exemplars": "often"}, "exemplars", "'often'"),
    ({"temporal_segments_field": "shots"}, "temporal_segments_field", "There is no field 'shots' with temporal"),
    ({"engine": "magic"}, "engine", "There is no engine 'magic'."),
    ({"review": True, "review_frames": "some"}, "review_frames", "'some'"),
    (
        {"missing": "maybe", "more_settings": True},
        "missing",
        "What is missing is 'unknown' or 'absent', got 'maybe'.",
    ),
    ({"url": "http://ann:secret@cvat.example", "more_settings": True}, "url", "The address holds a login"),
    ({"password": "a secret"}, "problem_0", "password is no parameter of an operator"),
]


def test_what_is_wrong_with_a_request_is_said_and_nothing_is_sent(dataset: fo.Dataset) -> None:
    for params, param, said in WRONG:
        asked = {"label_field": "objects", "label_type": "instances", "classes": CLASSES, **params}
        found = complaints("request_annotations", dataset, **asked)
        assert list(found) == [param], params
        assert re.search(said, found[param]), params
    for params in (WRONG[0][0], WRONG[-1][0]):
        with pytest.raises(ExecutionError):
            request(dataset, **params)
    assert run_keys(dataset) == []


def test_a_key_that_is_taken_is_refused_and_the_next_one_offered(loaded: fo.Dataset) -> None:
    found = complaints("request_annotations", loaded, anno_key="run1", classes=CLASSES)
    assert "has an annotation run 'run1' already" in found["anno_key"]
    assert form("request_annotations", loaded)["anno_key"]["default"] == "run2"


def test_nothing_to_annotate(dataset: fo.Dataset) -> None:
    nothing = dataset.match(fo.ViewField("number") > 100)
    assert "There is no sample in this view" in complaints("request_annotations", nothing)["problem_0"]


RUN_STEPS = ("load_annotations", "request_review", "suggest_frames", "run_status", "cleanup_run")


def test_a_dataset_without_runs_says_what_comes_first(dataset: fo.Dataset) -> None:
    for name in RUN_STEPS:
        (said,) = complaints(name, dataset).values()
        assert "has no run yet: nothing of it was sent to CVAT. Begin with Request Annotations." in said


def test_what_is_wrong_with_a_step_of_a_run_is_said(loaded: fo.Dataset) -> None:
    for name in RUN_STEPS:
        assert "has no annotation run 'other'; it has: run1" in complaints(name, loaded, anno_key="other")["anno_key"]
        assert "password is no parameter" in complaints(name, loaded, password="a secret")["problem_0"]
        with pytest.raises(ExecutionError, match="holds a login"):
            # Before it is stored.
            foo.execute_operator(
                uri(name), {"dataset": loaded}, params={"url": "http://a:b@c"}, request_delegation=True
            )
        assert not complaints(name, loaded)
    wrong = complaints("load_annotations", loaded, engine="magic", job_states="finished", more_settings=True)
    assert "There is no engine 'magic'" in wrong["engine"]
    assert "got 'finished'" in wrong["job_states"]
    assert "'some'" in complaints("request_review", loaded, frames="some")["frames"]
    wrong = complaints("suggest_frames", loaded, target=2.0, least_gain=-1.0)
    assert set(wrong) == {"target", "least_gain"}
    assert "budget" in complaints("suggest_frames", loaded, budget=0)


def test_a_run_that_fills_nothing_has_nothing_to_review_or_to_suggest(server: LocalCVAT, dataset: fo.Dataset) -> None:
    request(dataset, label_field="weather", label_type="classifications", classes=["dry"])
    for name in ("request_review", "suggest_frames"):
        assert "The run 'run1' fills no frames" in complaints(name, dataset)["anno_key"]
    assert "engine" not in form("load_annotations", dataset)


def test_a_review_before_anything_is_filled_and_one_of_what_was_reviewed(
    server: LocalCVAT, dataset: fo.Dataset
) -> None:
    request(dataset)
    assert "No segment of 'run1' is filled yet" in complaints("request_review", dataset)["anno_key"]
    work(server, dataset)
    run_operator("load_annotations", dataset)
    assert run_operator("request_review", dataset, frames="every:4")["samples_processed"] == 3
    again = run_operator("request_review", dataset)
    assert (again["round"], again["message"][:18]) == (None, "Nothing to review:")


# --- logins ----------------------------------------------------------------------------------------------------------


def test_without_an_address_or_a_login_a_step_says_how_to_set_them(
    loaded: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIFTYONE_CVAT_PASSWORD")
    advice = "set FIFTYONE_CVAT_URL, FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD where the App is started"
    for name in (*RUN_STEPS, "request_annotations"):
        assert advice in form(name, loaded)["no_login"]["view"]["description"]
    assert not complaints("load_annotations", loaded)
    with pytest.raises(Exception, match="needs a password for the user 'anna'"):
        run_operator("load_annotations", loaded)
    with pytest.raises(Exception, match="needs a password for the user 'anna'"):
        request(loaded, anno_key="run2")
    assert run_keys(loaded) == ["run1"]
    assert run_operator("run_status", loaded, ask=False)["jobs"] == 1


def test_a_login_of_another_server_stays_there(loaded: fo.Dataset) -> None:
    with pytest.raises(Exception, match="A login that is configured for another server is not used"):
        run_operator("run_status", loaded, url="http://127.0.0.1:1", username="anna")


def test_a_server_that_is_away_leaves_the_status_that_was_last_seen(
    loaded: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIFTYONE_CVAT_URL", "http://127.0.0.1:1")
    found = run_operator("run_status", loaded, url="http://127.0.0.1:1")
    assert found["message"].startswith("Run 'run1': 1 of 1 jobs finished. That is what was last seen, as CVAT was")
    assert found["jobs"] == 1


# --- the end ---------------------------------------------------------------------------------------------------------


def test_work_that_nobody_loaded_stays_unless_it_is_said_twice(server: LocalCVAT, dataset: fo.Dataset) -> None:
    request(dataset)
    (job,) = (row["job_id"] for row in run_operator("run_status", dataset)["rows"])
    with client_of(server) as client, JobPage(client, job) as page:
        page.draw_mask("car", 0, truth()("", "0000.png")[0].mask, index=9)
    kept = run_operator("cleanup_run", dataset)
    assert kept["message"].startswith("Kept in CVAT, because somebody worked there and it was not loaded: 1 task")
    assert len(kept["kept"]) == 1
    assert "will be lost" in form("cleanup_run", dataset, force=True)["warned"]["view"]["label"]
    assert run_operator("cleanup_run", dataset, force=True)["kept"] == []


def test_a_load_that_is_stopped_keeps_what_is_filled_and_goes_on(
    server: LocalCVAT, dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat.plugin import _activity

    monkeypatch.setattr(_activity, "_LOOK_SECONDS", 0.0)
    run_operator("temporal_segmentation", dataset, temporal_segmentation_method="fixed:4")
    request(dataset)
    work(server, dataset)
    see = _activity.Work.see

    def impatient(self: Any, progress: Any) -> None:
        if progress.what == "frames" and progress.done > 5:
            # As the App does, from another thread.
            asking = threading.Thread(target=request_stop, args=(dataset,))
            asking.start()
            asking.join()
        see(self, progress)

    monkeypatch.setattr(_activity.Work, "see", impatient)
    stopped = run_operator("load_annotations", dataset)
    assert stopped["stopped"]
    activity = current(dataset)
    assert activity is not None
    assert activity.state == "stopped"
    assert dataset.count("objects.detections") == 4
    assert dataset.count("objects_propagated.detections") == 8
    monkeypatch.setattr(_activity.Work, "see", see)
    run_operator("load_annotations", dataset)
    assert dataset.count("objects_propagated.detections") == 2 * FRAMES


def test_an_upload_that_was_cut_off_goes_on_under_its_name(
    dataset: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelprop_cvat.backend.cvat import CVATClient

    def cut(self: Any, *args: Any, **options: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(CVATClient, "create_task", cut)
        assert request(dataset)["stopped"]
    assert form("request_annotations", dataset)["anno_key"]["default"] == "run1"
    assert request(dataset)["jobs"] == 1
    assert run_operator("run_status", dataset)["jobs"] == 1


def test_every_operator_is_there_under_its_name() -> None:
    names = {operator.uri for operator in foo.list_operators()}
    assert {uri(name) for name in (*RUN_STEPS, "request_annotations")} <= names


class Safe:
    """A manager of secrets that knows what the environment does not."""

    def __init__(self, **secrets: str) -> None:
        self._secrets = secrets

    def get_sync(self, key: str, **_: Any) -> UnencryptedSecret | None:
        return UnencryptedSecret(key, self._secrets[key]) if key in self._secrets else None

    async def get_multiple(self, keys: list[str], **_: Any) -> dict[str, UnencryptedSecret]:
        return {key: UnencryptedSecret(key, self._secrets[key]) for key in keys if key in self._secrets}


def test_secrets_of_a_manager_log_in_and_only_where_they_belong(
    server: LocalCVAT, loaded: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("URL", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"FIFTYONE_CVAT_{name}")
    mine = {"FIFTYONE_CVAT_URL": server.url, "FIFTYONE_CVAT_USERNAME": "anna", "FIFTYONE_CVAT_PASSWORD": PASSWORD}
    monkeypatch.setattr(PluginSecretsResolver(), "client", Safe(**mine))
    assert run_operator("run_status", loaded)["message"] == "Run 'run1': 1 of 1 jobs finished."
    with pytest.raises(ExecutionError, match="needs a user name and password"):
        run_operator("run_status", loaded, url="http://127.0.0.1:1")
    with pytest.raises(ExecutionError, match="needs a password for the user 'somebody'"):
        run_operator("run_status", loaded, username="somebody")
    # Of two, the one that belongs to the server of the run.
    first = {name.replace("CVAT", "LABELPROP"): value for name, value in mine.items()}
    two = {**mine, **first, "FIFTYONE_LABELPROP_URL": "http://127.0.0.1:1"}
    monkeypatch.setattr(PluginSecretsResolver(), "client", Safe(**two))
    assert run_operator("run_status", loaded)["message"] == "Run 'run1': 1 of 1 jobs finished."
    elsewhere = {**mine, "FIFTYONE_CVAT_URL": "http://127.0.0.1:1"}
    monkeypatch.setattr(PluginSecretsResolver(), "client", Safe(**elsewhere))
    with pytest.raises(ExecutionError, match="needs a user name and password"):
        run_operator("run_status", loaded)


def test_a_run_of_tasks_that_others_made_only_lets_go_of_them(server: LocalCVAT, loaded: fo.Dataset) -> None:
    (task,) = run_results(loaded, "run1").task_ids
    adopt(loaded, "theirs", task_ids=task, label_field="adopted", sort_field="number", engine="none")
    ended = run_operator("cleanup_run", loaded, anno_key="theirs")
    assert ended["message"] == f"The run 'theirs' has let go of the tasks that it adopted; they are in CVAT: {task}."
    assert (ended["kept"], ended["deleted"]) == ([], 0)
    with client_of(server) as client:
        assert client.jobs(task)
    loaded.delete_annotation_run("theirs")
