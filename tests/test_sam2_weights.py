"""Which models there are, and where their checkpoints are looked for."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.sam2.weights import (
    MODELS,
    ModelInfo,
    cache_folder,
    checkpoint_places,
    find_checkpoint,
    model_info,
)

TINY = MODELS["sam2.1_hiera_tiny"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with no files and no settings."""
    for name in (
        "FIFTYONE_MODEL_ZOO_DIR",
        "FIFTYONE_DEFAULT_DATASET_DIR",
        "FIFTYONE_CONFIG_PATH",
        "XDG_CACHE_HOME",
        "TORCH_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put(path: Path, info: ModelInfo = TINY, length: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(info.size_bytes if length is None else length)
    return path


def test_the_eight_published_models():
    assert [info.name for info in MODELS.values()] == list(MODELS)
    assert {(info.version, info.size) for info in MODELS.values()} == {
        (version, size) for version in ("2.0", "2.1") for size in ("tiny", "small", "base_plus", "large")
    }
    assert len({info.sha256 for info in MODELS.values()}) == len({info.size_bytes for info in MODELS.values()}) == 8
    for info in MODELS.values():
        assert len(info.sha256) == 64
        assert set(info.sha256) <= set("0123456789abcdef")
        assert info.url.startswith("https://")
        assert info.url.endswith(f"/{info.file_name}")
        assert info.file_name == f"{info.name}.pt"


def test_they_are_those_that_fiftyone_knows():
    import fiftyone.zoo.models as fozm

    zoo = {
        model.base_name: model
        for model in fozm._load_zoo_models_manifest()[0].models
        if model.base_name.startswith("segment-anything-2")
    }
    assert set(zoo) == {name for info in MODELS.values() for name in info.zoo_names}
    for info in MODELS.values():
        for name in info.zoo_names:
            listed = zoo[name]
            assert listed.manager.config.url == info.url
            # The zoo lists the length of the tiny 2.0 for the tiny 2.1 as well.
            wrong = info.name == "sam2.1_hiera_tiny"
            assert (listed.size_bytes == info.size_bytes) != wrong
            places = [path.name for path in checkpoint_places(info)]
            assert listed.base_filename in places


def test_they_are_those_that_the_package_knows():
    sam2 = pytest.importorskip("sam2", reason="the sam2 package is not installed")
    from omegaconf import OmegaConf
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    for hub_id, (config, file_name) in HF_MODEL_ID_TO_FILENAMES.items():
        info = model_info(hub_id)
        assert (info.config, info.file_name) == (config, file_name)
        model = OmegaConf.load(Path(sam2.__path__[0]) / config).model
        assert bool(model.get("no_obj_embed_spatial")) == (info.version == "2.1")
    assert len(HF_MODEL_ID_TO_FILENAMES) == len(MODELS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sam2.1_hiera_tiny", "sam2.1_hiera_tiny"),
        ("sam2_hiera_large", "sam2_hiera_large"),
        ("tiny", "sam2.1_hiera_tiny"),
        ("small", "sam2.1_hiera_small"),
        ("base_plus", "sam2.1_hiera_base_plus"),
        ("base-plus", "sam2.1_hiera_base_plus"),
        ("base+", "sam2.1_hiera_base_plus"),
        ("b+", "sam2.1_hiera_base_plus"),
        ("large", "sam2.1_hiera_large"),
        ("facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny"),
        ("facebook/sam2-hiera-base-plus", "sam2_hiera_base_plus"),
        ("segment-anything-2.1-hiera-tiny-video-torch", "sam2.1_hiera_tiny"),
        ("segment-anything-2-hiera-base-plus-image-torch", "sam2_hiera_base_plus"),
        ("sam2.1_hiera_small.pt", "sam2.1_hiera_small"),
        ("sam2.1_hiera_b+", "sam2.1_hiera_base_plus"),
        (" SAM2.1_Hiera_Tiny ", "sam2.1_hiera_tiny"),
    ],
)
def test_the_names_that_people_use(name, meant):
    assert model_info(name) is MODELS[meant]


@given(st.one_of(st.text().map(lambda text: f"{text}?"), st.none(), st.integers(), st.lists(st.text())))
def test_any_other_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(ConfigurationError) as caught:
        model_info(name)
    assert all(known in str(caught.value) for known in MODELS)
    assert repr(name) in str(caught.value)


def test_nothing_is_there_at_first(home):
    assert find_checkpoint(TINY) is None


def places(home: Path) -> list[Path]:
    snapshot = home / ".cache" / "huggingface" / "hub" / "models--facebook--sam2.1-hiera-tiny" / "snapshots" / "abc"
    return [
        home / "fiftyone" / "__models__" / "sam2.1_hiera_tiny_video.pt",
        home / "fiftyone" / "__models__" / "sam2.1_hiera_tiny_image.pt",
        home / "fiftyone" / "__models__" / "sam2.1_hiera_tiny.pt",
        home / ".cache" / "torch" / "hub" / "checkpoints" / "sam2.1_hiera_tiny.pt",
        snapshot / "sam2.1_hiera_tiny.pt",
        home / ".cache" / "labelprop-cvat" / "sam2" / "sam2.1_hiera_tiny.pt",
    ]


def test_the_first_of_the_places_counts(home):
    for path in reversed(places(home)):
        put(path)
        assert find_checkpoint(TINY) == path
        for info in MODELS.values():
            assert info == TINY or find_checkpoint(info) is None
    assert checkpoint_places(TINY) == places(home)


