"""The curve that cuts were read from, as a picture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.segments._detector import Scores
from labelprop_cvat.propagation.segments._manager import Segmentation

PLOT_SUFFIXES = (".png", ".svg")

_CURVE, _BAR, _CUT = "#1f5a94", "#c8621b", "#b3b3b3"


def plot_segmentation(segmentation: Segmentation, path: str | Path, *, title: str = "", first: int = 0) -> None:
    """Draws every metric that decides over the frames, the bar that it was compared to, and the cuts.

    Args:
        segmentation: what :func:`score_frames` found
        path: the picture, ``.png`` or ``.svg``; replaced where it exists, its folder made where it does not
        title: above the picture
        first: the number that the first frame goes by: 0 as positions do, 1 as FiftyOne's frame numbers do

    Raises:
        ConfigurationError: nothing was measured, the name ends otherwise, or matplotlib is not installed
        DataError: the picture cannot be written
    """
    if not segmentation.bars:
        raise ConfigurationError(
            f"The segmentation method {segmentation.method!r} measures nothing that could be drawn. Take a method that "
            f"does, as 'auto', or leave the plot out."
        )
    path = Path(path)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigurationError(f"Plots are written as {' or '.join(PLOT_SUFFIXES)}, got {path.name!r}.")
    try:
        # Imported here: it takes half a second. Figure rather than pyplot, which would change a notebook's settings.
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigurationError("Plots need matplotlib: pip install matplotlib.") from error
    names = list(segmentation.bars)
    figure = figures.Figure(figsize=(12, 1 + 2.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        _draw(axis, name, segmentation, first)
    axes[0].legend(loc="upper right", ncols=3, frameon=False)
    axes[-1].set_xlabel("frame")
    if title:
        # Names of files and fields may hold what matplotlib takes for mathematics.
        figure.suptitle(title.replace("$", r"\$"), fontsize="medium")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise DataError(f"The plot {path} cannot be written: {error.strerror or error}. Name another place.") from error


def _draw(axis: Any, name: str, segmentation: Segmentation, first: int) -> None:
    scores = _at_its_cut(segmentation, name)
    frames = np.arange(len(scores)) + first
    for number, cut in enumerate(segmentation.cuts):
        axis.axvline(cut + first, color=_CUT, linewidth=1, label="cut" if number == 0 else None)
    axis.plot(frames, scores, color=_CURVE, linewidth=1.2, label="measured")
    bar: Scores = np.where(np.isfinite(segmentation.bars[name]), segmentation.bars[name], np.nan)
    axis.plot(frames, bar, color=_BAR, linewidth=1, linestyle="--", label="needed for a cut")
    axis.set_ylabel(name)
    axis.set_ylim(bottom=0)
    axis.margins(x=0.01)
    axis.spines[["top", "right"]].set_visible(False)


def _at_its_cut(segmentation: Segmentation, name: str) -> Scores:
    """Scores of windows where the new shot would begin, the best of each frame, instead of where the windows end."""
    scores = segmentation.scores[name]
    back = segmentation.scores.get(f"{name}_back")
    if back is None:
        return scores
    moved: Scores = np.zeros_like(scores)
    np.maximum.at(moved, np.arange(len(scores)) - back.astype(int), scores)
    return moved


__all__ = ["PLOT_SUFFIXES", "plot_segmentation"]
