"""Which frames to annotate next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fiftyone as fo

from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.workflow._runs import run_results

if TYPE_CHECKING:
    from labelprop_cvat.backend.suggesting import Suggestions


def suggest(
    dataset: fo.Dataset,
    anno_key: str,
    budget: int = 5,
    *,
    target: float = 0.9,
    least_gain: float | None = None,
    effort: EffortModel | None = None,
    send: bool = False,
    **login: Any,
) -> Suggestions:
    """Says which frames of a run people should annotate next, why, and when to stop.

    How good every propagated object is, is predicted from the engine's confidence, from how far the passes from the
    exemplars on both sides agree, and from the way to the nearest exemplar. Where earlier rounds were collected, the
    prediction is fitted to what people made of the propagated labels there. Of the frames in doubt those are taken that
    gain most for a minute of work, all temporal segments together::

        for frame in lp.suggest(dataset, "run1", budget=5):
            print(frame.segment, frame.position, [reason.why for reason in frame.reasons])
        lp.suggest(dataset, "run1", budget=5, send=True)    # the next round is in CVAT
        dataset.load_annotations("run1")                    # when people are done with it

    Args:
        dataset: the dataset
        anno_key: a run of the backend ``labelprop`` that was loaded
        budget: at most so many frames
        target: J that every object shall reach on every frame; segments where that is expected get no more frames
        least_gain: leave out frames that are expected to gain less J a minute, summed over the objects and frames of
            their segment; None asks for nothing
        effort: what work takes; by default :class:`~labelprop_cvat.propagation.effort.EffortModel` as it comes
        send: send the frames to CVAT as the next round at once, as :meth:`Suggestions.send` does
        login: ``url``, ``username``, ``password``, ``token``, ``headers`` and ``verify``, where they are not configured

    Returns:
        the frames with reasons; no frames when it is time to stop, or to wait

    Raises:
        ConfigurationError: there is no such run, it was made by another backend, it fills no frames, or a value is out
            of range
        DataError: media can't be read
        CVATError: with ``send``: the server can't be reached or says no; the next load goes on with the upload
    """
    results = run_results(dataset, anno_key, **login)
    suggestions = results.suggest(budget, target=target, least_gain=least_gain, effort=effort)
    if send and suggestions.frames:
        suggestions.send()
    return suggestions
