"""People made of scripts, who work through the REST API only: the same on the embedded server and on a real CVAT.

:class:`ScriptedAnnotator` does what a person in CVAT's web UI does: looks at the frames of a job, corrects what is
there, draws what is missing, of any kind that CVAT has but ellipses and cuboids, gives each object its index, and
finishes the job, as carelessly as wanted. :class:`~.reviewer.ScriptedReviewer` looks through what was propagated, and
:class:`~.edits.JobPage` is a job in somebody's browser, for single edits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from labelprop_cvat.backend.cvat import CVATClient, Job, LabelMap
from labelprop_cvat.backend.cvat.annotations import objects

from .desk import AnnotatorCounts, Desk, Truth, Work
from .edits import JobPage
from .hand import Sloppiness
from .reviewer import ReviewerCounts, ScriptedReviewer
from .truth import SHAPE_KINDS, TRACKED_KINDS, Mask, ShapeKind, TruthObject


class ScriptedAnnotator:
    """Annotates tasks from ground truth, the same way every time for the same seed.

    Args:
        client: a login that may see the task and edit its jobs
        truth: gives the visible objects for ``(task name, frame name)``; a frame of a video task is named
            ``frame_000000`` and so on
        sloppiness: how carelessly it works
        seed: chooses the mistakes
    """

    def __init__(
        self,
        client: CVATClient,
        truth: Truth,
        sloppiness: Sloppiness | None = None,
        seed: int = 0,
    ) -> None:
        self._client = client
        self._truth = truth
        self._sloppiness = sloppiness or Sloppiness()
        self._seed = seed

    def annotate_task(
        self,
        task_id: int,
        *,
        shape: ShapeKind | Mapping[str, ShapeKind] = "mask",
        tracks: bool | None = None,
        frames: Collection[int] | None = None,
        index_attribute: str | None = "index",
        complete: bool = True,
        jobs: Collection[int] | None = None,
        tidy: bool = False,
    ) -> AnnotatorCounts:
        """Draws every visible object on every frame of the jobs.

        Tracks are one per object and job, with a keyframe on each frame where the object is seen and ``outside`` where
        it is gone. Shapes, tags and tracks that carry the object's index are corrected in place; others are left
        alone, and so are tags of a label without an index that are there already.

        Args:
            task_id: the task
            shape: one of :data:`SHAPE_KINDS`, or kinds by label name: objects of other labels are then left out, and
                an index counts within its label, as where a task carries several label fields
            tracks: draw tracks (True) or shapes (False); None: tracks for :data:`TRACKED_KINDS`, shapes for the others
            frames: frame numbers of the task to look at, what is on others stays; None for all that are not deleted
            index_attribute: attribute that takes the object's number; None when there is none
            complete: set the jobs to completed
            jobs: ids of jobs to work on; None for all that are not completed
            tidy: delete shapes whose index is that of no object which is there on their frame

        Raises:
            LabelMissing: the task lacks a label or attribute of the ground truth
            DataError: the ground truth has not what a kind needs: a mask, points, or a point for each of a skeleton's
                nodes
            ConfigurationError: there is no such kind, or it cannot be tracked
        """
        work = Work.checked(shape, tracks, frames, index_attribute, tidy)
        task = self._client.task(task_id)
        labels = LabelMap(self._client.labels(task_id))
        meta = self._client.data_meta(task_id=task_id)
        counts = AnnotatorCounts()
        for job in self._client.jobs(task_id):
            wanted = job.state != "completed" if jobs is None else job.id in jobs
            if not wanted:
                continue
            existing = self._client.annotations(job_id=job.id)
            desk = Desk(self._truth, self._sloppiness, self._seed, task, job, meta, labels, work, existing)
            counts += desk.draw()
            self._save(job, desk)
            if complete:
                self._client.update_job(job.id, state="completed")
        return counts

    def _save(self, job: Job, desk: Desk) -> None:
        if any(True for _ in objects(desk.changed)):
            self._client.update_annotations(desk.changed, job_id=job.id)
        if any(True for _ in objects(desk.deleted)):
            self._client.delete_annotations(desk.deleted, job_id=job.id)
        if any(True for _ in objects(desk.drawn)):
            self._client.create_annotations(desk.drawn, job_id=job.id)


__all__ = [
    "SHAPE_KINDS",
    "TRACKED_KINDS",
    "AnnotatorCounts",
    "JobPage",
    "Mask",
    "ReviewerCounts",
    "ScriptedAnnotator",
    "ScriptedReviewer",
    "ShapeKind",
    "Sloppiness",
    "TruthObject",
]
