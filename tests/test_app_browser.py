"""The real App in a real browser: the plugin's panel and operators as people see them, through the whole loop.

``LABELPROP_SCREENSHOTS=DIR`` also keeps what the browser showed at every step: see ``make screenshots``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import fiftyone as fo
import pytest
from fixtures_app import App, Window, browser, chromium, cy

from labelprop_cvat import workflow
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import TruthObject
from labelprop_cvat.demo.people import ScriptedPeople
from labelprop_cvat.demo.playground import FIRST_LABELS, GROUPED_VIEW, ORDER, TRUTH, make_playground
from labelprop_cvat.plugin import installing
from labelprop_cvat.propagation.types import ObjectMask

SHOTS = os.environ.get("LABELPROP_SCREENSHOTS")
# Pictures for people show more of everything.
SIZE, LENGTH = ((180, 320), 24) if SHOTS else ((144, 256), 6)
PASSWORD = "only-on-this-machine"


@pytest.fixture(scope="module")
def cvat():
    with LocalCVAT(users={"annotator": PASSWORD}, anonymous_rate=None) as server:
        yield server


@pytest.fixture(scope="module")
def app(tmp_path_factory, cvat):
    """The App with the plugin installed, and CVAT's address and login in its environment."""
    chromium()
    folder = tmp_path_factory.mktemp("app")
    assert installing.install(folder / "plugins").changed
    server = App(
        folder,
        {
            "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
            "FIFTYONE_APP_CONFIG_PATH": str(folder / "app_config.json"),
            "FIFTYONE_CVAT_URL": cvat.url,
            "FIFTYONE_CVAT_USERNAME": cvat.username,
            "FIFTYONE_CVAT_PASSWORD": cvat.password,
        },
    )
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def page(tmp_path_factory, app):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def window(page, app):
    """The browser's window; what it complains about is a failure."""
    with Window(page, app.url, Path(SHOTS) if SHOTS else None) as window:
        yield window
    assert not window.complaints, "\n".join(window.complaints)
    assert "Traceback" not in app.log(), app.log()[-5000:]


@pytest.fixture
def playground(tmp_path):
    """``playground("image")`` makes a dataset to play with."""
    made = []

    def make(media_format: str) -> fo.Dataset:
        dataset = make_playground(
            f"browser-{media_format}",
            media_format=media_format,
            length=LENGTH,
            size=SIZE,
            folder=tmp_path / media_format,
        )
        made.append(dataset)
        return dataset

    yield make
    for dataset in made:
        dataset.delete()


def login(cvat: LocalCVAT) -> dict[str, str]:
    return {"url": cvat.url, "username": cvat.username, "password": cvat.password}


def people(cvat: LocalCVAT, dataset: fo.Dataset) -> ScriptedPeople:
    """People who see what is true on every frame."""
    truth = {Path(sample.filepath).stem: sample[TRUTH].detections for sample in dataset}

    def seen(name: str) -> Sequence[TruthObject]:
        return [TruthObject(label.index, label.label, mask=_mask(label)) for label in truth[name]]

    return ScriptedPeople(cvat, seen)


def _mask(label: fo.Detection) -> ObjectMask:
    x, y = round(label.bounding_box[0] * SIZE[1]), round(label.bounding_box[1] * SIZE[0])
    return ObjectMask(x, y, label.mask)


# A browser on a busy machine: every step redraws the whole App.
@pytest.mark.timeout(900)
def test_the_loop_from_an_empty_dataset_to_its_evaluation(playground, window, cvat):
    dataset = playground("image")
    dataset.delete_sample_field(FIRST_LABELS)
    window.open(dataset.name)
    panel = window.open_panel("Label Propagation")
    window.next_step("Segment")
    window.shot("01-nothing-yet")
    assert "2 temporal segments" in window.submit(window.click("Segment"))
    window.close_dialog()

    window.next_step("Choose exemplars")
    assert "2 exemplars" in window.submit(window.click("Choose exemplars"))
    window.shot("02-chosen")
    window.close_dialog()

    window.next_step("Send to CVAT")
    form = window.click("Send to CVAT")
    window.settle(form)
    window.fill(form, "Label field", "objects")
    window.fill(form, "Classes", *dataset.distinct(f"{TRUTH}.detections.label"))
    window.shot("03-send")
    assert "2 frames in 2 jobs of 1 task" in window.submit(form)
    window.shot("04-sent")
    window.close_dialog()

    crowd = people(cvat, dataset)
    crowd.work(workflow.run_results(dataset, "run1", **login(cvat)))
    panel.get_by_role("button", name="Refresh").click()
    window.next_step("Load")
    window.shot("05-annotated")
    assert "2 segments were filled" in window.submit(window.click("Load"))
    window.shot("06-loaded")
    window.close_dialog()
    dataset.reload()
    assert dataset.exists("objects_propagated").count() == 2 * LENGTH
    panel.get_by_text("Worst frames").wait_for()

    form = window.click("Evaluate")
    window.settle(form)
    window.fill(form, "Evaluation key", "first")
    window.shot("07-evaluate")
    assert "J (region)" in window.submit(form)
    window.close_dialog()
    panel.get_by_text("Evaluation", exact=True).wait_for()
    window.page.locator(cy(f"checkbox-{TRUTH}")).click()
    window.page.locator(cy("looker")).first.wait_for()
    window.shot("08-panel")

    # A click on a segment shows it alone, one on a bad frame opens it.
    panel.locator(".js-plotly-plot .bars .point path").nth(1).click(force=True)
    counted = window.page.locator(cy("entry-counts"))
    counted.get_by_text(f"{LENGTH} samples", exact=True).wait_for()
    window.shot("09-segment")
    panel.get_by_role("button", name="Back to the whole view").click()
    counted.get_by_text(f"{2 * LENGTH} samples", exact=True).wait_for()
    panel.locator("table").last.locator("tbody tr").first.click()
    window.page.locator(cy("modal")).wait_for()
    window.shot("10-frame")
    # Beside it.
    window.page.mouse.click(5, 500)
    window.page.locator(cy("modal")).wait_for(state="detached")

    if not SHOTS:
        # The rest is the same again, with a panel full of plots to draw: half a minute on a machine without a GPU.
        return
    assert "review" in window.submit(window.click("Review")).lower()
    window.shot("11-in-review")
    window.close_dialog()
    crowd.work(workflow.run_results(dataset, "run1", **login(cvat)))
    panel.get_by_role("button", name="Refresh").click()
    window.next_step("Load")
    assert "4 of 4 jobs" in window.submit(window.click("Load"))
    window.close_dialog()
    panel.get_by_text("reviewed").first.wait_for()
    window.shot("12-reviewed")
    assert {"manual", "reviewed"} <= set(dataset.distinct("objects_propagated.detections.source"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("media_format", ["video", "group"])
def test_the_panel_shows_videos_and_groups(playground, window, media_format):
    dataset = playground(media_format)
    workflow.segment(dataset, "temporal_segments", sort_field=None if media_format == "video" else ORDER)
    window.open(dataset.name, view=GROUPED_VIEW if media_format == "group" else None)
    panel = window.open_panel("Label Propagation")
    panel.get_by_text(f"{2 * LENGTH} frames").first.wait_for()
    # A plot draws its words when it has drawn everything else.
    panel.locator(".js-plotly-plot").get_by_text("segment_001").first.wait_for()
    window.shot(f"panel-{media_format}")
