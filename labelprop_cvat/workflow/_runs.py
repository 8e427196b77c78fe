"""Runs of this backend, by name: which there are, what people did comes home, and the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import fiftyone as fo

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.registration import BACKEND

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

# Which runs the results are of that this process holds.
_runs: WeakKeyDictionary[LabelPropResults, Any] = WeakKeyDictionary()


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
        raise ConfigurationError(
            f"The run {anno_key!r} was made by the backend {method!r}, not {BACKEND!r}. Take another run; "
            f"workflow.adopt() takes its tasks over."
        )


def run_keys(dataset: fo.Dataset) -> list[str]:
    """The keys of a dataset's runs of this backend, the newest last."""
    keys = dataset.list_annotation_runs(method=BACKEND)
    made = {key: dataset.get_annotation_info(key).timestamp for key in keys}
    return sorted(keys, key=lambda key: (made[key], key))


def is_cut_off(dataset: fo.Dataset, anno_key: str) -> bool:
    """Whether a run of this backend never reached CVAT as a whole: calling ``annotate()`` again goes on with it."""
    if anno_key not in dataset.list_annotation_runs(method=BACKEND):
        return False
    try:
        results = run_results(dataset, anno_key)
    except DataError:
        return True
    results.refresh()
    return bool(results.ledger.rounds) and not results.ledger.uploaded


def is_of_run(results: LabelPropResults, dataset: fo.Dataset, anno_key: str) -> bool:
    """Whether results are of the run that has their key now; where nobody asked before, they are."""
    run_id = results.backend._get_run_doc(dataset, anno_key).id
    return bool(_runs.setdefault(results, run_id) == run_id)


def run_results(dataset: fo.Dataset, anno_key: str, **login: Any) -> LabelPropResults:
    """The results of a run, which connect with the login that is given.

    Args:
        dataset: the dataset
        anno_key: a run of the backend ``labelprop``
        login: ``url``, ``username``, ``password``, ``token``, ``headers`` and ``verify``; what is None counts as not
            given

    Raises:
        ConfigurationError: there is no such run, or another backend made it
        DataError: nothing of it was written down
    """
    check_run(dataset, anno_key)
    given = {name: value for name, value in login.items() if value is not None}
    results: LabelPropResults | None = dataset.load_annotation_results(anno_key, **given)
    if results is not None and not is_of_run(results, dataset, anno_key):
        # Another process deleted that run, and made one with the same key.
        dataset._annotation_cache.pop(anno_key)
        return run_results(dataset, anno_key, **login)
    if results is None:
        raise DataError(
            f"The run {anno_key!r} was cut off before anything of it was written down. Call annotate() with its key "
            f"again, or forget it with delete_annotation_run({anno_key!r})."
        )
    if given:
        # Of results that it holds already, FiftyOne drops the login.
        before = results.config.login()
        results.config.load_credentials(**given)
        if results.config.login() != before:
            results.use_api(None)
    return results


def load(
    dataset: fo.Dataset,
    anno_key: str,
    *,
    engine: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    unexpected: str = "ignore",
    **options: Any,
) -> LabelPropResults:
    """Brings home what people finished in CVAT, and fills the other frames.

    As ``dataset.load_annotations(anno_key)``, but that nothing ever waits for an answer on a terminal::

        print(lp.load(dataset, "run1").summary)

    Args:
        dataset: the dataset
        anno_key: a run of the backend ``labelprop``
        engine: another engine than the run's own, this once; ``"none"`` leaves the frames for later
        engine_options: options of that engine, or over those of the run's own, this once
        unexpected: what becomes of labels of a type that a field can't take: ``"ignore"``, or ``"keep"`` for fields
            named by their type
        options: ``dest_field``, ``job_states`` and ``job_stages`` of this load, and the login: ``url``, ``username``,
            ``password``, ``token``, ``headers`` and ``verify``; what is None counts as not given

    Returns:
        the run's results; their ``summary`` says in a sentence what was done

    Raises:
        ConfigurationError: there is no such run, another backend made it, or an option makes no sense
        DataError: labels or jobs in CVAT are not what they were; nothing was changed
        EngineError: an engine failed; the segments before are filled, and the next load goes on
        CVATError: the server can't be reached or says no
        RunInUse: another process works on the run
    """
    results = run_results(dataset, anno_key)
    asked = {**options, "engine": engine, "engine_options": engine_options}
    # The same results, which FiftyOne holds by now.
    dataset.load_annotations(
        anno_key, unexpected=unexpected, **{name: value for name, value in asked.items() if value is not None}
    )
    return results


def cleanup(dataset: fo.Dataset, anno_key: str, *, force: bool = False, **login: Any) -> LabelPropResults:
    """Deletes the tasks of a run from CVAT; what is in FiftyOne stays.

    Args:
        dataset: the dataset
        anno_key: a run of the backend ``labelprop``
        force: also delete tasks in which somebody did what was not loaded yet; they are kept otherwise
        login: as in :func:`run_results`

    Returns:
        the run's results; ``task_ids`` are those of the tasks that were kept

    Raises:
        ConfigurationError: there is no such run, another backend made it, or no login is to be found
        CVATError: the server can't be reached or says no
        RunInUse: another process works on the run
    """
    results = run_results(dataset, anno_key, **login)
    results.cleanup(force=force)
    return results


__all__ = ["check_run", "cleanup", "is_cut_off", "load", "run_keys", "run_results"]
