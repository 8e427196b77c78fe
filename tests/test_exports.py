"""The names that others may rely on: adding one is a decision, losing one is a break."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import labelprop_cvat

# Changing a line here changes what users' scripts and other people's engines can import: say so in the changelog.
PROMISED = {
    "errors": ["ConfigurationError", "DataError", "EngineError", "LabelPropError", "RunInUse"],
    "propagation.types": [
        "BoolArray",
        "Box",
        "FrameObjects",
        "ObjectMask",
        "ObjectState",
        "Point",
        "Prompt",
        "PromptKind",
        "Ring",
        "Segment",
        "rasterize",
    ],
    "propagation.propagator": [
        "ENTRY_POINT_GROUP",
        "Propagator",
        "PropagatorFactory",
        "PropagatorSpec",
        "check_option_names",
        "check_prompts",
        "get_propagator",
        "propagator_names",
        "register_propagator",
    ],
    "evaluation": [
        "SCHEMA",
        "SCHEMA_VERSION",
        "Curve",
        "CurvePoint",
        "DistanceRow",
        "Evaluation",
        "ObjectFrames",
        "ObjectResult",
        "Sample",
        "Scores",
        "SegmentResult",
        "SequenceResult",
    ],
    "backend.labelprop": ["JOB_STATES", "LabelPropBackend", "LabelPropBackendConfig", "LabelPropResults"],
    "backend.local_cvat": ["DEFAULT_PORT", "Faults", "LocalCVAT", "serve"],
    "backend.api": ["LabelPropAPI"],
    "backend.credentials": ["Connection", "configured_verify", "resolve_connection", "resolve_url"],
    "registration": [
        "BACKEND",
        "CONFIG_CLASS",
        "Registration",
        "config_path",
        "is_registered_in_file",
        "read_config",
        "register",
        "write_registration",
    ],
}
# At least these; more may come.
VERBS = {
    "workflow": {"evaluate", "propagate", "segment", "select"},
    "sequences": {"segments_of", "sequences_of", "write_segments"},
}


def public_modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(labelprop_cvat.__path__, "labelprop_cvat.")]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names(name):
    module = importlib.import_module(f"labelprop_cvat.{name}")
    assert sorted(module.__all__) == sorted(PROMISED[name])


@pytest.mark.parametrize("name", VERBS)
def test_verbs(name):
    assert set(importlib.import_module(f"labelprop_cvat.{name}").__all__) >= VERBS[name]


@pytest.mark.parametrize("name", public_modules())
def test_every_exported_name_exists(name):
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), f"{name} exports {exported}, which it does not have"


# Nobody imports the inside of the local server: its public names are those of the package.
@pytest.mark.parametrize("name", [name for name in public_modules() if ".local_cvat." not in name])
def test_every_exported_name_is_documented(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", ())
    assert not exported or inspect.getdoc(module), f"{name} does not say what it is"
    for value in (getattr(module, exported_name) for exported_name in exported):
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{name}.{value.__name__} does not say what it is"


def test_the_engines_are_known_without_importing_them_one_by_one():
    from labelprop_cvat.propagation.propagator import get_propagator, propagator_names

    assert {"flow", "hold", "interpolate"} <= set(propagator_names())
    for name in ("flow", "hold", "interpolate"):
        assert get_propagator(name).spec.name == name
