"""Runs over tasks that were in CVAT before: made by people, by FiftyOne's own backend, or by other programs.

:func:`adopt_tasks` finds the tasks (:mod:`.tasks`), the files of their frames (:mod:`.media`), and the samples that
these are (:mod:`.places`); decides which fields their labels go to (:mod:`.fields`); and writes a ledger in which they
stand as if the run had made them (:mod:`.records`). From there on the run is like any other, but that its tasks are
never deleted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fiftyone as fo
import fiftyone.utils.annotations as foua

from labelprop_cvat.backend.adopt.fields import adopted_schema, check_asked
from labelprop_cvat.backend.adopt.media import DataPath, LocalMedia, download
from labelprop_cvat.backend.adopt.places import Media, Places, add_samples, locate_media
from labelprop_cvat.backend.adopt.records import adopted_ledger, settle_identities
from labelprop_cvat.backend.adopt.tasks import FoundTask, Summary, all_labels, find_tasks, summary
from labelprop_cvat.backend.cvat import CVATClient, Label
from labelprop_cvat.backend.labelprop import JOB_STATES, NO_ENGINE, LabelPropBackend
from labelprop_cvat.backend.ledger import Ledger
from labelprop_cvat.backend.results import LabelPropResults
from labelprop_cvat.backend.schema import FRAMES_PREFIX, INDEX_ATTRIBUTE, RunSchema
from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.registration import BACKEND
from labelprop_cvat.sequences import COLLECTION_KEY, TemporalSegment, every_sample, segments_of, sequences_of
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)


def adopt_tasks(
    samples: fo.core.collections.SampleCollection,
    anno_key: str,
    *,
    task_ids: int | Iterable[int] | None = None,
    project_id: int | None = None,
    project_name: str | None = None,
    label_field: str | None = None,
    label_type: str | None = None,
    label_schema: Mapping[str, Mapping[str, Any]] | None = None,
    data_path: DataPath | None = None,
    download_media: bool = False,
    insert_new: bool = True,
    num_workers: int = 4,
    index_attribute: str = INDEX_ATTRIBUTE,
    job_states: str | Sequence[str] = JOB_STATES,
    progress: bool | None = None,
    **settings: Any,
) -> LabelPropResults:
    """Makes a run of tasks that are in CVAT already; see :func:`labelprop_cvat.workflow.adopt`."""
    check_asked(label_field, label_type, label_schema)
    backend = _backend(samples, anno_key, {**settings, "job_states": job_states})
    client = backend.connect_to_api()
    tasks = find_tasks(client, task_ids=task_ids, project_id=project_id, project_name=project_name)
    if len({found.is_video for found in tasks}) > 1:
        images = ", ".join(str(found.task.id) for found in tasks if not found.is_video)
        raise DataError(f"Tasks of images ({images}) and tasks of videos are adopted by runs of their own.")
    drawn = {found.task.id: summary(client, found) for found in tasks}
    samples, media = _media(
        client, samples, tasks, backend, data_path, download_media, insert_new, num_workers, progress
    )
    sequences = _sequences(samples, tasks, media, backend)
    backend.config.label_schema = adopted_schema(
        samples._root_dataset,
        all_labels(tasks),
        sum((entry.kinds for entry in drawn.values()), Counter()),
        of_frames=tasks[0].is_video or any(sequence.frame_paths is not None for sequence in sequences),
        label_field=label_field,
        label_type=label_type,
        label_schema=label_schema,
    )
    ledger = _ledger(samples, tasks, sequences, media, backend, drawn, index_attribute)
    schema = backend.config.schema()
    settle_identities(samples, ledger, tasks, schema, client)
    if backend.config.propagates:
        _tell_what_is_unnumbered(tasks, schema, drawn, index_attribute)

    foua.AnnotationBackend.register_run(backend, samples, anno_key, overwrite=False)
    results = LabelPropResults(samples, backend.config, anno_key, {}, ledger.to_dict(), backend=backend)
    results.save()
    jobs = len(list(ledger.jobs()))
    logger.info("Run %r adopts %d tasks with %d jobs.", anno_key, len(tasks), jobs)
    return results


def _backend(
    samples: fo.core.collections.SampleCollection, anno_key: str, settings: Mapping[str, Any]
) -> LabelPropBackend:
    config = foua._parse_config(BACKEND, None, **settings)
    backend: LabelPropBackend = config.build()
    dataset = samples._root_dataset
    if anno_key in dataset.list_annotation_runs():
        if dataset.load_annotation_results(anno_key, cache=False) is not None:
            raise ConfigurationError(
                f"Annotation run with key {anno_key!r} already exists. Take another key, or forget it with "
                f"delete_annotation_run({anno_key!r}); what is in CVAT stays."
            )
        # Killed between entering the run and its ledger.
        backend.delete_run(dataset, anno_key, cleanup=False)
    if not anno_key.isidentifier():
        raise ConfigurationError(f"The key of a run is a valid variable name, got {anno_key!r}.")
    backend.ensure_requirements()
    return backend


def _media(
    client: CVATClient,
    samples: fo.core.collections.SampleCollection,
    tasks: Sequence[FoundTask],
    backend: LabelPropBackend,
    data_path: DataPath | None,
    download_media: bool,
    insert_new: bool,
    num_workers: int,
    progress: bool | None,
) -> tuple[fo.core.collections.SampleCollection, Media]:
    """The files of all frames, downloaded where that is wanted, and the collection with samples for new ones."""
    media_field = backend.config.media_field
    local = LocalMedia(tasks, data_path, download_media)
    known = [path for path in _paths(samples, media_field) if path]
    media = locate_media(tasks, local, known, download_media)
    download(client, media.missing, num_workers, progress)
    if insert_new:
        samples = add_samples(samples, tasks, media, known, media_field)
    if not _paths(samples, media_field):
        raise DataError(
            f"There are no samples that the tasks' frames could be, and no files to make some of: CVAT calls the first "
            f"{tasks[0].file_name()!r}. Pass data_path, with download_media=True where the files are in CVAT only."
        )
    return samples, media


def _paths(samples: fo.core.collections.SampleCollection, media_field: str) -> list[str]:
    """The files of a collection: of a dataset all, of a view those that it shows."""
    if len(samples) == 0:
        return []
    if isinstance(samples, fo.Dataset) and not media_field.startswith(FRAMES_PREFIX):
        return list(every_sample(samples).values(media_field))
    return [path for sequence in sequences_of(samples, media_field=media_field) for path in _files(sequence)]


def _files(sequence: FrameSequence) -> Iterable[str]:
    return sequence.filepaths if sequence.frame_paths is None else sequence.frame_paths


def _sequences(
    samples: fo.core.collections.SampleCollection, tasks: Sequence[FoundTask], media: Media, backend: LabelPropBackend
) -> list[FrameSequence]:
    """The sequences that have a frame of the tasks."""
    config, wanted = backend.config, set(media.paths.values())
    found = sequences_of(samples, sort_field=config.sort_field, media_field=config.media_field)
    chosen = [sequence for sequence in found if not wanted.isdisjoint(_files(sequence))]
    if not chosen:
        raise _nowhere(tasks)
    return chosen


def _ledger(
    samples: fo.core.collections.SampleCollection,
    tasks: Sequence[FoundTask],
    sequences: Sequence[FrameSequence],
    media: Media,
    backend: LabelPropBackend,
    drawn: Mapping[int, Summary],
    index_attribute: str,
) -> Ledger:
    config, schema = backend.config, backend.config.schema()
    independent = backend.is_independent(sequences, schema) or _is_untied(
        tasks, sequences, backend, drawn, index_attribute
    )
    if independent or not schema.propagated:
        config.engine = NO_ENGINE
    for sequence in sequences:
        sequence.check(uniform=not independent)
    everywhere = Places(sequences)
    places = {found.task.id: everywhere.of(found, media.paths) for found in tasks}
    _tell_what_is_missing(tasks, places)
    used = {key for in_task in places.values() for key, _ in in_task.values()}
    chosen = {sequence.key: sequence for sequence in sequences if sequence.key in used}
    backend.settle_outputs(samples._root_dataset, schema)
    return adopted_ledger(
        samples,
        tasks,
        places,
        {key: _segments(sequence, samples, backend, independent) for key, sequence in chosen.items()},
        chosen,
        schema,
        url=backend.url(),
        index_attribute=index_attribute,
        independent=independent,
    )


def _tell_what_is_missing(tasks: Sequence[FoundTask], places: Mapping[int, Mapping[int, Any]]) -> None:
    if not any(places.values()):
        raise _nowhere(tasks)
    for found in tasks:
        wanted, there = found.frames(), places[found.task.id]
        missing = [frame for frame in wanted if frame not in there]
        if missing:
            logger.warning(
                "%d of the %d frames of %s are no samples of this collection, so they are left out: first %s.",
                len(missing),
                len(wanted),
                found,
                found.file_name(missing[0]) if not found.is_video else f"frame {missing[0]}",
            )


def _nowhere(tasks: Sequence[FoundTask]) -> DataError:
    return DataError(
        f"None of the frames of the tasks is a sample of this collection; CVAT calls the first "
        f"{tasks[0].file_name()!r}. Pass data_path: a folder, or a dict from CVAT's names to the samples' paths."
    )


def _is_untied(
    tasks: Sequence[FoundTask],
    sequences: Sequence[FrameSequence],
    backend: LabelPropBackend,
    drawn: Mapping[int, Summary],
    index_attribute: str,
) -> bool:
    """Whether nothing says that one picture follows another: no order, no track, no number of an object."""
    config, schema = backend.config, backend.config.schema()
    is_ordered = (
        sequences[0].key != COLLECTION_KEY or config.sort_field is not None or config.segments_field is not None
    )
    if is_ordered or any(entry.has_tracks for entry in drawn.values()):
        return False
    objects = _object_labels(tasks, schema, drawn)
    if not objects or len(_unnumbered(objects, index_attribute)) < len(objects):
        return False
    logger.warning(
        "No sort_field orders these images, and nothing in CVAT says which shapes are one object (no track, no "
        "attribute %r), so each is taken for a picture of its own and nothing is propagated. Pass sort_field where "
        "they are frames of one scene.",
        index_attribute,
    )
    return True


def _object_labels(tasks: Sequence[FoundTask], schema: RunSchema, drawn: Mapping[int, Summary]) -> list[Label]:
    """The labels of shapes that are objects and belong to no track."""
    return [
        label
        for found in tasks
        for label in found.labels
        if label.id in drawn[found.task.id].shape_labels
        and any(field.kind.has_index for field, _ in schema.owners(label.name))
    ]


def _unnumbered(labels: Iterable[Label], index_attribute: str) -> list[Label]:
    """The labels whose shapes nothing ties together."""
    return [label for label in labels if index_attribute not in {attribute.name for attribute in label.attributes}]


def _tell_what_is_unnumbered(
    tasks: Sequence[FoundTask], schema: RunSchema, drawn: Mapping[int, Summary], index_attribute: str
) -> None:
    """Says which labels have shapes that nothing ties together."""
    unnumbered = _unnumbered(_object_labels(tasks, schema, drawn), index_attribute)
    if unnumbered:
        logger.warning(
            "The labels %s have no attribute %r that says which shapes are one object, so each of their shapes that is "
            "no track is an object of its own. Name another attribute with index_attribute, or pass engine='none' to "
            "fill no frames.",
            ", ".join(repr(name) for name in dict.fromkeys(label.name for label in unnumbered)),
            index_attribute,
        )


def _segments(
    sequence: FrameSequence,
    samples: fo.core.collections.SampleCollection,
    backend: LabelPropBackend,
    independent: bool,
) -> list[TemporalSegment]:
    config = backend.config
    method = config.segmentation if config.propagates and not independent else "none"
    return segments_of(sequence, samples, config.segments_field, method)


__all__ = ["adopt_tasks"]
