"""How good a field is, judged by the truth."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np

from labelprop_cvat import __version__
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.evaluation import Evaluation
from labelprop_cvat.evaluation._curves import BUDGETS, METHODS, CurveMaker
from labelprop_cvat.evaluation._judging import pooled
from labelprop_cvat.evaluation._pictures import pair, worst_frames
from labelprop_cvat.evaluation._reading import PairReader, Survey, label_class, survey
from labelprop_cvat.evaluation._sequence import Choice, Rules, choose, judge_sequence
from labelprop_cvat.evaluation._writing import EvaluationWriter
from labelprop_cvat.evaluation.run import PropagationEvaluationConfig
from labelprop_cvat.evaluation.scores import Curve, Sample, SequenceResult
from labelprop_cvat.progress import progress_bar
from labelprop_cvat.propagation.effort import EffortModel
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.registration import BACKEND
from labelprop_cvat.sequences import Sequence as FrameSequence
from labelprop_cvat.sequences import TemporalSegment, normal_field, plain_view, segments_of
from labelprop_cvat.workflow._filling import engine_at_work
from labelprop_cvat.workflow._sequences import check_segments_field, checked_sequences

logger = logging.getLogger(__name__)

_FRAMES_PREFIX = "frames."


def evaluate(
    samples: fo.core.collections.SampleCollection,
    pred_field: str,
    gt_field: str,
    *,
    eval_key: str | None = None,
    match: str = "index",
    leave_out: str = "frames",
    truth: str = "stored",
    unfilled: str = "skip",
    iou: float = 0.5,
    segments_field: str | None = None,
    sort_field: str | None = None,
    media_field: str = "filepath",
    curves: bool | Sequence[int] = False,
    methods: Sequence[str] = METHODS,
    engine: str | Propagator | None = None,
    engine_options: Mapping[str, Any] | None = None,
    effort: EffortModel | None = None,
    worst: int = 12,
    report: str | Path | None = None,
    json_path: str | Path | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Says how good the labels of a field are, judged by those of another one.

    Masks and filled polygons are compared with each other by J, F and IoU; where a side holds boxes, the boxes are
    compared. Labels are read from the dataset, whatever a view filters away of them. What the scores mean is said at
    :class:`~labelprop_cvat.evaluation.scores.Scores`.

    Args:
        samples: images, videos, groups, clips, frames or patches
        pred_field: ``Detections`` or ``Polylines`` to judge, with its ``frames.`` prefix on videos
        gt_field: ``Detections`` or ``Polylines`` to judge them by, on the same level
        eval_key: key to keep the evaluation under: every frame gets ``<eval_key>_j`` and the like, every label what it
            scored, and ``dataset.delete_evaluation(eval_key)`` takes it all away again. An earlier one of this key is
            overwritten. None writes nothing
        match: how predicted objects are told to be the true ones: ``"index"``, the same number; or ``"overlap"``, one
            to one so that the sum of IoU over the sequence is largest, for sides that number differently
        leave_out: what is not scored since people made it, as ``keyframe`` and ``source`` of the predicted labels say:
            ``"frames"``, all of each frame with such a label; ``"labels"``, these labels alone; ``"nothing"``
        truth: ``"stored"``: a frame whose ``gt_field`` is None was not annotated and is not scored (one with an empty
            list was: there is nothing); ``"all"``: there is nothing on it
        unfilled: what a temporal segment without any predicted label is: ``"skip"``, not predicted yet, and left out;
            ``"score"``, wrong
        iou: smallest IoU at which identities match, and of a true positive
        segments_field: where temporal segments are stored; without it each sequence is one, or a clips view's clips are
        sort_field: what orders an image collection
        media_field: field with the media's paths
        curves: whether to fill the frames again from the truth, with more and more annotated frames; or how many of a
            segment, instead of 1, 2, 4 and 8
        methods: how the frames of the curves are chosen: ``"uniform"``, ``"first"`` (the first frame, further ones
            evenly after it), or ``"diverse"`` or ``"coverage"``
        engine: what fills them; by default what fills ``pred_field`` in an annotation run, else ``"auto"``
        engine_options: options of a named engine
        effort: seconds that people's actions take; by default those of the literature
        worst: how many of the worst frames to show in the report
        report: where to write a report, one HTML file
        json_path: where to write everything as JSON
        progress: whether to show a progress bar; None asks FiftyOne's configuration

    Returns:
        the evaluation

    Raises:
        ConfigurationError: there is no such way to match or method, or ``eval_key`` belongs to something else; nothing
            was changed
        DataError: a field is missing or of another type, media or masks can't be read, or nothing could be compared;
            nothing of this evaluation stays in the dataset
        EngineError: the engine of the curves failed; likewise
    """
    rules = Rules(match, leave_out, truth, unfilled, iou)
    dataset = samples._root_dataset
    pred_field, gt_field = (normal_field(samples, name) for name in (pred_field, gt_field))
    _check_fields(dataset, pred_field, gt_field)
    _warn_of_propagated_truth(dataset, pred_field, gt_field)
    check_segments_field(samples, segments_field)
    view = plain_view(samples)
    model = effort or EffortModel()
    work = _planned(view, checked_sequences(view, sort_field, media_field, pred_field), pred_field, gt_field,
                    segments_field, rules)  # fmt: skip
    notes = [note for _, choice, _ in work for note in choice.notes]
    work = [(sequence, choice, found) for sequence, choice, found in work if choice.segments]
    if not work:
        raise DataError(_nothing_compared(pred_field, gt_field, notes))
    options = {
        **asdict(rules),
        "segments_field": segments_field,
        "sort_field": sort_field,
        "view": _is_view(samples),
    }
    with _drawn(dataset, pred_field, curves, methods, engine, engine_options, model) as maker:
        frames = sum(len(entry.segment) for _, choice, _ in work for entry in choice.segments)
        frames += sum(maker.runs(choice) for _, choice, _ in work) if maker is not None else 0
        if maker is not None:
            options |= {"engine": maker.engine.spec.name, "budgets": list(maker.budgets), "methods": list(methods)}
        results: list[SequenceResult] = []
        with (
            _written(samples, eval_key, pred_field, gt_field, options, iou) as writer,
            progress_bar(frames, progress=progress) as bar,
        ):
            for sequence, choice, found in work:
                result, rows, unread = judge_sequence(
                    view, sequence, choice, pred_field, gt_field, rules, model, bar.update
                )
                results.append(result)
                notes += unread
                if writer is not None:
                    writer.write(sequence, rows)
                if maker is not None:
                    known = found.known if truth == "stored" else frozenset(range(len(sequence)))
                    maker.add(view, sequence, choice, known, gt_field, match == "overlap", bar.update)
            if not any(result.scores.object_frames or result.objects for result in results) or not any(
                result.scores.frames for result in results
            ):
                raise DataError(_nothing_compared(pred_field, gt_field, notes))
            evaluation = Evaluation(
                dataset=dataset.name,
                pred_field=pred_field,
                gt_field=gt_field,
                eval_key=eval_key,
                scores=pooled([entry.scores for entry in results], [o for entry in results for o in entry.objects]),
                sequences=tuple(results),
                curves=_curves(maker),
                worst=tuple(worst_frames(results, worst)),
                notes=tuple(notes),
                options=options,
                made=_made(),
                effort=model.to_dict(),
            )
            if writer is not None:
                writer.finish(evaluation.to_dict(frames=False))
    for note in notes:
        logger.warning("%s", note)
    if json_path is not None:
        evaluation.save_json(json_path)
    if report is not None:
        drawn = _drawn_worst(view, [sequence for sequence, _, _ in work], evaluation, rules)
        evaluation = replace(evaluation, worst=drawn)
        evaluation.save_report(report)
    return evaluation


