"""How FiftyOne comes to know the backend, and where the login comes from."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import fiftyone.core.config as foc
import pytest

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.registration import (
    CONFIG_CLASS,
    config_path,
    is_registered_in_file,
    register,
    write_registration,
)

VARIABLES = ("FIFTYONE_ANNOTATION_BACKENDS", "FIFTYONE_LABELPROP_CONFIG_CLS", "FIFTYONE_ANNOTATION_DEFAULT_BACKEND")


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """FiftyOne's annotation config of this test; does not exist yet."""
    path = tmp_path / "settings" / "annotation_config.json"
    monkeypatch.setenv("FIFTYONE_ANNOTATION_CONFIG_PATH", str(path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def seen_by_fiftyone(first: str, file: Path, **environ: str) -> dict:
    """What FiftyOne's annotation config holds in a fresh process that runs ``first``."""
    inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    code = (
        f"{first}\nimport json, fiftyone as fo\n"
        "print('>' + json.dumps([fo.annotation_config.backends, fo.annotation_config.default_backend]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, "FIFTYONE_ANNOTATION_CONFIG_PATH": str(file), **environ},
    )
    backends, default = json.loads(done.stdout.rsplit(">", 1)[1])
    return {**backends, "default": default}


def loaded_by_fiftyone() -> dict:
    """What FiftyOne makes of the settings that are here now, as it does when it is imported."""
    config = foc.load_annotation_config()
    return {**config.backends, "default": config.default_backend}


MINE = {"config_cls": "my.annotation.Config", "url": "http://mine"}


def test_importing_before_fiftyone_registers_and_hides_nobody(file):
    write(file, {"default_backend": "mine", "backends": {"mine": MINE, "cvat": {"url": "http://cvat.here"}}})
    seen = seen_by_fiftyone("import labelprop_cvat", file, FIFTYONE_LABELPROP_SEGMENT_SIZE="7")
    assert seen["labelprop"] == {"config_cls": CONFIG_CLASS, "segment_size": 7}
    assert seen["mine"] == MINE
    assert seen["default"] == "mine"
    assert seen["cvat"]["url"] == "http://cvat.here"
    assert {"labelbox", "labelstudio"} <= set(seen)


def test_importing_after_fiftyone_registers_with_the_settings_of_the_environment(file):
    write(file, {"backends": {"mine": MINE}})
    seen = seen_by_fiftyone(
        "import fiftyone, labelprop_cvat",
        file,
        FIFTYONE_LABELPROP_URL="http://labelprop.here",
        FIFTYONE_ANNOTATION_DEFAULT_BACKEND="labelprop",
    )
    assert seen["labelprop"] == {"config_cls": CONFIG_CLASS, "url": "http://labelprop.here"}
    assert seen["default"] == "labelprop"
    assert seen["mine"] == MINE
    assert seen["cvat"]["url"] == "https://app.cvat.ai"


def test_the_file_registers_for_processes_that_never_import_this_package(file):
    write(file, {"backends": {"mine": MINE}, "default_backend": "mine"})
    assert not is_registered_in_file()
    assert write_registration().changed
    assert is_registered_in_file()
    seen = loaded_by_fiftyone()
    assert seen["labelprop"] == {"config_cls": CONFIG_CLASS}
    assert seen["mine"] == MINE
    assert seen["default"] == "mine"


def test_the_variables_alone_register(file, monkeypatch):
    assert "labelprop" not in loaded_by_fiftyone()
    monkeypatch.setenv("FIFTYONE_ANNOTATION_BACKENDS", "*,labelprop")
    monkeypatch.setenv("FIFTYONE_LABELPROP_CONFIG_CLS", CONFIG_CLASS)
    seen = loaded_by_fiftyone()
    assert seen["labelprop"] == {"config_cls": CONFIG_CLASS}


@pytest.mark.parametrize(
    ("listed", "in_file", "expected"),
    [
        (None, [], "*,labelprop"),
        ("", [], "*,labelprop"),
        (None, ["mine", "cvat"], "*,mine,cvat,labelprop"),
        ("cvat", ["mine"], "cvat,labelprop"),
        ("*,other", [], "*,other,labelprop"),
        ("*,labelprop", [], "*,labelprop"),
        (None, ["labelprop", "mine"], None),
    ],
)
def test_the_list_of_names_is_extended(file, listed, in_file, expected):
    if in_file:
        write(file, {"backends": {name: {"config_cls": "x.Y"} for name in in_file}})
    environ = {} if listed is None else {"FIFTYONE_ANNOTATION_BACKENDS": listed}
    register(environ)
    assert environ.get("FIFTYONE_ANNOTATION_BACKENDS") == expected
    before = dict(environ)
    register(environ)
    assert environ == before


def test_a_class_of_the_users_own_is_kept(file):
    environ = {"FIFTYONE_LABELPROP_CONFIG_CLS": "my.own.Config"}
    register(environ)
    assert environ["FIFTYONE_LABELPROP_CONFIG_CLS"] == "my.own.Config"
    write(file, {"backends": {"labelprop": {"config_cls": "my.own.Config"}}})
    environ = {}
    register(environ)
    assert environ == {}


def test_a_malformed_file_never_breaks_an_import(file):
    write(file, "{broken")
    environ: dict[str, str] = {}
    register(environ)
    assert environ["FIFTYONE_ANNOTATION_BACKENDS"] == "*,labelprop"


def test_registering_keeps_everything_else_and_unregistering_brings_it_back(file):
    before = {"default_backend": "mine", "backends": {"mine": MINE}, "unknown": [1, {"two": None}]}
    write(file, before)
    file.chmod(0o640)
    assert write_registration().changed
    assert json.loads(file.read_text()) == {
        **before,
        "backends": {"mine": MINE, "labelprop": {"config_cls": CONFIG_CLASS}},
    }
    assert not write_registration().changed
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert write_registration(remove=True).changed
    assert json.loads(file.read_text()) == before
    assert not write_registration(remove=True).changed
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_registering_makes_the_file_for_its_owner_alone(file):
    assert config_path() == file
    assert write_registration().changed
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_unregistering_names_the_settings_that_go(file):
    write(file, {"backends": {"labelprop": {"config_cls": CONFIG_CLASS, "url": "http://a", "password": "hush"}}})
    done = write_registration(remove=True)
    assert done.dropped == ("password", "url")
    assert "hush" not in repr(done)


def test_a_link_stays_a_link(file, tmp_path):
    real = tmp_path / "dotfiles.json"
    write(real, {"backends": {}})
    file.parent.mkdir(parents=True)
    file.symlink_to(real)
    write_registration()
    assert file.is_symlink()
    assert is_registered_in_file(real)


@pytest.mark.parametrize("text", ["{broken", "[]", '{"backends": []}', '{"backends": {"cvat": 3}}', "\xff"])
def test_a_malformed_file_is_refused_and_left_as_it_is(file, text):
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"annotation_config\.json"):
        write_registration()
    assert file.read_bytes() == text.encode("latin-1")


def test_a_folder_that_cannot_be_written_is_named(file):
    file.parent.write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot be"):
        write_registration()
