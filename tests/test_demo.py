"""The demo: what it renders, how it measures, what it draws, and the whole of it on a tiny video."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from labelprop_cvat.cli import main
from labelprop_cvat.demo import pictures, scene
from labelprop_cvat.demo.footage import Footage, frames_footage, read_ids, video_footage
from labelprop_cvat.demo.loop import make_dataset
from labelprop_cvat.demo.measure import Part, as_boxes, quality, run_engine
from labelprop_cvat.demo.pictures import Legend, OverlayVideo, Tile, Timeline
from labelprop_cvat.demo.run import run_demo
from labelprop_cvat.demo.scene import HEIGHT, WIDTH, labels, render
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.frames import ArraySource, VideoSource
from labelprop_cvat.propagation.types import FrameObjects, ObjectMask, ObjectState, Prompt, Segment

ROOT = Path(__file__).resolve().parents[1]
PER_SCENE = 31
SIZE = (HEIGHT // 2, WIDTH // 2)


@pytest.fixture(scope="module")
def rendered():
    return list(render(PER_SCENE, SIZE))


@pytest.fixture
def footage(tmp_path) -> Footage:
    """Six frames of 48 x 64 pixels; object 3 moves right by 4 pixels a frame, object 7 is there on the first three."""
    masks = []
    for index in range(6):
        ids = np.zeros((48, 64), np.uint8)
        ids[10:20, 4 + 4 * index : 14 + 4 * index] = 3
        if index < 3:
            ids[30:40, 20:30] = 7
        masks.append(tmp_path / f"{index}.png")
        Image.fromarray(ids).save(masks[-1])
    frames = np.full((6, 48, 64, 3), 90, np.uint8)
    return Footage("tiny", ArraySource(frames), tuple(masks), {3: "dog"}, 24.0)


def truth_as_answers(footage: Footage) -> dict[int, FrameObjects]:
    return {
        index: FrameObjects(index, {i: ObjectState(mask=m) for i, m in footage.truth(index).items()})
        for index in range(len(footage.frames))
    }


# --- rendering -----------------------------------------------------------------------------------------------------


def test_the_video_is_the_same_on_every_run(rendered):
    again = next(iter(render(PER_SCENE, SIZE)))
    assert np.array_equal(again.image, rendered[0].image)
    assert np.array_equal(again.ids, rendered[0].ids)


def test_every_object_is_seen_in_its_own_scene_only(rendered):
    first = {int(i) for frame in rendered[:PER_SCENE] for i in np.unique(frame.ids)} - {0}
    second = {int(i) for frame in rendered[PER_SCENE:] for i in np.unique(frame.ids)} - {0}
    assert first == {1, 2, 3}
    assert second == {4, 5, 6}
    assert set(labels()) == first | second
    assert rendered[0].image.shape == (*SIZE, 3)


def test_there_is_one_cut_and_motion_everywhere_else(rendered):
    changes = [
        float(np.abs(after.image.astype(int) - before.image.astype(int)).mean())
        for before, after in itertools.pairwise(rendered)
    ]
    cut = changes.pop(PER_SCENE - 1)
    assert cut > 2 * max(changes)
    assert min(changes) > 0.5


def test_an_object_leaves_and_comes_back(rendered):
    seen = [bool((frame.ids == 5).any()) for frame in rendered[PER_SCENE:]]
    gone = seen.index(False)
    assert gone > 0
    assert seen[gone:].count(True) > 3


def test_objects_occlude_each_other_and_only_the_visible_part_counts(rendered):
    areas = [int((frame.ids == 2).sum()) for frame in rendered[:PER_SCENE]]
    lowest = int(np.argmin(areas))
    assert 0 < lowest < PER_SCENE - 1
    assert areas[lowest] < 0.2 * max(areas)
    # The ball is in front of everything: wherever it is whole in the picture, its mask is a whole disc.
    for frame in rendered[:PER_SCENE]:
        disc = (frame.ids == 3).astype(np.uint8)
        if disc.any() and not (disc[:, -1].any() or disc[-1].any()):
            (outline,), _ = cv2.findContours(disc, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            radius = cv2.minEnclosingCircle(outline)[1]
            assert disc.sum() == pytest.approx(np.pi * radius**2, rel=0.05)


def test_objects_turn_and_change_size(rendered):
    turtle = [(frame.ids == 4) for frame in rendered[PER_SCENE:]]
    assert turtle[-1].sum() > 1.5 * turtle[0].sum()


# --- footage -------------------------------------------------------------------------------------------------------


def test_masks_of_palette_images_are_their_indices(tmp_path):
    ids = np.zeros((4, 5), np.uint8)
    ids[1, 2] = 2
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    picture.putdata(list(ids.flat))
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_ids(tmp_path / "m.png"), ids)


def test_masks_of_16_bits_keep_their_ids(tmp_path):
    ids = np.array([[0, 300], [70, 0]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "m.png")
    assert np.array_equal(read_ids(tmp_path / "m.png"), ids)


def test_bad_footage_is_refused_in_a_sentence(tmp_path):
    frames, masks = tmp_path / "frames", tmp_path / "masks"
    with pytest.raises(DataError, match="no folder"):
        frames_footage(frames, masks, {})
    frames.mkdir()
    masks.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        frames_footage(frames, masks, {})
    for index in range(2):
        Image.new("RGB", (20, 10)).save(frames / f"{index}.png")
    Image.new("L", (20, 10)).save(masks / "0.png")
    with pytest.raises(DataError, match="1 masks and 2 frames"):
        frames_footage(frames, masks, {})
    Image.new("L", (10, 10)).save(masks / "1.png")
    with pytest.raises(DataError, match="10x10 pixels, but the frames are 20x10"):
        frames_footage(frames, masks, {}).truth(1)
    Image.new("RGB", (20, 10)).save(masks / "1.png")
    with pytest.raises(DataError, match="3 channels"):
        frames_footage(frames, masks, {}).truth(1)
    with pytest.raises(DataError, match="no video"):
        video_footage(tmp_path / "none.mp4", masks, {})


# --- measuring -----------------------------------------------------------------------------------------------------

PARTS = (Part(Segment(0, 6), frozenset({0, 5})),)


def test_the_truth_scores_one(footage):
    answers = truth_as_answers(footage)
    score = quality("x", answers, answers, footage, PARTS, 1.5)
    assert (score.j, score.f, score.box_iou, score.seconds) == (1.0, 1.0, 1.0, 1.5)


def test_what_a_person_drew_is_not_scored(footage):
    answers = truth_as_answers(footage)
    wrong = {**answers, 0: FrameObjects(0), 5: FrameObjects(5)}
    assert quality("x", wrong, wrong, footage, PARTS, 0).j == 1.0
    wrong = {**answers, 2: FrameObjects(2)}
    score = quality("x", wrong, wrong, footage, PARTS, 0)
    # Two objects on one of four frames are missing, and so are two of the six boxes.
    assert score.j == pytest.approx(0.75)
    assert score.box_iou == pytest.approx(4 / 6)
    assert (score.poor, score.judged) == (2, 8)


def test_a_box_that_should_not_be_there_counts(footage):
    answers = truth_as_answers(footage)
    ghost = ObjectState(mask=ObjectMask(0, 0, np.ones((5, 5), bool)))
    wrong = {**answers, 4: FrameObjects(4, {**answers[4].objects, 7: ghost})}
    score = quality("x", wrong, wrong, footage, PARTS, 0)
    assert score.j < 1
    assert score.box_iou == pytest.approx(6 / 7)


def test_baselines_run_on_the_same_prompts(footage):
    first, last = footage.truth(0), footage.truth(5)
    prompts = [Prompt(0, 3, mask=first[3]), Prompt(5, 3, mask=last[3]), Prompt(0, 7, mask=first[7])]
    prompts.append(Prompt(5, 7, absent=True))
    ticks = []
    held, _ = run_engine("hold", footage, prompts, PARTS, lambda: ticks.append(1))
    assert len(ticks) == len(held) == 6
    assert held[1].objects[3].mask == first[3]
    boxes, _ = run_engine("interpolate", footage, as_boxes(prompts), PARTS, lambda: None)
    assert boxes[2].objects[3].box == pytest.approx((12, 10, 22, 20))
    # Right for the one that moves straight; the one that left after frame 2 is held for two frames too many.
    assert quality("interpolate", held, boxes, footage, PARTS, 0).box_iou == pytest.approx(6 / 8)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_an_overlay_shows_objects_in_their_colours_and_the_truth_in_white():
    image = np.full((60, 80, 3), 100, np.uint8)
    mask = ObjectMask(20, 15, np.ones((30, 30), bool))
    drawn = pictures.overlay(image, {2: mask}, {2: ObjectMask(24, 15, np.ones((30, 30), bool))})
    assert drawn.shape == image.shape
    assert tuple(drawn[30, 20]) == pictures.colour_of(2)
    inside, outside = drawn[25, 35].astype(int), drawn[5, 5].astype(int)
    assert np.abs(inside - outside).max() > 40
    white = (drawn > 180).all(axis=2)
    assert 20 < white.sum() < 200
    assert white[:, 53].any()
    assert pictures.overlay(image, {}, width=160).shape == (120, 160, 3)
    assert (image == 100).all()


def test_colours_are_far_apart():
    colours = np.array(pictures.PALETTE, int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(len(colours), dtype=int)
    assert apart.min() > 90


def test_a_contact_sheet_holds_every_tile(tmp_path):
    tiles = [Tile(np.full((45, 400, 3), 20 * n, np.uint8), f"frame {n}", "propagated") for n in range(1, 6)]
    sheet = pictures.contact_sheet(tiles, 2, Legend("Title", "below", [("dog 1", (255, 0, 0))]))
    for n in range(1, 6):
        assert ((sheet == 20 * n).all(axis=2)).sum() >= 45 * 400
    pictures.save_png(sheet, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (sheet.shape[1], sheet.shape[0])
    with pytest.raises(DataError, match="one size"):
        pictures.contact_sheet([*tiles, Tile(np.zeros((5, 5, 3), np.uint8), "odd")], 2, Legend("x"))


def test_a_video_has_every_frame(tmp_path):
    path = tmp_path / "out.webm"
    with OverlayVideo(path, 24.0, Timeline(5, frozenset({0, 4}), (0, 3))) as video:
        for index in range(5):
            video.add(index, np.full((91, 161, 3), 40 * index, np.uint8), [("dog 1", 1, (80.0, 3.0))], "")
    capture = cv2.VideoCapture(str(path))
    means = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        means.append(float(frame[40:80].mean()))
    assert len(means) == 5
    assert means == sorted(means)


# --- the whole of it -----------------------------------------------------------------------------------------------


def check_output(folder: Path, frames: int, segments: int) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["footage"]["frames"] == frames
    assert len(summary["segments"]) == segments
    assert summary["segments"][-1][1] == frames
    names = [entry["name"] for entry in summary["engines"]]
    assert sorted(names) == sorted({*names, "interpolate", "hold"})
    for entry in summary["engines"]:
        assert 0 < entry["j"] <= 1
        assert 0 < entry["box_iou"] <= 1
    assert summary["touched_share"] == pytest.approx(len(summary["touched_frames"]) / frames)
    for name in ["comparison.png", *(f"overview-{n}.png" for n in range(1, segments + 1))]:
        picture = np.asarray(Image.open(folder / name))
        assert picture.shape[1] > 800
        assert picture.std() > 10
    review = summary["review"]
    assert review["before"] == summary["engines"][0]
    assert review["actions"]["examined"] > 0
    assert (folder / "review.png").exists()
    assert len(VideoSource(folder / "propagated.webm")) == frames
    return summary


@pytest.fixture
def small_scenes(monkeypatch) -> None:
    """The demo renders its scenes at a quarter of the size: a sixteenth of the work for everything."""
    monkeypatch.setattr(scene, "WIDTH", WIDTH // 4)
    monkeypatch.setattr(scene, "HEIGHT", HEIGHT // 4)


@pytest.mark.usefixtures("small_scenes")
def test_the_demo_on_a_tiny_video(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["demo", "--length", "24", "--exemplars", "every:4", "--output", str(out)]) == 0
    summary = check_output(out, 24, 2)
    flow, interpolate, hold = summary["engines"]
    # With so few frames everything moves five times as fast as in the real demo, and still:
    assert flow["j"] > 0.5
    assert flow["j"] > hold["j"] + 0.2
    assert flow["j"] > interpolate["j"] + 0.2
    assert summary["shapes_drawn"] > 12
    review = summary["review"]
    assert review["after"]["j"] > review["before"]["j"] + 0.02
    assert review["after"]["poor"] < review["before"]["poor"]
    assert review["after"]["judged"] == review["before"]["judged"]
    assert review["corrected_frames"]
    assert not set(review["corrected_frames"]) & set(summary["touched_frames"])
    assert review["edits"]["redrawn"] >= len(review["corrected_frames"])
    assert review["minutes"] > 0.5
    table = capsys.readouterr().out
    assert f"{flow['j']:.3f}" in table
    assert f"{hold['f']:.3f}" in table
    assert f"{review['after']['box_iou']:.3f}" in table
    assert "propagated.webm" in table

    # Again on the same footage as images, with other object ids than 1, 2, 3.
    frames = tmp_path / "clip" / "frames"
    masks = tmp_path / "clip" / "masks"
    frames.mkdir(parents=True)
    masks.mkdir()
    capture = cv2.VideoCapture(str(out / "input" / "video.mp4"))
    for index in range(8):
        cv2.imwrite(str(frames / f"{index:03d}.png"), capture.read()[1])
        ids = read_ids(out / "input" / "masks" / f"{index:05d}.png")
        Image.fromarray(np.where(ids > 0, ids + 10, 0).astype(np.uint8)).save(masks / f"{index:03d}.png")
    again = tmp_path / "again"
    words = ["demo", "--frames", str(frames), "--masks", str(masks), "--labels", "11=leaf,12=beetle", "--json"]
    assert main([*words, "--exemplars", "every:3", "--engine", "hold", "--output", str(again)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out[captured.out.index("{") :])["footage"]["name"] == "clip"
    assert check_output(again, 8, 1)["engines"][0]["name"] == "hold"

    # And on the same video as a file of the user's.
    words = ["demo", "--video", str(out / "input" / "video.mp4"), "--masks", str(out / "input" / "masks")]
    third = tmp_path / "third"
    words += ["--keep", "the_demos"]
    assert main([*words, "--exemplars", "first", "--engine", "interpolate", "--output", str(third)]) == 0
    assert check_output(third, 24, 2)["touched_frames"] == [0, 12]
    kept = fo.load_dataset("the_demos")
    assert kept.persistent
    assert kept.count("frames.objects_propagated.detections") > 30
    assert kept.list_annotation_runs() == []
    make_dataset(video_footage(out / "input" / "video.mp4", out / "input" / "masks", {}), "the_demos").delete()


def test_a_dataset_of_the_users_is_not_replaced(footage):
    theirs = fo.Dataset("theirs")
    try:
        with pytest.raises(ConfigurationError, match="'theirs' already"):
            make_dataset(footage, "theirs")
        assert fo.dataset_exists("theirs")
    finally:
        theirs.delete()


@pytest.mark.parametrize("words", [["--frames", "x"], ["--video", "x.mp4"], ["--masks", "x"], ["--length", "3"]])
def test_wrong_usage_is_explained(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *words])
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_missing_footage_is_a_sentence(tmp_path, capsys):
    assert main(["demo", "--frames", str(tmp_path / "a"), "--masks", str(tmp_path / "b")]) == 1
    assert "no folder" in capsys.readouterr().err


def test_the_demo_leaves_the_users_database_alone(tmp_path):
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
    for index in range(4):
        ids = np.zeros((48, 64), np.uint8)
        ids[10:30, 4 + 4 * index : 24 + 4 * index] = 1
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), ids)
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), 90 + 100 * ids)
    (tmp_path / "here").mkdir()
    # Nobody answers there: whoever touches the user's database fails.
    users = {"FIFTYONE_DATABASE_URI": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300", "TMPDIR": str(tmp_path)}
    script = "import sys; from labelprop_cvat.cli import main; sys.exit(main())"
    words = ["demo", "--frames", "../frames", "--masks", "../masks", "--engine", "hold", "--exemplars", "every:3"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=tmp_path / "here",
        env={**os.environ, **users},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "demo-output" / "propagated.webm").exists()
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["demo-output"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "here", "masks"]
    assert "exited with error" not in done.stderr


def test_masks_without_an_object_are_a_sentence(tmp_path: Path) -> None:
    for folder, pixels in (("frames", np.full((40, 60, 3), 90, np.uint8)), ("masks", np.zeros((40, 60), np.uint8))):
        (tmp_path / folder).mkdir()
        for number in range(3):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels)
    footage = frames_footage(tmp_path / "frames", tmp_path / "masks", {})
    with pytest.raises(DataError, match="every pixel is 0"):
        run_demo(footage, tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_there_is_refused_before_anything_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--engine", "flwo", "--output", str(tmp_path / "out")]) == 1
    assert "flwo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