def _check_fields(dataset: fo.Dataset, pred_field: str, gt_field: str) -> None:
    for name in (pred_field, gt_field):
        label_class(dataset, name)
    if pred_field == gt_field:
        raise ConfigurationError(f"A field is not judged by itself, got {pred_field!r} twice. Name another gt_field.")
    if pred_field.startswith(_FRAMES_PREFIX) is not gt_field.startswith(_FRAMES_PREFIX):
        raise ConfigurationError(
            f"pred_field={pred_field!r} and gt_field={gt_field!r} must both be fields of frames, or both of samples."
        )


def _warn_of_propagated_truth(dataset: fo.Dataset, pred_field: str, gt_field: str) -> None:
    if _run_that_fills(dataset, gt_field) is not None and _run_that_fills(dataset, pred_field) is None:
        logger.warning(
            "%r is taken for the truth about %r, but an annotation run fills it by propagation. If that is the wrong "
            "way round, exchange the two.",
            gt_field,
            pred_field,
        )


def _planned(
    samples: fo.core.collections.SampleCollection,
    sequences: Sequence[FrameSequence],
    pred_field: str,
    gt_field: str,
    segments_field: str | None,
    rules: Rules,
) -> list[tuple[FrameSequence, Choice, Survey]]:
    planned = []
    for sequence in sequences:
        found = survey(samples._root_dataset, sequence, pred_field, gt_field)
        planned.append((sequence, choose(sequence, _segments(samples, sequence, segments_field), found, rules), found))
    return planned


