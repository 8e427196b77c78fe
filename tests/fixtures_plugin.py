"""The App's plugin, installed for the tests, and its operators called as scripts and as the App call them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators.executor import ExecutionContext, Executor
from fiftyone.operators.registry import OperatorRegistry

from labelprop_cvat.plugin.installing import PLUGIN, install


@pytest.fixture(scope="session")
def plugin() -> str:
    """Has the plugin installed in the tests' own plugins directory; its name."""
    install()
    return PLUGIN


def uri(name: str) -> str:
    """The URI of an operator, or of the panel, of the plugin."""
    return f"{PLUGIN}/{name}"


def operator(name: str) -> Any:
    """The operator as FiftyOne registered it."""
    found = OperatorRegistry().get_operator(uri(name))
    assert found is not None, OperatorRegistry().list_errors()
    return found


def run_operator(name: str, samples: Any, /, **params: Any) -> dict[str, Any]:
    """Runs an operator as a script does and returns its result; ``ctx`` entries such as ``selected`` go in ``_ctx``."""
    extra = params.pop("_ctx", {})
    result = foo.execute_operator(uri(name), {**_collection(samples), **extra}, params=params)
    return result.result


def context(name: str, samples: Any, /, **params: Any) -> ExecutionContext:
    """A context such as the App makes one; ``_ctx`` goes into the request itself."""
    extra = params.pop("_ctx", {})
    view = samples if isinstance(samples, fo.DatasetView) else None
    request = {
        "dataset_name": samples._root_dataset.name,
        "operator_uri": uri(name),
        "params": params,
        "view": None if view is None else view._serialize(),
        **extra,
    }
    return ExecutionContext(request, executor=Executor(), operator_uri=uri(name))


def form(name: str, samples: Any, /, **params: Any) -> dict[str, Any]:
    """The inputs of an operator by name, as the App gets them: JSON."""
    found = operator(name).resolve_type(context(name, samples, **params), "inputs")
    answer: dict[str, Any] = json.loads(json.dumps(found.to_json()))["type"]["properties"]
    return answer


def complaints(name: str, samples: Any, /, **params: Any) -> dict[str, str]:
    """What a form says is wrong, by input."""
    inputs = form(name, samples, **params)
    return {key: entry["error_message"] for key, entry in inputs.items() if entry["invalid"]}


def streamed(name: str, samples: Any, /, **params: Any) -> list[tuple[str, dict[str, Any]]]:
    """Runs an operator as the App does at once: what it is told, one ``(operator, params)`` a message."""
    stream = operator(name).execute(context(name, samples, **params))
    lines = [json.loads(message.to_json_line()) for message in stream]
    return [(line["body"]["operator_uri"], line["body"]["params"]) for line in lines]


def choice_values(entry: dict[str, Any]) -> Sequence[Any]:
    """The values that an input offers."""
    return [choice["value"] for choice in entry["view"]["choices"]]


def _collection(samples: Any) -> dict[str, Any]:
    return {"view": samples} if isinstance(samples, fo.DatasetView) else {"dataset": samples}
