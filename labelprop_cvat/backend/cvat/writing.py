"""Writes that happen once: a request whose answer got lost is sent again only when what it did cannot be found.

Annotations are always written to a job, never to a whole task: a task lets a track run on into its later jobs, and
shows tracks with a closing keyframe that nobody sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from time import sleep
from typing import Any, TypeAlias, TypeVar

from labelprop_cvat.backend.cvat.annotations import KINDS, Annotations, empty, objects
from labelprop_cvat.backend.cvat.answers import is_unsure
from labelprop_cvat.backend.cvat.errors import CVATError, NotCVAT, PayloadTooLarge
from labelprop_cvat.backend.cvat.matching import Object, batches, find_new, halved, ids, same
from labelprop_cvat.backend.cvat.session import Session

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int], None]

PAYLOAD_BYTES = 8 * 2**20
_TRIES = 4
_TRIES_AT_500 = 2
_LOOKS = 3


def create_once(session: Session, send: Callable[[], T], look: Callable[[], T | None], what: str) -> T:
    """Sends a creating request; after a lost answer looks for the new object before sending again.

    Args:
        send: makes the object
        look: finds it, or returns None
        what: its name, for the log
    """
    for attempt in range(1, _TRIES):
        try:
            return send()
        except CVATError as error:
            if not is_unsure(error):
                raise
            failure = error
            logger.warning("It is unclear whether the %s was created, looking for it", what)
        found = _look_again(session, look, attempt)
        if found is not None:
            return found
        if failure.status == 500 and attempt >= _TRIES_AT_500:
            # It was not created, and a plain 500 that comes again will come for ever.
            raise failure
    return send()


def _look_again(session: Session, look: Callable[[], T | None], attempt: int) -> T | None:
    """Looks several times: a server that was slow to answer may still be at it."""
    for _ in range(_LOOKS):
        sleep(session.retry.delay(attempt))
        found = look()
        if found is not None:
            return found
    return None


class JobWriter:
    """Creates, updates and deletes annotations of one job, by PATCH, in pieces below 10 MB.

    Args:
        session: the login
        job_id: the job
    """

    def __init__(self, session: Session, job_id: int) -> None:
        self._session = session
        self._path = f"/api/jobs/{job_id}/annotations"

    def read(self) -> Annotations:
        """Reads what is stored."""
        answer = self._session.json("GET", self._path)
        if not isinstance(answer, dict):
            raise NotCVAT("Expected annotations, the server sent something else.", method="GET", path=self._path)
        return answer

    def create(self, payload: Mapping[str, Any], resume: bool, progress: Progress) -> Annotations:
        """Creates objects without ids. Returns them with ids, in the order given.

        Args:
            resume: take an equal object that is there already for the one to create
            progress: called with (objects that are there, all objects)
        """
        there = self.read()
        known = ids(there)
        made = [match for _, _, match in find_new(payload, there, set() if resume else known)[0]]
        missing = [position for position, item in enumerate(made) if item is None]
        sent = list(objects(payload))
        rest = empty()
        for position in missing:
            rest[sent[position][0]].append(sent[position][1])
        waiting = iter(missing)
        for batch in batches(rest, PAYLOAD_BYTES):
            for piece in self._fitting(batch, lambda piece: self._create_batch(piece, known)):
                for _, item in piece:
                    made[next(waiting)] = item
                progress(sum(item is not None for item in made), len(made))
        created = empty()
        for (kind, _), made_item in zip(sent, made, strict=True):
            created[kind].append(made_item)
        return created

    def update(self, payload: Mapping[str, Any]) -> Annotations:
        """Writes whole objects with ids. Returns them as the server has them.

        What somebody deleted in the meantime stays deleted: the server would make it anew under another id.
        """
        there = ids(self.read())
        alive = empty()
        gone = 0
        for kind, item in objects(payload):
            if (kind, int(item["id"])) in there:
                alive[kind].append(item)
            else:
                gone += 1
        if gone:
            logger.warning("%d annotations were deleted on the server in the meantime; they stay deleted", gone)
        changed = _by_id(self._rewrite(alive, "update", same))
        result = empty()
        for kind, item in objects(payload):
            result[kind].append(changed.get((kind, int(item["id"])), item))
        return result

    def delete(self, payload: Mapping[str, Any]) -> Annotations:
        """Deletes objects; those that are gone are fine. Returns what was deleted."""
        return self._rewrite(payload, "delete", lambda kind, sent, there: False)

    def _patch(self, action: str, batch: Annotations) -> Annotations:
        answer = self._session.json("PATCH", self._path, repeat="if_unsent", params={"action": action}, json=batch)
        if isinstance(answer, dict) and all(len(answer.get(kind) or ()) == len(batch[kind]) for kind in KINDS):
            return answer
        raise NotCVAT(
            f"Expected back each object of the {action}, the server sent something else. Read the job's annotations "
            f"to see what it did.",
            method="PATCH",
            path=self._path,
            status=200,
        )

    def _fitting(self, batch: Annotations, send: Callable[[Annotations], T]) -> Iterator[T]:
        """Sends a batch, in halves where the server or a proxy before it finds it too large."""
        waiting = [batch]
        while waiting:
            piece = waiting.pop(0)
            try:
                answer = send(piece)
            except PayloadTooLarge:
                halves = halved(piece)
                if not halves:
                    raise
                logger.info("Annotations are too large for the server, sending them in smaller pieces")
                waiting[:0] = halves
                continue
            yield answer

    def _create_batch(self, batch: Annotations, known: set[tuple[str, int]]) -> list[tuple[str, Object]]:
        """Creates one piece, and adds what was created to ``known``."""
        sent = list(objects(batch))
        made: list[Object | None] = [None] * len(sent)
        for attempt in range(1, _TRIES + 1):
            missing = [position for position, item in enumerate(made) if item is None]
            if not missing:
                break
            wanted = empty()
            for position in missing:
                kind, item = sent[position]
                wanted[kind].append(item)
            try:
                answers: list[Object | None] = [item for _, item in objects(self._patch("create", wanted))]
            except CVATError as error:
                if not is_unsure(error) or attempt == _TRIES:
                    raise
                logger.warning("It is unclear whether annotations were created, reading them back")
                answers = self._read_back(wanted, known, attempt)
                if error.status == 500 and attempt >= _TRIES_AT_500 and not any(answers):
                    raise
            for position, answer in zip(missing, answers, strict=True):
                made[position] = answer
            known |= {(sent[p][0], int(a["id"])) for p, a in zip(missing, answers, strict=True) if a is not None}
        return [(kind, item) for (kind, _), item in zip(sent, made, strict=True) if item is not None]

    def _read_back(self, sent: Annotations, known: set[tuple[str, int]], attempt: int) -> list[Object | None]:
        """The equal of each object sent, None for those that are not on the server."""

        def look() -> list[Object | None] | None:
            found, count = find_new(sent, self.read(), known)
            return [match for _, _, match in found] if count else None

        return _look_again(self._session, look, attempt) or [None for _ in objects(sent)]

    def _rewrite(
        self, payload: Mapping[str, Any], action: str, done: Callable[[str, Object, Object], bool]
    ) -> Annotations:
        """Updates or deletes by id, which is the same done twice; after a lost answer only what is not done is sent."""
        changed: dict[tuple[str, int], Object] = {}
        for batch in batches(payload, PAYLOAD_BYTES):
            for piece in self._fitting(batch, lambda piece: self._rewrite_batch(piece, action, done)):
                changed.update(piece)
        result = empty()
        for kind, item in objects(payload):
            result[kind].append(changed.get((kind, int(item["id"])), item))
        return result

    def _rewrite_batch(
        self, batch: Annotations, action: str, done: Callable[[str, Object, Object], bool]
    ) -> dict[tuple[str, int], Object]:
        changed: dict[tuple[str, int], Object] = {}
        left = batch
        for attempt in range(1, _TRIES + 1):
            try:
                changed.update(_by_id(self._patch(action, left)))
                break
            except CVATError as error:
                tries = _TRIES_AT_500 if error.status == 500 else _TRIES
                if not is_unsure(error) or attempt >= tries:
                    raise
            sleep(self._session.retry.delay(attempt))
            finished, left = self._undone(left, done)
            changed.update(_by_id(finished))
            if not any(True for _ in objects(left)):
                break
        return changed

    def _undone(
        self, sent: Annotations, done: Callable[[str, Object, Object], bool]
    ) -> tuple[Annotations, Annotations]:
        there = _by_id(self.read())
        finished, left = empty(), empty()
        for kind, item in objects(sent):
            current = there.get((kind, int(item["id"])))
            if current is None:
                finished[kind].append(item)
            elif done(kind, item, current):
                finished[kind].append(current)
            else:
                left[kind].append(item)
        return finished, left


def _by_id(annotations: Mapping[str, Any]) -> dict[tuple[str, int], Object]:
    return {(kind, int(item["id"])): item for kind, item in objects(annotations)}


__all__ = ["JobWriter", "create_once"]
