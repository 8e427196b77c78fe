"""``kill -9`` at every write of the ledger while a review goes out, and while what reviewers did comes back.

What is there when the same call was made again is compared with a job that nobody killed: labels bit for bit, tasks,
jobs, shapes and issues on the server, and what the ledger says of the rounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import fiftyone as fo

    from benchmarks.faults_kill import Step
    from benchmarks.faults_stage import Stage

ReviewStep = Literal["out", "back"]

# Exemplars at both ends, the propagated frames between them.
_OPTIONS: dict[str, Any] = {"segmentation": "none", "exemplars": "every:3", "max_rounds": 2}


def killed_review(step: ReviewStep, stride: int) -> Callable[[Stage], str]:
    """Killed right before and (with an odd stride) right after each write of the ledger, and called again.

    Args:
        step: "out" for the request that sends the first review, "back" for the load that brings it back, fills what it
            touches and sends the next
        stride: 1 for every moment
    """

    def provoke(stage: Stage) -> str:
        expected, _ = _one(stage, step, None)
        for moment in range(0, 1000, stride):
            found, died = _one(stage, step, moment)
            if found != expected:
                return f"killed at moment {moment}: {_difference(expected, found)}"
            if not died:
                return "complete" if moment > 3 else f"only {moment} moments"
        return "never came to an end"

    return provoke


def _one(stage: Stage, step: ReviewStep, moment: int | None) -> tuple[dict[str, Any], bool]:
    """A job that is killed at a moment; what is there in the end, and whether it was killed at all."""
    from benchmarks.faults_stage import ids_of

    stage.proxy.clear()
    dataset = stage.dataset()
    dataset.persistent = True
    try:
        original = ids_of(dataset)
        stage.annotate(dataset, **_OPTIONS, review=step == "back")
        stage.draw(dataset)
        stage.load(dataset)
        if step == "back":
            _review(stage, dataset)
        call: Step = "load" if step == "back" else "review"
        ended = stage.forks().run(call, dataset.name, stage.proxy.url, moment)
        if ended == -9:
            again = stage.forks().run(call, dataset.name, stage.proxy.url)
            if again != 0:
                return {"the second call": f"ended with {again}"}, True
        elif ended != 0:
            return {"the call": f"ended with {ended}"}, True
        dataset.reload()
        dataset._annotation_cache.clear()
        found = _state(stage, dataset, original)
        stage.load(dataset)
        if _state(stage, dataset, original) != found:
            return {"one load more": _difference(found, _state(stage, dataset, original))}, ended == -9
        return found, ended == -9
    finally:
        dataset.delete()


def _review(stage: Stage, dataset: fo.Dataset) -> None:
    """A reviewer moves one mask, deletes one, draws an object that was missing, and gives a verdict."""
    from benchmarks.faults_stage import car_mask
    from labelprop_cvat.backend.cvat import mask_to_points
    from labelprop_cvat.backend.local_cvat.annotator import JobPage

    with stage.person() as client:
        job = max(client.jobs(stage.tasks(dataset)[-1]), key=lambda job: job.id)
        with JobPage(client, job.id) as page:
            left, top, crop = car_mask(1)
            page.brush_mask(page.shape(1, 1), mask_to_points(left + 3, top - 2, crop))
            page.delete(page.shape(2, 2))
            page.draw_mask("car", 1, mask_to_points(2, 2, crop))
            page.set_verdict(page.shape(2, 0), "fix")
            page.finish()


def _state(stage: Stage, dataset: fo.Dataset, original: list[str]) -> dict[str, Any]:
    """All that people and the server hold by now, without what differs from one run to the next."""
    from benchmarks.faults_stage import FIELD, KEY

    found: dict[str, Any] = {}
    kept = 0
    for name in (FIELD, f"{FIELD}_propagated"):
        labels = []
        for sample in dataset.sort_by("number"):
            held = sample[name] if sample.has_field(name) else None
            for label in held.detections if held is not None else ():
                mask = hashlib.sha256(label.mask.tobytes()).hexdigest()[:8]
                box = [round(value, 6) for value in label.bounding_box]
                is_keyframe, source = (label.get_attribute_value(key, None) for key in ("keyframe", "source"))
                labels.append((sample.number, label.index, label.label, box, mask, is_keyframe, source))
                kept += name == FIELD and label.id in original
        found[name] = sorted(labels, key=str)
    found["cars that kept their id"] = kept
    ledger = dataset.load_annotation_results(KEY, cache=False).ledger
    found["rounds"] = [(round_.kind, round_.edits, len(round_.tasks)) for round_ in ledger.rounds]
    found["fills"] = [
        (fill.said_absent, fill.rejected, fill.satisfied)
        for record in ledger.sequences.values()
        for segment in record.segments
        for fill in segment.fills.values()
    ]
    with stage.person() as client:
        for task in stage.tasks(dataset):
            name = client.task(task).name.removeprefix(dataset.name)
            names = {label.id: label.name for label in client.labels(task)}
            # A task that nobody filled has no jobs, and counts all the same.
            jobs: list[Any] = []
            found.setdefault(f"tasks named{name}", []).append(jobs)
            for job in client.jobs(task):
                there = client.annotations(job_id=job.id)
                shapes = [
                    (s["frame"], names[s["label_id"]], sorted(a["value"] for a in s["attributes"]), s["points"])
                    for s in there["shapes"]
                ]
                issues = sorted(
                    (issue.frame, issue.position, issue.resolved, [comment.message for comment in issue.comments])
                    for issue in client.issues(job.id)
                )
                entry = (job.stage, job.state, sorted(shapes, key=str), len(there["tracks"]), issues)
                jobs.append(entry)
    return found


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            return f"{name}: expected {str(expected.get(name))[:300]}, found {str(found.get(name))[:300]}"
    return "nothing differs"


__all__ = ["killed_review"]
