"""A run as an overview shows it: its jobs and rounds, and what it knows of each frame."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import fiftyone as fo

from labelprop_cvat.errors import DataError, LabelPropError
from labelprop_cvat.sequences import FrameRef
from labelprop_cvat.workflow._runs import run_results

if TYPE_CHECKING:
    from labelprop_cvat.backend.history import History
    from labelprop_cvat.backend.results import LabelPropResults

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class JobOverview:
    """One CVAT job of a run; the names are those of ``results.get_status()``.

    Args:
        round: number of its round, from 1
        kind: ``"exemplars"`` or ``"review"``
        sequence: name of its sequence
        segment: label of its temporal segment
        task_id: number of its task; None while there is none
        job_id: its number; None while there is none
        url: its address; None while there is none
        stage: where it is in CVAT
        state: likewise
        assignee: who has it; None for nobody
        frames: number of frames
        finished: whether a load would take it
        collected: whether one did
        issues: issues that people have not closed; None where nobody asked
        doubts: what the package doubts in a review and nobody has closed
    """

    round: int
    kind: str
    sequence: str
    segment: str
    task_id: int | None
    job_id: int | None
    url: str | None
    stage: str
    state: str
    assignee: str | None
    frames: int
    finished: bool
    collected: bool
    issues: int | None
    doubts: int


@dataclass(frozen=True)
class RunOverview:
    """A run.

    Args:
        anno_key: its key
        url: address of its server; empty where none is known
        label_fields: what people annotate
        outputs: the filled field of each of them that is filled
        jobs: its jobs
        history: its rounds; None where nothing of the run was written down
        asked: whether the server was asked just now; otherwise jobs are as they were last seen
        cut_off: whether its upload is still to be finished
        unfilled: temporal segments that came back and are not filled yet
        unreviewed: temporal segments that are filled, not out for review, and not reviewed since they were filled
        trouble: why the server could not be asked, or the run not be read; None where nothing went wrong
    """

    anno_key: str
    url: str = ""
    label_fields: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    jobs: tuple[JobOverview, ...] = ()
    history: History | None = None
    asked: bool = False
    cut_off: bool = False
    unfilled: int = 0
    unreviewed: int = 0
    trouble: str | None = None

    @property
    def rounds(self) -> int:
        """How many rounds went to CVAT."""
        return 0 if self.history is None else len(self.history)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("jobs", "history")},
            "label_fields": list(self.label_fields),
            "outputs": dict(self.outputs),
            "jobs": [dict(vars(job)) for job in self.jobs],
            "history": None if self.history is None else self.history.to_dict(),
        }


@dataclass(frozen=True)
class FrameMark:
    """What a run knows of a frame.

    Args:
        segment: its sequence's key and its temporal segment's label, with the segment's number in between
        exemplar: whether it was sent, or is to be sent, to be annotated
        sent: whether people have it
        annotating: whether they annotate it, and do not only look through what was propagated
        reviewed: whether a review of it came back
    """

    segment: tuple[str, str] | None = None
    exemplar: bool = False
    sent: bool = False
    annotating: bool = False
    reviewed: bool = False


def look_at_run(
    dataset: fo.Dataset, anno_key: str, *, refresh: bool = False, **login: Any
) -> tuple[RunOverview, LabelPropResults | None]:
    """Reads a run; what goes wrong is told, not raised.

    Args:
        dataset: holds it
        anno_key: its key, one of this backend
        refresh: whether to ask the server how far people are
        login: as ``load_annotations()`` takes it

    Returns:
        the run; and its results, None where nothing of it was written down
    """
    from labelprop_cvat.backend.history import history_of
    from labelprop_cvat.backend.rounds import segment_is_collected

    try:
        results = run_results(dataset, anno_key, **login)
        rows = results.get_status(refresh=False)
    except LabelPropError as error:
        return RunOverview(anno_key, cut_off=True, trouble=str(error)), None
    asked, trouble = False, None
    if refresh:
        try:
            _check_answers(results.config.url)
            rows, asked = results.get_status(), True
        except LabelPropError as error:
            trouble = f"CVAT could not be asked, so jobs are shown as they were last seen. {error}"
            logger.warning("Run %r: %s", anno_key, trouble)
    ledger, outputs = results.ledger, results.config.outputs()
    out, unfilled, unreviewed = ledger.under_review(), 0, 0
    for key, record in ledger.sequences.items():
        for number, segment in enumerate(record.segments):
            fills = [segment.fills[name] for name in outputs if name in segment.fills]
            filled = [fill for fill in fills if fill.signature is not None]
            if filled:
                unreviewed += (key, number) not in out and any(fill.reviewed != fill.signature for fill in filled)
            elif outputs and segment.exemplars and segment_is_collected(ledger, key, number):
                unfilled += 1
    jobs = tuple(
        JobOverview(
            **{name: row[name] for name in JobOverview.__dataclass_fields__ if name in row and name != "issues"},
            issues=row["open_issues"] if asked else None,
        )
        for row in ({**row, "doubts": len(row["doubts"] or ())} for row in rows)
    )
    return (
        RunOverview(
            anno_key=anno_key,
            url=results.config.url or "",
            label_fields=tuple(field.label_field for field in results.config.schema()),
            outputs=dict(outputs),
            jobs=jobs,
            history=history_of(ledger, anno_key=anno_key),
            asked=asked,
            cut_off=bool(ledger.rounds) and not ledger.uploaded,
            unfilled=unfilled,
            unreviewed=unreviewed,
            trouble=trouble,
        ),
        results,
    )


def _check_answers(url: str | None) -> None:
    """Finds out within seconds that nothing listens at an address, where whoever works with it would try on and on.

    Raises:
        DataError: nothing listens there
    """
    place = urlsplit(url or "")
    if not place.hostname or (place.scheme in getproxies() and not proxy_bypass(place.hostname)):
        return
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname, port), timeout=_PATIENCE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise DataError(f"Nothing answers at {url}: {error}. Try again when the server is back.") from error


def frame_marks(results: LabelPropResults) -> dict[FrameRef, FrameMark]:
    """What a run knows of each of its frames.

    Args:
        results: the run
    """
    ledger = results.ledger
    marks: dict[FrameRef, FrameMark] = {}
    for key, record in ledger.sequences.items():
        for number, segment in enumerate(record.segments):
            exemplars = set(segment.exemplars)
            for position in range(segment.start, segment.stop):
                mark = FrameMark((f"{key}/{number}", segment.label), exemplar=position in exemplars)
                marks[record.ref(position)] = mark
    for round_ in ledger.rounds:
        for task in round_.tasks:
            record = ledger.sequences[task.sequence]
            for job in task.jobs:
                for position in job.positions:
                    if not 0 <= position < len(record):
                        continue
                    ref = record.ref(position)
                    mark = marks.get(ref, FrameMark())
                    if not job.collected:
                        mark = replace(mark, sent=True, annotating=mark.annotating or not round_.is_review)
                    elif round_.is_review:
                        mark = replace(mark, reviewed=True)
                    marks[ref] = mark
    return marks


__all__ = ["FrameMark", "JobOverview", "RunOverview", "frame_marks", "look_at_run"]
