"""People made of scripts: whoever annotates exemplars and reviews what was propagated, from the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from labelprop_cvat.backend.cvat import Credentials, CVATClient
from labelprop_cvat.backend.ledger import Ledger, TaskRecord
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.backend.local_cvat.annotator import (
    ScriptedAnnotator,
    ShapeKind,
    Sloppiness,
    TruthObject,
)
from labelprop_cvat.backend.local_cvat.annotator.reviewer import ReviewerCounts, ScriptedReviewer
from labelprop_cvat.demo.footage import Footage

#: What is truly on a frame, by its name: the file's without suffix, or ``frame_000001`` for the first of a video.
FrameTruth = Callable[[str], Sequence[TruthObject]]


class ScriptedPeople:
    """Works on the jobs of a run as people would, until none is left unfinished.

    Args:
        server: where the run's jobs are
        truth: what they know
        shape: what they draw on exemplars
        sloppiness: how carelessly they draw on exemplars; perfectly by default
        every: in reviews they look at every so many frames, and at the issues
        threshold: they mend an object where what CVAT shows has less than this IoU with the truth
    """

    def __init__(
        self,
        server: LocalCVAT,
        truth: FrameTruth,
        *,
        shape: ShapeKind = "mask",
        sloppiness: Sloppiness | None = None,
        every: int = 5,
        threshold: float = 0.8,
    ) -> None:
        self._server = server
        self._truth = truth
        self._shape: ShapeKind = shape
        self._sloppiness = sloppiness or Sloppiness()
        self._every = every
        self._threshold = threshold
        #: How many shapes they drew on exemplars.
        self.drawn = 0
        #: What they did in reviews.
        self.reviewed = ReviewerCounts()

    def work(self, results: Any) -> None:
        """Does every unfinished job of a run.

        Args:
            results: of the run, as ``dataset.load_annotation_results()`` gives them
        """
        waiting = {row["job_id"] for row in results.get_status() if not row["finished"]}
        login = Credentials(username=self._server.username, password=self._server.password)
        with CVATClient(self._server.url, login) as client:
            reviews = 0
            for round_ in results.ledger.rounds:
                reviews += round_.is_review
                for task in round_.tasks:
                    jobs = [job.id for job in task.jobs if job.id is not None and job.id in waiting]
                    truth = _TaskTruth(self._truth, results.ledger, task)
                    if round_.is_review:
                        self._review(client, jobs, truth, reviews - 1)
                    elif jobs:
                        annotator = ScriptedAnnotator(client, truth, self._sloppiness)
                        self.drawn += annotator.annotate_task(
                            task.server_id, shape=self._shape, jobs=jobs, tidy=True
                        ).drawn

    def _review(self, client: CVATClient, jobs: Sequence[int], truth: _TaskTruth, before: int) -> None:
        # Who looks again looks at other frames than last time.
        first = before * (self._every // 2 + 1) % self._every
        reviewer = ScriptedReviewer(client, every=self._every, threshold=self._threshold, first=first)
        for job_id in jobs:
            self.reviewed += reviewer.review(job_id, truth)


def truth_of(footage: Footage) -> FrameTruth:
    """What people know of footage."""
    if footage.video is not None:
        indices = {f"frame_{index + 1:06d}": index for index in range(len(footage.frames))}
    else:
        indices = {path.stem: index for index, path in enumerate(footage.images)}

    def truth(name: str) -> list[TruthObject]:
        masks = footage.truth(indices[name])
        return [TruthObject(object_id, footage.label(object_id), mask=mask) for object_id, mask in masks.items()]

    return truth


class _TaskTruth:
    """The truth by the names that frames have in one task."""

    def __init__(self, truth: FrameTruth, ledger: Ledger, task: TaskRecord) -> None:
        self._truth = truth
        self._names: dict[str, str] = {}
        if task.video:
            # A task of the file itself: CVAT counts its frames from 0, and has no names for them.
            numbers = ledger.sequences[task.sequence].frame_numbers
            self._names = {f"frame_{n:06d}": f"frame_{numbers[at]:06d}" for n, at in enumerate(task.positions())}

    def __call__(self, _task: str, frame: str) -> Sequence[TruthObject]:
        name = PurePath(frame).stem
        return self._truth(self._names.get(name, name))


__all__ = ["FrameTruth", "ScriptedPeople", "truth_of"]
