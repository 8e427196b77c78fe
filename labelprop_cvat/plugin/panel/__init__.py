"""The panel "Label Propagation": where a dataset stands in the loop, and a button for every step of it."""

from labelprop_cvat.plugin.panel._panel import LabelPropagationPanel

OPERATORS = (LabelPropagationPanel,)

__all__ = ["OPERATORS", "LabelPropagationPanel"]
