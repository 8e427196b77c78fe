"""The frames of collected segments, filled from their keyframes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import fiftyone as fo

from labelprop_cvat import workflow
from labelprop_cvat.backend.keyframes import has_labels_field, labels_at
from labelprop_cvat.backend.ledger import FieldRecord, Ledger, SegmentRecord, SequenceRecord
from labelprop_cvat.backend.rounds import segment_is_collected
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.errors import ConfigurationError, EngineError
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """One field of one segment that needs filling."""

    schema: FieldSchema
    record: SequenceRecord
    segment: SegmentRecord
    signature: str


class Filled(NamedTuple):
    """What was filled.

    Args:
        segments: labels of the segments
        engine: name of the engine that did it; None where there was nothing to do
    """

    segments: list[str]
    engine: str | None


@dataclass(frozen=True)
class Filling:
    """Fills segments whose keyframes changed since they were last filled, and no others.

    Args:
        dataset: the dataset of the run
        ledger: changed and saved after every segment, so that an interrupted run goes on where it stopped
        config: the run's, which also says what fills this time
        sequence_of: makes the sequence of a record
        save: writes the ledger down
    """

    dataset: fo.Dataset
    ledger: Ledger
    config: Any
    sequence_of: Callable[[SequenceRecord], FrameSequence]
    save: Callable[[], None]

    def run(self, keyframes_in: Mapping[str, str], *, again: bool = False) -> Filled:
        """Fills what needs it.

        Args:
            keyframes_in: for each field of the run, the field that holds its keyframes
            again: fill all collected segments, changed or not

        Raises:
            ConfigurationError: the engine is not to be had; nothing was filled
            EngineError: it failed; the segments before stay filled, the one that it names is as it was
        """
        outputs, schema = self.config.outputs(), self.config.schema()
        pending: list[_Work] = []
        for label_field, held_in in keyframes_in.items():
            if label_field in outputs:
                workflow.checked_output_field(self.dataset, held_in, outputs[label_field])
                pending += self._changed(schema[label_field], held_in, outputs[label_field], again)
        if not pending:
            if outputs:
                logger.info("Nothing changed, so nothing is propagated.")
            return Filled([], None)
        name, options = self.config.filled_by()
        if name is None:
            logger.info("%d segments need filling and are left to another load, as asked.", len(pending))
            return Filled([], None)
        total = sum(work.segment.stop - work.segment.start for work in pending)
        # One engine for all of them: making one may mean loading gigabytes of weights.
        with (
            workflow.engine_at_work(name, options) as engine,
            fo.ProgressBar(total=total, iters_str="frames") as bar,
        ):
            for work in pending:
                held_in, output = keyframes_in[work.schema.label_field], outputs[work.schema.label_field]
                try:
                    self._fill(work, engine, held_in, output, bar.update)
                except EngineError as error:
                    raise EngineError(f"{error} Calling load_annotations() again goes on there.") from error
                except ConfigurationError as error:
                    raise ConfigurationError(
                        f"{error} What people drew is in {held_in!r} already; only other frames could not be filled. "
                        f"Call load_annotations() again with engine= or engine_options= that fit this machine, for "
                        f"once and over those of the run."
                    ) from error
            # Once each, however many fields; the segments of two sequences may go by the same name.
            filled = {(work.record.key, work.segment.start): work.segment.label for work in pending}
            return Filled(list(filled.values()), engine.spec.name)

    def _fill(self, work: _Work, engine: Propagator, held_in: str, output: str, on_frame: Callable[[], object]) -> None:
        started = time.monotonic()
        label_field, segment = work.schema.label_field, work.segment
        fill = segment.fill(label_field)
        workflow.fill_segment(
            self.dataset,
            self.sequence_of(work.record),
            start=segment.start,
            stop=segment.stop,
            exemplars=self._exemplars(work.record, segment, work.schema, held_in),
            absences=fill.absences,
            engine=engine,
            output_field=output,
            instances=work.record.identities(label_field).instances,
            attribute_types=work.schema.field_types(),
            on_frame=on_frame,
        )
        fill.signature, fill.engine = work.signature, engine.spec.name
        fill.seconds = round(time.monotonic() - started, 3)
        self.save()

    def _changed(self, schema: FieldSchema, held_in: str, output: str, again: bool) -> Iterator[_Work]:
        # As the run was asked for, not as it comes out on this machine: what nobody changed is not filled anew because
        # "auto" takes another engine here, or because the weights lie elsewhere.
        engine = f"{self.config.engine} {sorted(self.config.engine_options.items())}"
        for key, record in self.ledger.sequences.items():
            for number, segment in enumerate(record.segments):
                if record.independent or segment.stop <= segment.start:
                    continue
                if not segment_is_collected(self.ledger, key, number):
                    continue
                fill = segment.fill(schema.label_field)
                exemplars = self._exemplars(record, segment, schema, held_in)
                prompts = workflow.make_prompts(exemplars, record.size_at(segment.start), fill.absences)
                signature = workflow.prompts_signature(prompts, exemplars, engine)
                if again or signature != fill.signature or not self._is_filled(record, segment, output):
                    yield _Work(schema, record, segment, signature)

    def _is_filled(self, record: SequenceRecord, segment: SegmentRecord, output: str) -> bool:
        ends = {segment.start, segment.stop - 1}
        return all(has_labels_field(self.dataset, record, output, position) for position in ends)

    def _exemplars(
        self, record: SequenceRecord, segment: SegmentRecord, schema: FieldSchema, held_in: str
    ) -> dict[int, list[fo.Label]]:
        """The labels of a segment that a person set or confirmed and that steer it, by position."""
        identities = record.identities(schema.label_field)
        field = replace(schema, label_field=held_in)
        numbers = {label_id: int(place.split(":")[0]) for place, label_id in identities.label_ids.items()}
        deleted = {
            position for task, job in self.ledger.jobs() if task.sequence == record.key for position in job.deleted
        }
        # What a later round holds counts once it is collected; until then only keyframes of other origin do.
        pending = {
            position
            for task, job in self.ledger.jobs()
            if task.sequence == record.key and not job.collected
            for position in job.positions
        }
        chosen = [position for position in segment.exemplars if position not in pending]
        positions = [position for position in chosen if position not in deleted]
        found = {
            position: [
                label
                for label in entries
                if label.get_attribute_value("keyframe", None) or (label.id in numbers and not schema.only_keyframes)
            ]
            for position, entries in labels_at(self.dataset, record, field, positions).items()
        }
        others = set(range(segment.start, segment.stop)) - set(chosen)
        for position, entries in labels_at(self.dataset, record, field, others, keyframes_only=True).items():
            found.setdefault(position, []).extend(entries)
        ended = set(segment.fill(schema.label_field).ended)
        found = {position: [label for label in entries if label.id not in ended] for position, entries in found.items()}
        for entries in found.values():
            for label in entries:
                label.index = _run_index(label, identities, numbers)
        return {position: entries for position, entries in sorted(found.items()) if entries}


def _run_index(label: fo.Label, identities: FieldRecord, numbers: Mapping[str, int]) -> int | None:
    """The number that a label's object goes by in the run, which is its index unless that could not be used."""
    number = numbers.get(label.id)
    if number is not None and label.index in (None, identities.own_index(number)):
        return number
    return None if label.index is None else identities.aliases.get(f"{label.index}:{label.label}", label.index)


__all__ = ["Filled", "Filling"]
