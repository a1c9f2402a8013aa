"""Implements the operator actions on rejected inputs (the dead-letter table) and on paused topics."""

import base64
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial

import psycopg

from service.domain.delivery import IntakeLimits
from service.domain.events import Reason
from service.domain.input_limits import InputLimits
from service.domain.topics import INCOMING_TOPICS
from service.operators.apart import replay_apart
from service.operators.editing import Edited, difference, text_of
from service.operators.errors import Conflict, InvalidRequest, NotFound, operation_error
from service.operators.handover import replay_there
from service.operators.replay import Replay, Replayed
from service.operators.transactions import Page, transaction
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.runtime.errors import one_line
from service.store import operator_actions, quarantine
from service.store.operator_actions import Operator, Subject
from service.store.quarantine import QuarantinedRow, QuarantineFilter


class QuarantineActions:
    """Performs the operator actions on rejected inputs. Every method raises OperationError."""

    def __init__(
        self,
        database: Database,
        limits: IntakeLimits,
        input_limits: InputLimits,
        other_cell: Callable[[str], Database] | None = None,
    ) -> None:
        """`other_cell` opens the database of the cell that has this batch."""
        self._other_cell = other_cell
        self._database = database
        self._limits = limits
        self._input_limits = input_limits

    async def list(
        self, condition: QuarantineFilter, *, page: int, state: str | None, before: int | None
    ) -> Page[QuarantinedRow]:
        """Returns a page of rejected inputs, the newest first."""
        async with transaction(self._database) as conn:
            rows = await quarantine.list_quarantine(conn, condition, page=page, state=state, before=before)
        return Page(rows, str(rows[-1].id) if len(rows) == page else None)

    async def show(self, id_: int, most_bytes: int | None = None) -> NamedRow:
        """Returns a rejected input, with at most the first `most_bytes` bytes of its value.

        Bytes that are printable text are returned as text; others in Base64, under the name with `_base64`.
        """
        async with transaction(self._database) as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None:
            raise NotFound(f"there is no quarantined input {id_}")
        value, edited = row["value"], row["edited_value"]
        shown = {**row, "value": value and value[:most_bytes], "edited_value": edited and edited[:most_bytes]}
        del shown["fingerprint"]
        is_cut = value is not None and most_bytes is not None and len(value) > most_bytes
        return _readable(shown) | ({"value_bytes": len(value), "decoded": None} if is_cut else {})

    async def read_open(self, id_: int) -> NamedRow:
        """Returns an open input with all its columns, as they are stored."""
        async with transaction(self._database) as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None or row["state"] != "open":
            raise Conflict(f"quarantined input {id_} {'is ' + row['state'] if row else 'does not exist'}")
        return row

    async def find_open(
        self, condition: QuarantineFilter, *, everything: bool, most: int | None = None
    ) -> Sequence[int]:
        """Returns the ids of the open inputs that match the filter, the oldest first.

        A filter without conditions needs `everything`, so that nobody replays or discards all inputs by mistake.
        """
        if condition == QuarantineFilter(after=condition.after) and not everything:
            raise InvalidRequest("give ids, or filter by topic, reason or age, or ask for all inputs", parameter="all")
        async with transaction(self._database) as conn:
            ids = await quarantine.find_open_quarantine(conn, condition, most)
        if missing := sorted(set(condition.ids or ()) - set(ids)):
            raise NotFound(f"quarantined input {missing[0]} does not exist, is not open, or does not match the filters")
        if not ids:
            raise NotFound("no open input in the quarantine matches")
        return ids

    async def replay(
        self, by: Operator, ids: Iterable[int], *, in_this_process: bool = False
    ) -> AsyncIterator[Replayed]:
        """Process rejected inputs again like new ones, each in a transaction of its own. Yields the outcomes.

        Those that have killed a process are replayed in another one, unless `in_this_process`.
        """
        replay = self._replay(by)
        deadly = set() if in_this_process else await self._deadly()
        for id_ in ids:
            try:
                outcome = await (self._replay_apart(by, id_) if id_ in deadly else replay.replay(id_))
            except Conflict as error:
                outcome = Replayed(id_, "", "closed", str(error))
            except psycopg.Error as error:
                if not is_contention(error):
                    raise operation_error(error) from None
                outcome = Replayed(id_, "", "busy", one_line(error))
            yield outcome

    async def edit(
        self, by: Operator, id_: int, value: bytes, *, dry_run: bool = False, in_this_process: bool = False
    ) -> Edited:
        """Process a value as if it had arrived in place of a rejected input, and close that with it.

        If the value is rejected, nothing changes, and `error` of the result says why. Where the input has killed a
        process, the value is processed in another one, unless `in_this_process`. A dry run changes nothing.
        """
        row = await self.read_open(id_)
        try:
            if row["reason"] == Reason.KILLED_THE_PROCESS and not in_this_process:
                done = await replay_apart(by, id_, value, dry_run=dry_run)
            else:
                done = await self._replay(by).edit(id_, value, dry_run=dry_run)
        except psycopg.Error as error:
            raise operation_error(error) from None
        shown = difference(row["value"], value)
        return Edited(done.id, done.topic, done.outcome, done.error, difference=shown)

    def _replay(self, by: Operator) -> Replay:
        hand_over = partial(self._hand_over, by)
        return Replay(self._database, by, self._limits, self._input_limits, self._other_cell, hand_over)

    async def _hand_over(self, by: Operator, there: Database, row: NamedRow, edited: bytes | None) -> Replayed:
        try:
            return await replay_there(there, by, row, edited, self._limits, self._input_limits)
        finally:
            await there.close()

    async def _deadly(self) -> set[int]:
        """Return the open inputs that have killed a process."""
        async with transaction(self._database) as conn:
            condition = QuarantineFilter(reason=Reason.KILLED_THE_PROCESS)
            return set(await quarantine.find_open_quarantine(conn, condition))

    async def _replay_apart(self, by: Operator, id_: int) -> Replayed:
        outcome = await replay_apart(by, id_)
        if outcome.outcome == Reason.KILLED_THE_PROCESS:  # otherwise that process has recorded it
            async with transaction(self._database) as conn:
                subject = Subject(details={"id": id_, "outcome": outcome.outcome, "error": outcome.error})
                await operator_actions.insert_operator_actions(conn, by, "quarantine replay", [subject])
        return outcome

    async def discard(self, by: Operator, ids: Sequence[int]) -> int:
        """Discard rejected inputs permanently, in one transaction. Returns how many of them were still open."""
        async with transaction(self._database) as conn:
            discarded = await quarantine.close_quarantine(conn, ids, "discarded")
            if discarded:
                subjects = [Subject(each.batch_id, each.topic, each.named) for each in discarded]
                await operator_actions.insert_operator_actions(conn, by, "quarantine discard", subjects)
        return len(discarded)

    async def paused(self) -> Sequence[str]:
        """Returns the input topics that are paused."""
        async with transaction(self._database) as conn:
            counters = await quarantine.read_topic_rejections(conn)
        return sorted(topic for topic, counter in counters.items() if counter.paused)

    async def resume(self, by: Operator, topic: str, *, skip_refused: bool = False) -> None:
        """End the pause of a topic. With `skip_refused`, no rejection pauses it again before the next valid record."""
        if topic not in INCOMING_TOPICS:
            raise InvalidRequest(
                f"there is no input topic {topic!r}; the input topics are {', '.join(INCOMING_TOPICS)}"
            )
        async with transaction(self._database) as conn:
            resumed = await quarantine.resume_topic(conn, topic, skips=skip_refused)
            if resumed:
                subject = Subject(topic=topic, details={"skip_refused": True} if skip_refused else {})
                await operator_actions.insert_operator_actions(conn, by, "quarantine resume", [subject])
        if not resumed:
            raise Conflict(f"{topic} is not paused")


def _readable(row: NamedRow) -> NamedRow:
    shown: NamedRow = {}
    for name, value in row.items():
        text = text_of(value) if isinstance(value, bytes) else value
        if isinstance(value, bytes) and text is None:
            shown[f"{name}_base64"] = base64.b64encode(value).decode()
        else:
            shown[name] = text
    return shown
