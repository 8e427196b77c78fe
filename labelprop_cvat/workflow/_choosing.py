"""Temporal segments, and the frames of them that people annotate."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo

from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.progress import late_bar
from labelprop_cvat.propagation.exemplars import ExemplarSpec, Selection
from labelprop_cvat.propagation.segments import (
    DEFAULT_METHOD,
    MEASURING,
    PLOT_SUFFIXES,
    measures,
    plot_segmentation,
)
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import (
    TemporalSegment,
    check_fields,
    computed_segments,
    segments_of,
    write_scores,
    write_segments,
)
from labelprop_cvat.workflow._sequences import check_segments_field, checked_sequences, temporal_segments

logger = logging.getLogger(__name__)

DEFAULT_EXEMPLARS = "every:10"


def segment(
    samples: fo.core.collections.SampleCollection,
    segments_field: str,
    *,
    method: str = DEFAULT_METHOD,
    sort_field: str | None = None,
    media_field: str = "filepath",
    scores_field: str | None = None,
    plot: str | Path | None = None,
    **options: Any,
) -> int:
    """Cuts every sequence of a collection into temporal segments and stores them.

    Args:
        samples: images, videos, groups, clips, frames or patches
        segments_field: field to store them in; ``Classifications`` on images, ``TemporalDetections`` on videos,
            ``Classifications`` on the frames of videos where it is ``"frames.<name>"``
        method: see :func:`labelprop_cvat.propagation.segments.score_frames`
        sort_field: what orders an image collection
        media_field: field with the media's paths
        scores_field: ``FloatField`` for what the method measured on every frame, the number that says how strong a cut
            would be; of images, or of the frames of videos
        plot: draws what was measured, what a cut needs and the cuts: a ``.png`` or ``.svg`` file for one sequence, a
            folder, which is made where there is none, for a ``.png`` of each
        options: the method's own options, and ``minimum_length``

    Returns:
        the number of segments

    Raises:
        ConfigurationError: there is no such method or option, or it measures nothing that could be stored or drawn
        DataError: a field has another type, or media can't be read
    """
    if (scores_field is not None or plot is not None) and not measures(method):
        raise ConfigurationError(
            f"The segmentation method {method!r} measures nothing that could be stored or drawn. Leave scores_field "
            f"and plot out, or take a method that does: {', '.join(MEASURING)}."
        )
    if scores_field is not None and scores_field == segments_field:
        raise ConfigurationError(f"Segments and scores need two fields, both are to go into {segments_field!r}.")
    count = 0
    sequences = checked_sequences(samples, sort_field, media_field)
    plots = _plot_paths(sequences, plot)
    for sequence in sequences:
        check_fields(samples, sequence, segments_field, scores_field)
    for sequence, path in zip(sequences, plots, strict=True):
        # Clips are segments already; they may be measured all the same.
        found = list(sequence.given_segments)
        if found and scores_field is None and path is None:
            write_segments(samples, sequence, segments_field, found)
            count += len(found)
            continue
        with late_bar("frames searched for cuts", len(sequence)) as progress:
            computed, measured = computed_segments(sequence, method, progress=progress, **options)
        found = found or computed
        write_segments(samples, sequence, segments_field, found)
        if scores_field is not None and measured.metric is not None:
            write_scores(samples, sequence, scores_field, list(measured.scores[measured.metric]))
        if path is not None:
            first = sequence.frames[0].frame_number or 0
            plot_segmentation(measured, path, title=f"{sequence.name}, {measured.method}", first=first)
        count += len(found)
    return count


def _plot_paths(sequences: list[FrameSequence], plot: str | Path | None) -> list[Path | None]:
    """Where the plot of each sequence goes."""
    if plot is None:
        return [None] * len(sequences)
    place = Path(plot)
    if place.suffix.lower() in PLOT_SUFFIXES and not place.is_dir():
        if len(sequences) > 1:
            raise ConfigurationError(
                f"There are {len(sequences)} sequences, and {place.name!r} is one picture. Name a folder."
            )
        return [place]
    names = [re.sub(r"[^\w.-]+", "_", sequence.name) for sequence in sequences]
    twice = {name for name, times in Counter(names).items() if times > 1}
    return [place / f"{f'{n:03}_' if name in twice else ''}{name}.png" for n, name in enumerate(names, start=1)]


def select(
    samples: fo.core.collections.SampleCollection,
    segments_field: str,
    *,
    method: str = DEFAULT_EXEMPLARS,
    sort_field: str | None = None,
    media_field: str = "filepath",
) -> int:
    """Chooses exemplars in stored temporal segments and grades every frame.

    The ``exemplar_score`` of an exemplar lies between 0.5 and 1. Of the other frames it is lower, and the higher the
    more there would be to gain by annotating them: sort by it to see which ones come next.

    Args:
        samples: images, videos, groups, clips, frames or patches
        segments_field: field that :func:`segment` filled
        method: ``"first"``, ``"middle"``, ``"uniform:k"``, ``"every:n"``, ``"all"``, ``"diverse:k"``,
            ``"coverage:k"`` or ``"coverage:0.9"``; see :class:`~labelprop_cvat.propagation.exemplars.ExemplarSpec`
        sort_field: what orders an image collection
        media_field: field with the media's paths

    Returns:
        the number of exemplars

    Raises:
        DataError: the field holds no segments, or a frame cannot be read
        ConfigurationError: there is no such method, or it is ``active``, which needs a run
    """
    chooser = ExemplarSpec.parse(method)
    if chooser.method == "active":
        raise ConfigurationError(
            f"{method!r} chooses by what was propagated from the exemplars before, which a run knows and stored "
            f"segments do not. Choose the first ones with another method, such as {_without_evidence(chooser)!r}, and "
            f"call workflow.suggest() once the run has propagated something."
        )
    check_segments_field(samples, segments_field)
    count = 0
    for sequence in checked_sequences(samples, sort_field, media_field):
        scored = []
        for entry in segments_of(sequence, samples, segments_field):
            selection = _selection(chooser, sequence, entry)
            count += len(selection.frames)
            scored.append(TemporalSegment(entry.segment, entry.label, selection.scores))
        write_segments(samples, sequence, segments_field, scored)
    return count


def plan_exemplars(
    samples: fo.core.collections.SampleCollection,
    *,
    sort_field: str | None = None,
    segments_field: str | None = None,
    segmentation: str = "auto",
    exemplars: str | None = None,
    media_field: str = "filepath",
    independent: bool = False,
    label_field: str | None = None,
    allowed: Callable[[FrameSequence, int], Container[int] | None] | None = None,
) -> Iterator[tuple[FrameSequence, list[tuple[Segment, str, list[int]]]]]:
    """Says, sequence by sequence, which frames people shall annotate.

    Args:
        samples: images, videos, groups, clips, frames or patches
        sort_field: what orders an image collection
        segments_field: where segments are stored; computed by ``segmentation`` where there are none
        segmentation: method that computes segments
        exemplars: method that chooses exemplars; None means stored scores where there are any, else
            :data:`DEFAULT_EXEMPLARS`. ``active:k`` chooses as ``coverage:k`` does: nothing is propagated yet
        media_field: field with the media's paths
        independent: the images are no sequence in time and may differ in size
        label_field: field that will be annotated; of a view with images and videos, leaves out those that have it not
        allowed: tells of a sequence, and its place among the others from 0, which positions may be exemplars; None
            where all may

    Yields:
        a sequence and its segments: positions, name, exemplars (0-based positions in the sequence, ascending)

    Raises:
        DataError: the samples do not make sequences, or media can't be read
        ConfigurationError: a method does not exist
    """
    chooser = ExemplarSpec.parse(exemplars) if exemplars is not None else None
    if chooser is not None and chooser.method == "active":
        logger.warning("Nothing was propagated yet: the first exemplars are chosen by %s.", _without_evidence(chooser))
    check_segments_field(samples, segments_field)
    sequences = checked_sequences(samples, sort_field, media_field, label_field, independent)
    for number, sequence in enumerate(sequences):
        choice = None if allowed is None else allowed(sequence, number)
        planned = []
        for entry in temporal_segments(sequence, samples, segments_field, segmentation):
            method = chooser or ExemplarSpec.parse(
                "scores" if any(score for score in entry.exemplar_scores) else DEFAULT_EXEMPLARS
            )
            chosen = _selection(method, sequence, entry, choice).frames
            planned.append((entry.segment, entry.label, list(chosen)))
        yield sequence, planned


def _selection(
    chooser: ExemplarSpec, sequence: FrameSequence, entry: TemporalSegment, allowed: Container[int] | None = None
) -> Selection:
    source = sequence.source if chooser.needs_frames else None
    with late_bar("frames looked at for exemplars", len(entry.segment)) as progress:
        return chooser.choose(entry.segment, source, scores=entry.exemplar_scores, allowed=allowed, progress=progress)


def _without_evidence(chooser: ExemplarSpec) -> str:
    return str(ExemplarSpec("coverage", count=chooser.count))
