"""The plugin of the FiftyOne App: operators for every step of the loop, and the panel that shows where it is.

FiftyOne loads this file under a name of its own, so everything comes from the installed package; and not before it is
needed, as the command line imports this package as well.
"""

from __future__ import annotations

from typing import Any


def register(plugin: Any) -> None:
    """Called by FiftyOne with the context of the plugin."""
    from labelprop_cvat.plugin import evaluation, panel, propagation, requesting, runs, segmentation, stopping

    for module in (segmentation, propagation, requesting, runs, evaluation, stopping, panel):
        for operator in module.OPERATORS:
            plugin.register(operator)
