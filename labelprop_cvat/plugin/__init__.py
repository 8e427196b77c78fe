"""The plugin of the FiftyOne App: operators for every step of the loop, and the panel that shows where it is.

FiftyOne loads this file under a name of its own, so everything comes from the installed package; and not before it is
needed, as the command line imports this package as well.
"""

from __future__ import annotations

from typing import Any


def register(plugin: Any) -> None:
    """Called by FiftyOne with the context of the plugin."""
    from importlib import import_module
    from importlib.util import find_spec

    for name in ("segmentation", "propagation", "requesting", "runs", "evaluation", "panel"):
        # TODO: plain imports, once all of them are there
        if find_spec(f"labelprop_cvat.plugin.{name}") is not None:
            for part in getattr(import_module(f"labelprop_cvat.plugin.{name}"), "OPERATORS", ()):
                plugin.register(part)
