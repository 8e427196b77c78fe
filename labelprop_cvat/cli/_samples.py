"""Datasets, views and runs by name, and what is shown of their temporal segments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from labelprop_cvat.cli._answers import meant
from labelprop_cvat.errors import ConfigurationError

_SHOWN_NAMES = 20
_SHOWN_ROWS = 60
_EXEMPLAR = 0.5


def dataset_of(options: argparse.Namespace) -> Any:
    """The dataset that is named.

    Raises:
        ConfigurationError: there is none of this name; the sentence names those that there are
    """
    import fiftyone as fo

    if not fo.dataset_exists(options.dataset):
        known = fo.list_datasets()
        raise ConfigurationError(
            f"There is no dataset {options.dataset!r} in FiftyOne's database; it has: {_listed(known)}."
            f"{meant(options.dataset, known)} One that was made without persistent=True is gone with the process that "
            f"made it."
        )
    return fo.load_dataset(options.dataset)


def samples_of(options: argparse.Namespace) -> Any:
    """The dataset, or the saved view of it that is named.

    Raises:
        ConfigurationError: there is none of this name
    """
    dataset = dataset_of(options)
    if options.view is None:
        return dataset
    if not dataset.has_saved_view(options.view):
        known = dataset.list_saved_views()
        raise ConfigurationError(
            f"The dataset {dataset.name!r} has no saved view {options.view!r}; it has: {_listed(known)}."
            f"{meant(options.view, known)}"
        )
    return dataset.load_saved_view(options.view)


def check_run(dataset: Any, key: str) -> None:
    """Raises a :class:`ConfigurationError` with the name that was meant, where a run's is misspelled."""
    known = dataset.list_annotation_runs()
    hint = meant(key, known)
    if key not in known and hint:
        raise ConfigurationError(
            f"The dataset {dataset.name!r} has no annotation run {key!r}; it has: {_listed(known)}.{hint}"
        )


def results_of(options: argparse.Namespace, **login: Any) -> Any:
    """The results of the run that is named, which connect with a login."""
    from labelprop_cvat import workflow

    dataset = dataset_of(options)
    check_run(dataset, options.run_key)
    return workflow.run_results(dataset, options.run_key, **login)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (", ".join(names[:_SHOWN_NAMES]) or "none") + more


def segment_rows(samples: Any, segments_field: str, sort_field: str | None) -> list[dict[str, Any]]:
    """One row for each stored temporal segment.

    Returns:
        dicts with ``sequence``, ``segment``, ``first`` and ``last`` (frame numbers on videos, places from 1 on images;
        inclusive), ``frames`` (how many), ``exemplars`` (likewise numbers; those whose score says so)
    """
    from labelprop_cvat.sequences import segments_of, sequences_of

    rows = []
    for sequence in sequences_of(samples, sort_field=sort_field):
        numbers = [ref.frame_number or place for place, ref in enumerate(sequence.frames, start=1)]
        for entry in segments_of(sequence, samples, segments_field, method="none"):
            scored = zip(entry.segment.frames, entry.exemplar_scores, strict=True)
            rows.append(
                {
                    "sequence": sequence.name,
                    "segment": entry.label,
                    "first": numbers[entry.segment.start],
                    "last": numbers[entry.segment.stop - 1],
                    "frames": len(entry.segment),
                    "exemplars": [numbers[at] for at, score in scored if score is not None and score >= _EXEMPLAR],
                }
            )
    return rows


def show_rows(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str], numbers: Sequence[str] = ()) -> None:
    """Prints a table that fits where it is printed; of a long one, the beginning.

    Args:
        title: above it
        rows: values by column; lists are shown as such
        columns: which of them
        numbers: columns whose values end at the same place
    """
    from labelprop_cvat.backend.status import console, fitting_table, shown

    if not rows:
        return
    out = console()
    cells = [[shown(_text(row[column])) for column in columns] for row in rows[:_SHOWN_ROWS]]
    headings = [column.removesuffix("_id") for column in columns]
    out.print(fitting_table(out, title, headings, cells, numbers=numbers))
    if len(rows) > _SHOWN_ROWS:
        out.print(f"... and {len(rows) - _SHOWN_ROWS} more, which --json shows.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
