"""``frame_start``, ``frame_stop`` and ``frame_step``: which frames may be exemplars."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.storage import normalize_path

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import every_sample

logger = logging.getLogger(__name__)

_SMALLEST = {"frame_start": 0, "frame_stop": 0, "frame_step": 1}


@dataclass(frozen=True)
class FrameLimits:
    """Which frames of each sequence people may be asked to annotate; the others are only filled.

    Each limit is a whole number for all sequences, a list whose values are dealt out to the sequences in turn, or a
    dict by the path of the video or of one of the images; None, also in a list or dict, is no limit. Frames count from
    0: those of a video from its beginning whatever the view shows of it, images by their place in the sequence.

    Args:
        start: the first frame
        stop: the last frame, inclusive
        step: each so-many-th frame from ``start`` on, from 1

    Raises:
        ConfigurationError: something else than a whole number was given, or too small a one
    """

    start: Any = None
    stop: Any = None
    step: Any = None

    def __post_init__(self) -> None:
        for name, value in self._by_name().items():
            for entry in _entries(name, value):
                if entry is None:
                    continue
                if isinstance(entry, bool) or not isinstance(entry, Integral) or entry < _SMALLEST[name]:
                    raise ConfigurationError(
                        f"{name} is a whole number from {_SMALLEST[name]}, a list of such or a dict by file path, got "
                        f"{value!r}."
                    )

    def check_paths(self, dataset: fo.Dataset, media_field: str) -> None:
        """Checks that the file paths of dicts are those of samples.

        Args:
            dataset: the source dataset; samples outside of a view may have limits too
            media_field: the field that holds the files' paths, beside ``filepath``

        Raises:
            ConfigurationError: no sample has one of the paths
        """
        given = [(name, value) for name, value in self._by_name().items() if isinstance(value, Mapping) and value]
        if not given:
            return
        view = every_sample(dataset)
        known: set[str] = set()
        for field in {"filepath", media_field}:
            if view.get_field(field) is not None and not field.startswith("frames."):
                known.update(path for path in view.match(F(field) != None).values(field) if path)  # noqa: E711
        known = {normalize_path(path) for path in known}
        for name, value in given:
            for path in value:
                if not isinstance(path, str) or normalize_path(path) not in known:
                    close = get_close_matches(normalize_path(str(path)), known, n=1, cutoff=0.5)
                    hint = f" Did you mean {close[0]!r}?" if close else ""
                    raise ConfigurationError(
                        f"{name} has a value for {path!r}, and no sample of {dataset.name!r} has that file.{hint}"
                    )

    def allowed(self, dataset: fo.Dataset, sequence: FrameSequence, number: int) -> frozenset[int] | None:
        """The positions of a sequence that may be exemplars; None when all may.

        Args:
            dataset: the source dataset
            sequence: one of the view's
            number: its place among them, from 0
        """
        if self.start is None and self.stop is None and self.step is None:
            return None
        paths = self._paths(dataset, sequence)
        start, stop, step = (_value(value, number, paths) for value in self._by_name().values())
        numbers = [
            position if ref.frame_number is None else ref.frame_number - 1
            for position, ref in enumerate(sequence.frames)
        ]
        first, last = start or 0, numbers[-1] if stop is None else stop
        positions = frozenset(
            position for position, at in enumerate(numbers) if first <= at <= last and (at - first) % (step or 1) == 0
        )
        if not positions:
            logger.warning(
                "frame_start=%s, frame_stop=%s and frame_step=%s leave no frame of %s, whose frames are %d to %d; "
                "nobody is asked to annotate it.",
                start,
                stop,
                step,
                sequence.name,
                numbers[0],
                numbers[-1],
            )
        return positions

    def _by_name(self) -> dict[str, Any]:
        return {"frame_start": self.start, "frame_stop": self.stop, "frame_step": self.step}

    def _paths(self, dataset: fo.Dataset, sequence: FrameSequence) -> set[str]:
        if not any(isinstance(value, Mapping) for value in self._by_name().values()):
            return set()
        own = every_sample(dataset).select(list(sequence.sample_ids)).values("filepath")
        return {normalize_path(path) for path in (*own, *sequence.filepaths) if path}


def _entries(name: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ConfigurationError(f"{name} is an empty list. Leave it out where there is no limit.")
        return list(value)
    return [value]


def _value(value: Any, number: int, paths: set[str]) -> int | None:
    if isinstance(value, Mapping):
        found = [entry for path, entry in value.items() if normalize_path(path) in paths]
        value = found[0] if found else None
    elif isinstance(value, Sequence):
        value = value[number % len(value)]
    return None if value is None else int(value)


__all__ = ["FrameLimits"]