def _segments(
    samples: fo.core.collections.SampleCollection, sequence: FrameSequence, segments_field: str | None
) -> list[TemporalSegment]:
    if segments_field is None and not sequence.given_segments:
        return [TemporalSegment(Segment(0, len(sequence)), "")]
    # Frames are not searched for cuts here, wherever nothing is stored.
    return segments_of(sequence, samples, segments_field, method="none")


def _nothing_compared(pred_field: str, gt_field: str, notes: Sequence[str]) -> str:
    why = " ".join(notes[:3])
    return (
        f"There is nothing to compare: beside those that people annotated, no frame has predictions in {pred_field!r} "
        f"and truth in {gt_field!r}. {why} leave_out='nothing' judges what people annotated or reviewed, too: in the "
        f"App 'Not scored: nothing is left out', on the command line --leave-out nothing."
    )


def _is_view(samples: fo.core.collections.SampleCollection) -> bool:
    return isinstance(samples, fo.DatasetView)


@contextmanager
def _written(
    samples: fo.core.collections.SampleCollection,
    eval_key: str | None,
    pred_field: str,
    gt_field: str,
    options: Mapping[str, Any],
    iou: float,
) -> Iterator[EvaluationWriter | None]:
    """The writer of an evaluation; where anything fails, nothing of it stays."""
    if eval_key is None:
        yield None
        return
    asked = {name: value for name, value in options.items() if name != "iou"}
    writer = EvaluationWriter(samples, eval_key, PropagationEvaluationConfig(pred_field, gt_field, iou, **asked))
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise


@contextmanager
def _drawn(
    dataset: fo.Dataset,
    pred_field: str,
    curves: bool | Sequence[int],
    methods: Sequence[str],
    engine: str | Propagator | None,
    engine_options: Mapping[str, Any] | None,
    effort: EffortModel,
) -> Iterator[CurveMaker | None]:
    """What draws the curves, for as long as its engine is needed; None where none are asked for."""
    if curves is False:
        yield None
        return
    budgets = BUDGETS if curves is True else tuple(curves)
    if engine is None:
        engine, own = _engine_of(dataset, pred_field)
        engine_options = {**own, **(engine_options or {})}
    with engine_at_work(engine, engine_options) as driver:
        yield CurveMaker(driver, budgets, tuple(methods), effort)


def _engine_of(dataset: fo.Dataset, pred_field: str) -> tuple[str, dict[str, Any]]:
    """The engine of the annotation run that fills a field, with its options; ``auto`` where no run does."""
    config = _run_that_fills(dataset, pred_field)
    return ("auto", {}) if config is None else (config.engine, dict(config.engine_options or {}))


def _run_that_fills(dataset: fo.Dataset, field: str) -> Any | None:
    """The config of the annotation run that fills a field, if one does."""
    for key in dataset.list_annotation_runs():
        config = dataset.get_annotation_info(key).config
        if config.method == BACKEND and field in config.outputs().values():
            return config
    return None


def _curves(maker: CurveMaker | None) -> tuple[Curve, ...]:
    return () if maker is None else maker.curves()


def _drawn_worst(
    samples: fo.core.collections.SampleCollection,
    sequences: Sequence[FrameSequence],
    evaluation: Evaluation,
    rules: Rules,
) -> tuple[Sample, ...]:
    """The worst frames of an evaluation with their pictures."""
    drawn = []
    for sample in evaluation.worst:
        sequence = sequences[sample.sequence]
        reader = PairReader(
            samples, sequence, evaluation.pred_field, evaluation.gt_field, by_instance=rules.match == "overlap"
        )
        ((_, predicted, true),) = reader.read([sample.position])
        guess = _predicted_as(evaluation.sequences[sample.sequence], sample.index, rules)
        image = np.asarray(sequence.source[sample.position])
        drawn.append(replace(sample, image=pair(image, true.get(sample.index), predicted.get(guess))))
    return tuple(drawn)


def _predicted_as(result: SequenceResult, index: int, rules: Rules) -> int:
    if rules.match == "index":
        return index
    (own,) = [entry.predicted_as for entry in result.objects if entry.index == index]
    return index if own is None else own


def _made() -> dict[str, str]:
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "labelprop-cvat": __version__,
        "fiftyone": version("fiftyone"),
        "numpy": version("numpy"),
        "opencv": version("opencv-python-headless"),
        "python": platform.python_version(),
    }


__all__ = ["evaluate"]
