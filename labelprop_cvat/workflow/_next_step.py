"""Which step of the loop comes next, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from labelprop_cvat.wording import counted

if TYPE_CHECKING:
    from labelprop_cvat.workflow._run_facts import RunOverview


class Step(str, Enum):
    """The steps of the loop, in order."""

    SEGMENT = "segment"
    SELECT = "select"
    SEND = "send"
    PROPAGATE = "propagate"
    LOAD = "load"
    SUGGEST = "suggest"
    REVIEW = "review"
    EVALUATE = "evaluate"
    STATUS = "status"
    CLEANUP = "cleanup"


@dataclass(frozen=True)
class NextStep:
    """What comes next.

    Args:
        step: the step
        why: a sentence
    """

    step: Step
    why: str


@dataclass(frozen=True)
class Totals:
    """Counts over all sequences.

    Args:
        sequences: sequences
        frames: frames
        segments: temporal segments
        exemplars: frames that were chosen to be annotated
        waiting: those of them that nobody has annotated or got to annotate
        annotated: frames whose labels people set
        sent: frames that people have and that were not loaded yet
        propagated: frames that were filled and that nobody looked at
        reviewed: frames that were filled and that a reviewer looked through
        doubtful: of the propagated frames those with an object of little confidence
    """

    sequences: int = 0
    frames: int = 0
    segments: int = 0
    exemplars: int = 0
    waiting: int = 0
    annotated: int = 0
    sent: int = 0
    propagated: int = 0
    reviewed: int = 0
    doubtful: int = 0


def next_step(totals: Totals, run: RunOverview | None, *, is_evaluated: bool, has_truth: bool) -> NextStep:
    """The step that comes next.

    Args:
        totals: how far the frames are
        run: the run, if there is one
        is_evaluated: whether an evaluation of the filled field is there
        has_truth: whether there are labels that it could be judged by
    """
    if not totals.frames:
        return NextStep(Step.SEGMENT, "There are no images or videos in this view. Add some, or widen the view.")
    found = None if run is None else _of_run(totals, run)
    if found is not None:
        return found
    if run is None and not (totals.propagated or totals.reviewed):
        return _at_the_beginning(totals)
    if is_evaluated:
        if run is not None and run.jobs:
            return NextStep(Step.CLEANUP, "The evaluation is there. The tasks can be deleted from CVAT.")
        return NextStep(Step.SEND, "The evaluation is there. What is not good enough, people can mend in CVAT.")
    if run is None and totals.waiting:
        return NextStep(
            Step.SEND,
            f"{counted(totals.waiting, 'exemplar')} {_are(totals.waiting)} not annotated: send them to CVAT.",
        )
    # What people looked at themselves is no longer judged.
    if has_truth and (run is None or totals.propagated):
        return NextStep(Step.EVALUATE, "Other labels are there to judge the filled ones by.")
    if run is None:
        return NextStep(
            Step.SEND, f"{counted(totals.propagated, 'frame')} were filled. Have people look through them in CVAT."
        )
    if run.jobs:
        return NextStep(Step.CLEANUP, "Everything came back. The tasks can be deleted from CVAT.")
    return NextStep(Step.SEND, "The run has nothing in CVAT any more. A new run begins the next loop.")


def _at_the_beginning(totals: Totals) -> NextStep:
    if not totals.segments:
        return NextStep(Step.SEGMENT, f"Cut the {counted(totals.frames, 'frame')} where the scene changes.")
    if totals.annotated:
        others = totals.frames - totals.annotated
        have = "has" if totals.annotated == 1 else "have"
        return NextStep(
            Step.PROPAGATE,
            f"{counted(totals.annotated, 'frame')} {have} labels: fill the other {others} from them.",
        )
    if not totals.exemplars:
        return NextStep(
            Step.SELECT, f"Choose the frames of the {counted(totals.segments, 'segment')} that people annotate."
        )
    return NextStep(
        Step.SEND, f"{counted(totals.exemplars, 'exemplar')} {_are(totals.exemplars)} chosen: send them to CVAT."
    )


def _of_run(totals: Totals, run: RunOverview) -> NextStep | None:
    if run.history is None:
        return NextStep(Step.SEND, run.trouble or f"Run {run.anno_key} never reached CVAT: send it again.")
    if run.cut_off:
        return NextStep(Step.LOAD, f"The upload of run {run.anno_key} was cut off: loading goes on with it.")
    waiting = [job for job in run.jobs if not job.collected]
    ready = [job for job in waiting if job.finished]
    if ready:
        which = "it" if len(ready) == 1 else "them"
        return NextStep(
            Step.LOAD, f"{len(ready)} of {counted(len(waiting), 'job')} {_are(len(ready))} completed: load {which}."
        )
    if run.unfilled:
        return NextStep(Step.LOAD, f"{counted(run.unfilled, 'segment')} came back and are not filled yet: load again.")
    if waiting:
        return NextStep(
            Step.STATUS,
            f"People have {counted(len(waiting), 'job')}"
            + (f" of {len(run.jobs)}" if len(run.jobs) > len(waiting) else "")
            + (". Ask CVAT how far they are." if run.asked else " by what was last seen. Ask CVAT how far they are."),
        )
    if not run.unreviewed:
        return None
    if totals.doubtful and run.rounds == 1:
        return NextStep(
            Step.SUGGEST,
            f"{counted(totals.doubtful, 'frame')} hold an object in doubt: see which are worth annotating next.",
        )
    return NextStep(
        Step.REVIEW, f"{counted(run.unreviewed, 'segment')} {_are(run.unreviewed)} filled and not reviewed yet."
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


__all__ = ["NextStep", "Step", "Totals", "next_step"]
