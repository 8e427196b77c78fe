"""What was propagated goes to reviewers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fiftyone as fo

from labelprop_cvat.workflow._runs import run_results


def review(
    samples: fo.core.collections.SampleCollection,
    anno_key: str,
    *,
    segments: str | Iterable[str] | None = None,
    frames: str | None = None,
    review_as: str | None = None,
    **login: Any,
) -> int | None:
    """Sends the propagated labels of a run to CVAT to be reviewed, one job a temporal segment.

    Reviewers see the labels of the frames between the exemplars, with what is doubted as issues, and change what is
    wrong. The next loads bring that back, and fill anew what it touches::

        lp.review(dataset, "run1")                          # the review is in CVAT
        dataset.load_annotations("run1")                    # when people are done with it
        dataset.load_annotation_results("run1").history().print()

    Runs that were made with ``review=True`` do this by themselves, again and again, until nobody changes anything.

    Args:
        samples: the dataset, or any view of it
        anno_key: a run of the backend ``labelprop`` that was loaded
        segments: labels of segments; by default all that are filled, are not under review, and were never reviewed or
            changed since
        frames: which frames of a segment reviewers see: ``"all"``; ``"every:n"``, every n-th, and those that people
            annotated; or ``"uncertain"``, those where something is doubted, with others to compare. By default as the
            run was asked for, which is ``"all"`` unless something else was said
        review_as: ``"polygons"`` sends masks as tracks of polygons, whose corners can be dragged; by
            default as the run was asked for
        login: ``url``, ``username``, ``password``, ``token``, ``headers`` and ``verify``, where they are not configured

    Returns:
        the number of the round; None where there is nothing to review

    Raises:
        ConfigurationError: there is no such run, it was made by another backend, it fills no frames, or a value
            makes no sense
        DataError: a segment does not exist, is not filled yet, or is under review; nothing was changed
        CVATError: the server can't be reached or says no; the next load, or the next call, goes on with the upload
        RunInUse: another process works on the run
    """
    results = run_results(samples._root_dataset, anno_key, **login)
    number: int | None = results.request_review(segments, frames=frames, review_as=review_as)
    return number


__all__ = ["review"]