def test_a_file_of_another_length_is_passed_over_and_said(home, caplog):
    first, *_, last = places(home)
    put(first, length=TINY.size_bytes - 1)
    assert find_checkpoint(TINY) is None
    put(last)
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint(TINY) == last
    assert f"{first} has 156008465 bytes" in caplog.text
    assert "checkpoint=" in caplog.text


def test_a_folder_of_that_name_is_passed_over(home, caplog):
    places(home)[0].mkdir(parents=True)
    assert find_checkpoint(TINY) is None
    assert caplog.text == ""


def test_the_environment_moves_the_places(home, monkeypatch):
    for name in ("zoo", "torch", "hub", "cache"):
        (home / name).mkdir()
    monkeypatch.setenv("FIFTYONE_MODEL_ZOO_DIR", "~/zoo")
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    snapshot = put(home / "hub" / "models--facebook--sam2.1-hiera-tiny" / "snapshots" / "abc" / TINY.file_name)
    assert checkpoint_places(TINY)[2:] == [
        home / "zoo" / TINY.file_name,
        home / "torch" / "hub" / "checkpoints" / TINY.file_name,
        snapshot,
        home / "cache" / "labelprop-cvat" / "sam2" / TINY.file_name,
    ]
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("HF_HUB_CACHE")
    assert checkpoint_places(TINY)[3:] == [
        home / "cache" / "torch" / "hub" / "checkpoints" / TINY.file_name,
        cache_folder() / TINY.file_name,
    ]
    monkeypatch.setenv("HF_HOME", str(home))
    assert find_checkpoint(TINY) == snapshot


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({}, {}),
        ({"model_zoo_dir": "~/mine"}, {}),
        ({"default_dataset_dir": "~/data"}, {}),
        ({"model_zoo_dir": None, "default_dataset_dir": None}, {}),
        ({"model_zoo_dir": "~/mine", "default_dataset_dir": "~/data"}, {}),
        ({"model_zoo_dir": "~/mine"}, {"FIFTYONE_MODEL_ZOO_DIR": "~/other"}),
        ({"model_zoo_dir": "~/mine"}, {"FIFTYONE_MODEL_ZOO_DIR": ""}),
        ({"model_zoo_dir": "~/mine"}, {"FIFTYONE_DEFAULT_DATASET_DIR": "~/elsewhere"}),
        ({}, {"FIFTYONE_DEFAULT_DATASET_DIR": "~/elsewhere"}),
        ({}, {"FIFTYONE_MODEL_ZOO_DIR": "relative/zoo"}),
    ],
)
def test_the_zoo_is_where_fiftyone_says(home, monkeypatch, settings, environment):
    from fiftyone.core.config import load_config

    path = home / "settings.json"
    path.write_text(json.dumps(settings))
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert checkpoint_places(TINY)[0].parent == Path(load_config().model_zoo_dir)


def test_the_settings_of_the_user_are_found_at_home(home):
    (home / ".fiftyone").mkdir()
    (home / ".fiftyone" / "config.json").write_text('{"model_zoo_dir": "~/zoo"}')
    assert find_checkpoint(TINY) is None
    assert find_checkpoint(TINY, put(home / "zoo" / "sam2.1_hiera_tiny_image.pt")) == find_checkpoint(TINY)


@pytest.mark.parametrize("text", ["{broken", "[]", '{"model_zoo_dir": 3}', "\x00"])
def test_settings_that_cannot_be_read_change_nothing(home, monkeypatch, text):
    path = home / "settings.json"
    path.write_text(text)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(path))
    assert checkpoint_places(TINY)[0].parent == home / "fiftyone" / "__models__"


def test_a_named_file_is_taken_as_it_is(home):
    path = put(home / "mine" / "tuned.pt", length=5)
    put(places(home)[0])
    assert find_checkpoint(TINY, str(path)) == path
    assert find_checkpoint(TINY, "~/mine/tuned.pt") == path


def test_a_named_file_that_is_missing_is_refused(home):
    put(places(home)[0])
    with pytest.raises(ConfigurationError) as caught:
        find_checkpoint(TINY, "~/mine/tuned.pt")
    for what in (str(home / "mine" / "tuned.pt"), "does not exist", TINY.file_name, TINY.url, "leave checkpoint out"):
        assert what in str(caught.value)


def test_a_folder_is_refused_with_what_is_in_it(home):
    put(home / "mine" / "tuned.pt", length=5)
    with pytest.raises(ConfigurationError, match=r"is a folder; it holds tuned\.pt\. .*: name the file itself"):
        find_checkpoint(TINY, home / "mine")
    (home / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"is a folder; no \.pt file is in it"):
        find_checkpoint(TINY, home / "empty")


def test_looking_for_a_file_imports_neither_torch_nor_fiftyone():
    code = (
        "import sys; from labelprop_cvat.propagation.sam2.weights import find_checkpoint, model_info; "
        "find_checkpoint(model_info('tiny')); "
        "sys.exit(', '.join({'torch', 'sam2', 'fiftyone', 'requests'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_documents_list_the_models():
    text = (Path(__file__).resolve().parents[1] / "docs" / "sam2.md").read_text()
    for info in MODELS.values():
        short = f"`{info.size}`" if info.version == "2.1" else ""
        row = f"| `{info.name}` | {short} | {info.size_bytes / 1e6:.0f} MB | `{info.sha256[:8]}` |"
        assert row.replace("|  |", "| |") in text, row
    assert TINY.url in text
    assert TINY.sha256 in text
