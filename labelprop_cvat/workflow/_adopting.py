"""Runs of tasks that are in CVAT already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone as fo

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults


def adopt(
    samples: fo.core.collections.SampleCollection,
    anno_key: str,
    *,
    task_ids: int | Iterable[int] | None = None,
    project_id: int | None = None,
    project_name: str | None = None,
    label_field: str | None = None,
    label_type: str | None = None,
    label_schema: Mapping[str, Mapping[str, Any]] | None = None,
    data_path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    download_media: bool = False,
    insert_new: bool = True,
    num_workers: int = 4,
    index_attribute: str = "index",
    job_states: str | Sequence[str] = ("new", "in progress", "completed", "rejected"),
    progress: bool | None = None,
    **settings: Any,
) -> LabelPropResults:
    """Makes a run of tasks that are in CVAT already, whoever made them.

    From then on it is a run like those of ``annotate()``: ``dataset.load_annotations(anno_key)`` brings its labels
    home and fills the other frames, and may be called again whenever people did more. Its tasks stay in CVAT for good:
    ``results.cleanup()`` only forgets them.

    A frame of CVAT is the sample whose file has its name; a video task's frames are those of its video from
    ``start_frame`` on, each ``step``-th. Shapes with one ``index`` are one object, and so are the keyframes of a track;
    where labels have no such attribute, every other shape is an object of its own. Shapes that FiftyOne's own backend
    sent become the labels again that they were made from.

    Args:
        samples: where the labels go; may be empty when media are downloaded
        anno_key: the key of the new run
        task_ids: the tasks, by number; or
        project_id: all tasks of a project; or
        project_name: of the newest project of this name
        label_field: the field that the labels go to, new or not; on videos with or without its ``frames.`` prefix
        label_type: its type; by default the field's own, or what was drawn most
        label_schema: several fields instead, as ``{field: {"type": ..., "classes": ...}, ...}``. Without any, one field
            for each kind of shape that was drawn: ``detections``, ``instances``, ``polygons``, ``polylines``,
            ``keypoints``, ``classifications``. Classes and attributes are those of the tasks' labels; ``"classes"``
            names those that go to a field, by default all that fit
        data_path: a folder that holds the media, a dict from CVAT's file names to paths, or the path of a JSON file
            with such a dict
        download_media: download media that are neither samples nor in ``data_path`` to there. Frames of videos come as
            a new video file that holds them and no others
        insert_new: add samples for media that are in ``data_path`` and no samples yet
        num_workers: files that are downloaded at the same time
        index_attribute: the attribute of CVAT's labels that holds the number of the object
        job_states: states in which a job is loaded; by default all, as it stands
        progress: whether to show progress bars; None asks FiftyOne's configuration
        settings: parameters of :class:`~labelprop_cvat.backend.labelprop.LabelPropBackendConfig`, such as ``url``,
            ``username``, ``password``, ``sort_field``, ``segments_field``, ``engine`` and ``output_field``

    Returns:
        the run's results

    Raises:
        ConfigurationError: there is no such task or project, or what is asked for does not fit; nothing was changed
        DataError: none of the frames is there, names are ambiguous, or media can't be read. Media that were downloaded
            stay, so that calling again goes on
        CVATError: the server can't be reached or says no
    """
    # The backend stands on this module.
    from labelprop_cvat.backend.adopt import adopt_tasks

    return adopt_tasks(
        samples,
        anno_key,
        task_ids=task_ids,
        project_id=project_id,
        project_name=project_name,
        label_field=label_field,
        label_type=label_type,
        label_schema=label_schema,
        data_path=data_path,
        download_media=download_media,
        insert_new=insert_new,
        num_workers=num_workers,
        index_attribute=index_attribute,
        job_states=job_states,
        progress=progress,
        **settings,
    )
