"""Reading checkpoints: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.sam2.weights import MODELS, check_state, model_info, read_state, recognise

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

TINY = MODELS["sam2.1_hiera_tiny"]
# Of the image encoder, where a model's settings name none.
DEFAULT_STAGES = (2, 3, 16, 3)
Shapes = dict[str, tuple[int, ...]]


def weights() -> dict[str, torch.Tensor]:
    return {"encoder.weight": torch.arange(6.0).view(2, 3), "encoder.bias": torch.ones(2)}


def same(one, other) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuned.pt"


MARK = Path(tempfile.gettempdir()) / f"labelprop-was-here-{os.getpid()}"


class RunsCode:
    """What an attacker puts into a pickle."""

    def __reduce__(self):
        return Path.touch, (MARK,)


class Unknown:
    """A class of somebody's training program."""


# --- what is taken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"model": weights()},
        {"model": OrderedDict(weights())},
        weights(),
        {"state_dict": weights()},
        {"model": {f"module.{name}": value for name, value in weights().items()}},
        {"state_dict": {f"model._orig_mod.{name}": value for name, value in weights().items()}},
        {
            "model": weights(),
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5}]},
            "epoch": 40,
            "steps": {"train": 12, "val": 3},
            "best_meter_values": {"J": np.float64(0.7), "seen": np.int64(5)},
            "losses": np.zeros(3, dtype=np.float32),
            "args": argparse.Namespace(lr=1e-5, name="mine"),
        },
    ],
    ids=["official", "ordered", "bare", "state_dict", "several devices", "compiled", "training run"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_layouts_that_are_read(path, content, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_state(path), weights())
    assert same(read_state(str(path)), weights())


def test_a_prefix_that_only_some_names_have_stays(path):
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save({"model": mixed}, path)
    assert same(read_state(path), mixed)


def test_the_file_is_mapped_not_copied(path):
    large = {"weight": torch.zeros(64 << 20, dtype=torch.uint8)}
    torch.save({"model": large}, path)
    code = """
import re, sys, torch
from pathlib import Path
from labelprop_cvat.propagation.sam2.weights import read_state

def own_memory():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

read_state(sys.argv[1])
before = own_memory()
state = read_state(sys.argv[1])
print(own_memory() - before, int(state["weight"].sum()))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    taken, total = done.stdout.split()
    assert int(taken) < 16 << 10, f"{taken} KiB; {done.stderr}"
    assert total == "0"


def test_safetensors(path, tmp_path):
    reader = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "tuned.safetensors"
    reader.save_file(weights(), path)
    assert {name: value.tolist() for name, value in read_state(path).items()} == {
        name: value.tolist() for name, value in weights().items()
    }
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigurationError, match="cut short or damaged: safetensors cannot read it"):
        read_state(path)


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "tuned.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConfigurationError, match="pip install safetensors"):
        read_state(path)


# --- what is refused -----------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_file(path):
    assert "cannot be read: No such file" in refusal(path)


def test_a_folder(tmp_path):
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><html><body>404", "is a web page"),
        (b"\n  <html lang='en'>", "is a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64, "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "is compressed"),
        (b"\x00" * 100, "is not a file of PyTorch"),
        (b"\x89PNG\r\n\x1a\n", "is not a file of PyTorch"),
        (json.dumps({"error": "not found"}).encode(), "is not a file of PyTorch"),
        (b"\x80\x02", "is cut short or damaged"),
        (b"PK\x03\x04", "is cut short or damaged"),
    ],
)
def test_something_else_under_the_name(path, start, said):
    path.write_bytes(start)
    message = refusal(path)
    assert said in message
    assert "Expected weights of SAM 2" in message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("lost", [1, 100, 0.5, 0.9])
def test_a_file_that_was_cut_short(path, zipped, lost):
    torch.save({"model": {"weight": torch.rand(1000)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: -lost if isinstance(lost, int) else int(len(whole) * (1 - lost))])
    message = refusal(path)
    assert "is cut short or damaged" in message
    assert f"({path.stat().st_size:,} bytes)" in message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize(
    "beside", [RunsCode(), Unknown(), defaultdict(list, a=[1])], ids=["code", "class", "defaultdict"]
)
def test_code_is_not_run(path, zipped, beside):
    torch.save({"model": weights(), "extra": beside}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert not MARK.exists()
    assert "holds more than weights (" in message
    assert "weights_only=False" in message


def test_the_advice_about_code_works(path, tmp_path):
    torch.save({"model": weights(), "extra": Unknown()}, path)
    command = refusal(path).partition('python -c "')[2].rstrip('"')
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {command}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
    assert same(read_state(tmp_path / "weights.pt"), weights())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_pytorch_did_not_write(path, protocol):
    with path.open("wb") as file:
        pickle.dump({"model": {"weight": np.zeros(3)}}, file, protocol=protocol)
    assert "Expected weights of SAM 2" in refusal(path)


def test_an_archive_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sam2/weights.bin", b"0" * 100)
    assert "an archive, but not one of PyTorch" in refusal(path)


def test_a_program(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    assert "a TorchScript program" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(3), "holds a Tensor, no weights by name"),
        ([weights()], "holds a list, no weights by name"),
        ({}, "at its top level: it is empty"),
        ({"model": {}}, "at its entry 'model': it is empty"),
        ({"model": {"weight": torch.zeros(1), "step": 3}}, "1 of 2 entries are no tensors: 'step' (int)"),
        ({"epoch": 3, "net": weights()}, "2 of 2 entries are no tensors: 'epoch' (int), 'net' (dict)"),
    ],
)
def test_no_weights_by_name(path, content, said):
    torch.save(content, path)
    assert said in refusal(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, dict[bool, bytes]]:
    path = tmp_path_factory.mktemp("damaged") / "tuned.pt"
    whole = {}
    for zipped in (True, False):
        torch.save({"model": weights(), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
        whole[zipped] = path.read_bytes()
    return path, whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(zipped=st.booleans(), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_refused_or_read_never_a_crash(saved, zipped, flips):
    path, whole = saved
    damaged = bytearray(whole[zipped])
    for place, change in flips:
        damaged[int(place * (len(damaged) - 1))] ^= change
    path.write_bytes(damaged)
    state = {}
    with contextlib.suppress(ConfigurationError):
        state = read_state(path)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


# --- which model they belong to ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, torch.Tensor]]:
    """What the constructors of the tiny models make."""
    pytest.importorskip("sam2", reason="the sam2 package is not installed")
    from labelprop_cvat.propagation.sam2.model import build_model

    return {
        name: build_model(model_info(name), image_size=256).state_dict()
        for name in ("sam2.1_hiera_tiny", "sam2_hiera_tiny")
    }


def shapes(state) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def encoder(channels: int, blocks: int, newer: bool) -> dict[str, torch.Tensor]:
    """The names and shapes that tell models apart."""
    state = {f"image_encoder.trunk.blocks.{n}.norm1.weight": torch.ones(channels) for n in range(blocks)}
    state["image_encoder.trunk.patch_embed.proj.weight"] = torch.ones(channels, 3, 7, 7)
    state["no_obj_ptr"] = torch.ones(1, 256)
    return {**state, "no_obj_embed_spatial": torch.ones(1, 64)} if newer else state


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_recognised_by_what_its_settings_make(name):
    sam2 = pytest.importorskip("sam2", reason="the sam2 package is not installed")
    from omegaconf import OmegaConf

    info = MODELS[name]
    trunk = OmegaConf.load(Path(sam2.__path__[0]) / info.config).model.image_encoder.trunk
    state = encoder(trunk.embed_dim, sum(trunk.get("stages", DEFAULT_STAGES)), info.version == "2.1")
    assert recognise(state) is info


def test_real_weights_are_recognised_and_fit(built):
    for name, state in built.items():
        assert recognise(state) is MODELS[name]
        check_state(state, shapes(state), MODELS[name], "file.pt")
        halved = {key: value.half() for key, value in state.items()}
        check_state(halved, shapes(state), MODELS[name], "file.pt")


@pytest.mark.parametrize(
    "state",
    [
        {},
        weights(),
        encoder(80, 12, newer=True),
        encoder(96, 13, newer=True),
        {"no_obj_ptr": torch.ones(1, 256)},
        {**encoder(96, 12, newer=True), "image_encoder.trunk.patch_embed.proj.weight": torch.ones(())},
        {"no_obj_ptr": torch.ones(1, 256), "image_encoder.trunk.patch_embed.proj.weight": torch.ones(96, 3, 7, 7)},
    ],
)
def test_other_weights_are_not_recognised(state):
    assert recognise(state) is None


def refused(state, expected: Shapes, info=TINY) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_state(state, expected, info, "tuned.pt")
    assert str(caught.value).startswith("tuned.pt")
    return str(caught.value)


@pytest.mark.parametrize(
    ("asked", "given"), [("sam2.1_hiera_tiny", "sam2_hiera_tiny"), ("sam2_hiera_tiny", "sam2.1_hiera_tiny")]
)
def test_the_wrong_version_is_named(built, asked, given):
    message = refused(built[given], shapes(built[asked]), MODELS[asked])
    assert f"holds the weights of {given}, but model={asked!r} was asked for" in message
    assert f"Pass model={given!r}, or model='auto'" in message
    assert message.endswith("takes what the checkpoint is.")


@pytest.mark.parametrize(
    ("channels", "blocks", "name"), [(96, 16, "small"), (112, 24, "base_plus"), (144, 48, "large")]
)
def test_the_wrong_size_is_named(built, channels, blocks, name):
    message = refused(encoder(channels, blocks, newer=True), shapes(built["sam2.1_hiera_tiny"]))
    assert f"model='sam2.1_hiera_{name}'" in message


def test_a_part_of_a_model_is_named_as_one(built):
    whole = built["sam2.1_hiera_tiny"]
    part = {name: value for name, value in whole.items() if name.startswith("image_encoder.")}
    assert recognise(part) is None
    message = refused(part, shapes(whole))
    assert "only a part of a SAM 2 model of size tiny. Expected all of sam2.1_hiera_tiny" in message
    assert f"missing: {len(whole) - len(part)} of {len(whole)} tensors (" in message
    assert "unknown" not in message


def test_a_changed_model_is_named_as_one(built):
    whole = built["sam2.1_hiera_tiny"]
    message = refused({**whole, "class_head.weight": torch.ones(3)}, shapes(whole))
    assert "holds weights of sam2.1_hiera_tiny, but not exactly those" in message
    assert "In detail, unknown: 1 (class_head.weight)." in message


def test_what_differs_is_listed():
    state = {**weights(), "head.weight": torch.ones(1)}
    expected = {"encoder.weight": (2, 4), "encoder.bias": (2,), **{f"memory.{n}": (1,) for n in range(5)}}
    message = refused(state, expected)
    assert "does not hold weights of SAM 2" in message
    assert "missing: 5 of 7 tensors (memory.0, memory.1, memory.2 and 2 more)" in message
    assert "unknown: 1 (head.weight)" in message
    assert "of another shape: 1 (encoder.weight: (2, 4) expected, (2, 3) found)" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vision_encoder.backbone.blocks.0.attn.proj.weight", "in the layout of Hugging Face Transformers"),
        ("image_encoder.blocks.0.norm1.weight", "of the first Segment Anything"),
    ],
)
def test_relatives_are_named(name, said):
    message = refused({name: torch.ones(1)}, {"a": (1,)})
    assert said in message
    assert TINY.url in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused(value, kind):
    state = {"a": torch.ones(3), "b": torch.tensor([1.0, value, 2.0], dtype=kind)}
    assert "b holds values that are no finite numbers" in refused(state, {"a": (3,), "b": (3,)})


def test_whole_numbers_are_refused():
    message = refused({"a": torch.ones(3, dtype=torch.int8)}, {"a": (3,)})
    assert "a holds int8, expected floating-point numbers" in message
