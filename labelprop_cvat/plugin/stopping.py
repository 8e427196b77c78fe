"""The operator behind the buttons that stop a step."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from labelprop_cvat.plugin._activity import request_stop
from labelprop_cvat.plugin._steps import STOP, Context


class StopStep(foo.Operator):
    """Asks the step that works on the dataset to stop."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name=STOP,
            label="Stop the running step",
            description="What is finished stays, the rest is as it was",
            risk_level=types.RiskLevel.LOW,
        )

    def execute(self, ctx: Context) -> dict[str, Any]:
        stopping = None if ctx.dataset is None else request_stop(ctx.dataset)
        if stopping is None:
            message = "Nothing runs on this dataset, so there is nothing to stop."
        else:
            message = f"{stopping.label} stops as soon as it can; what is finished stays."
        ctx.ops.notify(message, variant="info")
        return {"message": message}


OPERATORS = (StopStep,)

__all__ = ["OPERATORS", "StopStep"]
