"""The frames of collected segments, filled from their keyframes: all of them at first, then what changed."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import fiftyone as fo

from labelprop_cvat import workflow
from labelprop_cvat.backend.keyframes import has_labels_field, labels_at
from labelprop_cvat.backend.ledger import FieldRecord, Ledger, SegmentRecord, SequenceRecord
from labelprop_cvat.backend.rounds import segment_is_collected
from labelprop_cvat.backend.schema import FieldSchema
from labelprop_cvat.errors import ConfigurationError, EngineError
from labelprop_cvat.progress import progress_bar
from labelprop_cvat.propagation.propagator import Propagator
from labelprop_cvat.propagation.types import Segment
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """One field of one segment whose keyframes changed.

    ``changes`` is None where all of it is to be filled, and empty where nothing comes out different.
    """

    schema: FieldSchema
    record: SequenceRecord
    segment: SegmentRecord
    exemplars: Mapping[int, list[fo.Label]]
    absences: list[list[int]]
    hidden: list[list[int]]
    signature: str
    digests: workflow.Digests
    changes: Mapping[int, workflow.ObjectChange] | None

    @property
    def frames(self) -> int:
        """How many frames an engine has to answer."""
        if self.changes is None:
            return self.segment.stop - self.segment.start
        return len(workflow.frames_to_fill(self.changes))


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

    A segment that was filled before is filled anew only where its objects' keyframes changed; every other label stays
    as it is. All of it is filled anew where that is asked for, where the run asks for another engine or other options
    than before, or where somebody took the labels away.

    Args:
        dataset: the dataset of the run
        ledger: changed and saved after every segment, so that an interrupted run goes on where it stopped
        config: the run's, which also says what fills this time
        sequence_of: makes the sequence of a record
        save: writes the ledger down
        held: ``(key of the sequence, number of the segment)`` of segments that are not to be touched now
    """

    dataset: fo.Dataset
    ledger: Ledger
    config: Any
    sequence_of: Callable[[SequenceRecord], FrameSequence]
    save: Callable[[], None]
    held: Collection[tuple[str, int]] = frozenset()

    def run(self, keyframes_in: Mapping[str, str], *, again: bool = False) -> Filled:
        """Fills what needs it.

        Args:
            keyframes_in: for each field of the run, the field that holds its keyframes
            again: fill all of all collected segments, changed or not

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
        unchanged = [work for work in pending if work.changes == {}]
        if unchanged:
            for work in unchanged:
                self._write_down(work)
            pending = [work for work in pending if work.changes != {}]
            self.save()
        if outputs and self.held:
            logger.info("Segments under review, which stay as they are until that is loaded: %d.", len(self.held))
        if not pending:
            if outputs:
                logger.info("Nothing changed, so nothing is propagated.")
            return Filled([], None)
        name, options = self.config.filled_by()
        if name is None:
            logger.info("%d segments need filling and are left to another load, as asked.", len(pending))
            return Filled([], None)
        total = sum(work.frames for work in pending)
        with ExitStack() as stack:
            # One engine for all of them: making one may mean loading gigabytes of weights.
            engine = stack.enter_context(workflow.engine_at_work(name, options)) if total else None
            progress = None if total else False
            bar = stack.enter_context(progress_bar(total, progress=progress))
            for work in pending:
                held_in, output = keyframes_in[work.schema.label_field], outputs[work.schema.label_field]
                try:
                    self._fill(work, engine, output, bar.update)
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
        return Filled(list(filled.values()), None if engine is None else engine.spec.name)

    def _fill(self, work: _Work, engine: Propagator | None, output: str, on_frame: Callable[[], object]) -> None:
        started = time.monotonic()
        schema, segment = work.schema, work.segment
        asked: dict[str, Any] = {
            "start": segment.start,
            "stop": segment.stop,
            "exemplars": work.exemplars,
            "absences": work.absences,
            "engine": engine,
            "output_field": output,
            "instances": work.record.identities(schema.label_field).instances,
            "attribute_types": schema.field_types(),
            "on_frame": on_frame,
        }
        sequence = self.sequence_of(work.record)
        names = {attribute.name for attributes in schema.classes.values() for attribute in attributes}
        if work.changes is None and not work.hidden:
            workflow.fill_segment(self.dataset, sequence, **asked)
        else:
            changes = work.changes
            if changes is None:
                changes = workflow.whole_objects(work.digests, Segment(segment.start, segment.stop))
            workflow.refill_segment(
                self.dataset,
                sequence,
                changes=changes,
                hidden=work.hidden,
                attribute_names=names,
                only_these=work.changes is None,
                **asked,
            )
        self._write_down(work)
        if engine is not None and work.frames:
            fill = segment.fill(schema.label_field)
            fill.engine, fill.seconds = engine.spec.name, round(time.monotonic() - started, 3)
        self.save()

    def _write_down(self, work: _Work) -> None:
        """Notes what a segment is made from."""
        fill = work.segment.fill(work.schema.label_field)
        before = _numbered(fill.prompts or {}) if work.changes is not None else {}
        # A verdict is about what the reviewer saw, or made of it.
        stays = {index for index, places in work.digests.items() if before.get(index) == places} | set(fill.vouched)
        fill.satisfied, fill.vouched = [index for index in fill.satisfied if index in stays], []
        fill.signature, fill.made_with = work.signature, self._made_with
        fill.prompts = {
            str(index): {str(position): digest for position, digest in places.items()}
            for index, places in work.digests.items()
        }

    @property
    def _asked_engine(self) -> str:
        # As the run was asked for, not as it comes out on this machine: what nobody changed is not filled anew because
        # "auto" takes another engine here, or because the weights lie elsewhere.
        return f"{self.config.engine} {sorted(self.config.engine_options.items())}"

    @property
    def _made_with(self) -> str:
        return hashlib.sha256(self._asked_engine.encode()).hexdigest()[:16]

    def _changed(self, schema: FieldSchema, held_in: str, output: str, again: bool) -> Iterator[_Work]:
        for key, record in self.ledger.sequences.items():
            for number, segment in enumerate(record.segments):
                if record.independent or segment.stop <= segment.start or (key, number) in self.held:
                    continue
                if segment_is_collected(self.ledger, key, number):
                    work = self._work(schema, record, segment, held_in, output, again)
                    if work is not None:
                        yield work

    def _work(
        self,
        schema: FieldSchema,
        record: SequenceRecord,
        segment: SegmentRecord,
        held_in: str,
        output: str,
        again: bool,
    ) -> _Work | None:
        """What there is to do for a segment; None for nothing at all."""
        fill = segment.fill(schema.label_field)
        exemplars = self.steering_labels(record, segment, schema, held_in)
        absences, hidden = (
            [[index, position] for index, position in places if index not in fill.rejected]
            for places in (fill.absences, fill.said_absent)
        )
        prompts = workflow.make_prompts(exemplars, record.size_at(segment.start), absences)
        made_from = f"{self._asked_engine} {sorted(hidden)}" if hidden else self._asked_engine
        signature = workflow.prompts_signature(prompts, exemplars, made_from)
        digests = workflow.prompt_digests(prompts, exemplars, hidden)
        is_filled = not again and self._is_filled(record, segment, output)
        changes: Mapping[int, workflow.ObjectChange] | None = None
        if is_filled and fill.prompts is None and fill.signature == signature:
            # Filled by an earlier version, which did not keep what each object was made from.
            changes = {}
        elif is_filled and fill.prompts is not None and fill.made_with == self._made_with:
            before = _numbered(fill.prompts)
            if before == digests and fill.signature == signature:
                return None
            changes = workflow.changed_objects(before, digests, Segment(segment.start, segment.stop))
        return _Work(schema, record, segment, exemplars, absences, hidden, signature, digests, changes)

    def _is_filled(self, record: SequenceRecord, segment: SegmentRecord, output: str) -> bool:
        ends = {segment.start, segment.stop - 1}
        return all(has_labels_field(self.dataset, record, output, position) for position in ends)

    def steering_labels(
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
            for task, job in self.ledger.annotation_jobs()
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
        rejected = set(segment.fill(schema.label_field).rejected)
        found = {position: [e for e in entries if e.index not in rejected] for position, entries in found.items()}
        return {position: entries for position, entries in sorted(found.items()) if entries}


def _numbered(prompts: Mapping[str, Mapping[str, str]]) -> dict[int, dict[int, str]]:
    return {
        int(index): {int(position): digest for position, digest in places.items()} for index, places in prompts.items()
    }


def _run_index(label: fo.Label, identities: FieldRecord, numbers: Mapping[str, int]) -> int | None:
    """The number that a label's object goes by in the run, which is its index unless that could not be used."""
    number = numbers.get(label.id)
    if number is not None and label.index in (None, identities.own_index(number)):
        return number
    return None if label.index is None else identities.aliases.get(f"{label.index}:{label.label}", label.index)


__all__ = ["Filled", "Filling"]
