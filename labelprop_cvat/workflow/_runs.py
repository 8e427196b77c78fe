"""Runs of this backend, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fiftyone as fo

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.registration import BACKEND

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults


def check_run(dataset: fo.Dataset, anno_key: str) -> None:
    """Checks that a dataset has a run of this backend.

    Raises:
        ConfigurationError: there is no such run, or another backend made it
    """
    if anno_key not in dataset.list_annotation_runs():
        known = ", ".join(dataset.list_annotation_runs()) or "none"
        raise ConfigurationError(f"The dataset {dataset.name!r} has no annotation run {anno_key!r}; it has: {known}.")
    method = dataset.get_annotation_info(anno_key).config.method
    if method != BACKEND:
        raise ConfigurationError(f"The run {anno_key!r} was made by the backend {method!r}, not {BACKEND!r}.")


def run_results(dataset: fo.Dataset, anno_key: str, **login: Any) -> LabelPropResults:
    """The results of a run, which connect with the login that is given.

    Raises:
        ConfigurationError: there is no such run, or another backend made it
        DataError: nothing of it was written down
    """
    check_run(dataset, anno_key)
    results: LabelPropResults | None = dataset.load_annotation_results(anno_key, **login)
    if results is None:
        raise DataError(
            f"The run {anno_key!r} was cut off before anything of it was written down. Call annotate() with its key "
            f"again, or forget it with delete_annotation_run({anno_key!r})."
        )
    return results
