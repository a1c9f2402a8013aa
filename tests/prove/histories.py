"""Runs random histories of the service's code on a real database and compares each with a small model.

A history is a run of random steps from one seed: polls of arrivals in any order, repeats under old and new event ids,
bad records, contradictions; purges, restores, removals, replays of the quarantine; and crashes at any statement and
before or after a commit, after which the poll is delivered again. At the end the tables and the outbox match the model,
no invariant is violated, and delivering everything once more changes nothing.
"""

import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor

from service.domain import events
from service.domain.cells import ALL_BATCHES, Slice
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import BatchRegistered, ContentProvisioned, Incoming, Reason, Rejection
from service.domain.input_limits import DEFAULT_LIMITS, InputLimits
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.kafka.deliveries import decode_own
from service.operators import errors as actions
from service.operators import pending
from service.operators.batches import BatchActions
from service.operators.replay import Replay
from service.postgres import arrays
from service.postgres.pool import Database
from service.postgres.session import start_of
from service.purge import purge
from service.purge.policy import RetentionPolicy
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from tests.prove.report import Row, Task
from tests.support.builders import inputs
from tests.support.checks import invariants
from tests.support.checks.readers import read_strictly
from tests.support.interleaving.interleaving import TABLES
from tests.support.pods.applier import deliver

LATER = datetime(2099, 1, 1, tzinfo=UTC)
NEVER = 4_000_000_000
TERMS = RetentionPolicy(1, NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)
"""Nothing but pending content is due, at a time that is decades ahead."""
LATE = replace(TERMS, pending_ttl=NEVER, batch_timeout=1)
OPERATOR = Operator("prove")


@dataclass(slots=True)
class Expected:
    """The model of one batch; `announced` is what there must be an event about."""

    essays: tuple[str, ...] | None = None
    slots: dict[str, str] = field(default_factory=dict)
    """Essay → its content or failure, for taken slots."""
    places: dict[str, str] = field(default_factory=dict)
    """Content or failure → pending, expired, removed, slot, excess, surplus; in the order of arrival."""
    announced: Counter[tuple[str, str]] = field(default_factory=Counter)
    timed_out: bool = False
    ended: str | None = None
    """How an operator has ended it: closed or cancelled."""
    class_id: str | None = None
    confirmations: dict[str, str] = field(default_factory=dict)
    """Class → pending, applied, unused; in the order of arrival."""

    def register(self, essays: tuple[str, ...], class_id: str | None) -> None:
        if self.essays is not None:
            return
        self.essays, self.class_id = essays, class_id
        waiting = [upload for upload, place in self.places.items() if place in ("pending", "expired")]
        for upload in sorted(waiting, key=_is_failure):  # content before failures, each in order of arrival
            self._assign(upload)

    def arrive(self, upload: str) -> None:
        if upload in self.places:
            return
        self.places[upload] = "pending"
        if self.essays is not None:
            self._assign(upload)

    def _assign(self, upload: str) -> None:
        open_slots = [] if self.ended else [essay for essay in self.essays or () if essay not in self.slots]
        if not open_slots:
            self.places[upload] = "surplus" if _is_failure(upload) else "excess"
            if not _is_failure(upload):
                self.announced[EXCESS_CONTENT, upload] += 1
            return
        self.slots[open_slots[0]] = upload
        self.places[upload] = "slot"
        if not _is_failure(upload):
            self.announced[SLOT_ASSIGNED, upload] += 1
        if len(open_slots) == 1:
            failed = [each for each in self.slots.values() if _is_failure(each)]
            self.announced[VALIDATION_ERRORS, ""] += bool(failed)
            self.announced[BATCH_COMPLETED, ""] += len(failed) < len(self.slots)
        self._announce_ready()

    @property
    def complete(self) -> bool:
        if self.essays is None or self.ended == "cancelled":
            return False
        return self.ended == "closed" or len(self.slots) == len(self.essays)

    @property
    def failed(self) -> bool:
        return self.complete and all(map(_is_failure, self.slots.values()))

    def _announce_ready(self) -> None:
        confirmed = not self.class_id or "applied" in self.confirmations.values()
        if self.complete and not self.failed and confirmed:
            self.announced[BATCH_READY, ""] = 1

    def confirm(self, class_id: str) -> None:
        """Comes after the uploads of its transaction."""
        if self.confirmations.setdefault(class_id, "pending") != "pending" or self.essays is None:
            return
        fits = self.class_id and class_id in ("", self.class_id) and "applied" not in self.confirmations.values()
        # Whether the batch has failed is evaluated when its own transaction has counted.
        is_over = self.failed or self.ended == "cancelled"
        self.confirmations[class_id] = "applied" if fits and not is_over else "unused"
        self._announce_ready()

    def close(self) -> None:
        """An operator ends the batch with what is there."""
        if self.essays is None or self.complete or self.ended:
            return
        self.ended = "closed"
        self.announced[VALIDATION_ERRORS, ""] += self.failed or any(map(_is_failure, self.slots.values()))
        self.announced[BATCH_COMPLETED, ""] += not self.failed
        self._announce_ready()

    def cancel(self) -> None:
        """An operator cancels the batch."""
        if self.essays is not None and not (
            self.failed or self.announced[BATCH_READY, ""] or self.ended == "cancelled"
        ):
            self.ended = "cancelled"
            self.announced[BATCH_CANCELLED, ""] += 1

    def expire(self) -> None:
        for upload, place in self.places.items():
            if place == "pending":
                self.places[upload] = "expired"
                self.announced[PENDING_EXPIRED, upload] += not _is_failure(upload)

    def move(self, uploads: Sequence[str], old: Sequence[str], new: str) -> None:
        """Changes the state of pending content, as an operator does."""
        for upload in uploads:
            if self.essays is None and self.places.get(upload) in old:
                self.places[upload] = new

    def report_late(self) -> None:
        if self.essays is not None and len(self.slots) < len(self.essays) and not (self.timed_out or self.ended):
            self.timed_out = True
            self.announced[READINESS_TIMEOUT, ""] += 1


def _is_failure(upload: str) -> bool:
    return upload.startswith("f")


# -- a database that simulates crashes of the pod


class Died(BaseException):
    """The pod has crashed."""


class _Cursor(AsyncCursor[Any]):
    async def execute(self, *arguments: Any, **options: Any) -> Any:
        cast("_Connection", self.connection).step()
        return await super().execute(*arguments, **options)


class _ServerCursor(AsyncServerCursor[Any]):
    async def execute(self, *arguments: Any, **options: Any) -> Any:
        cast("_Connection", self.connection).step()
        return await super().execute(*arguments, **options)


class _Connection(AsyncConnection[Any]):
    """A real connection that crashes the pod before a statement, or before or after a commit."""

    fuse: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = _Cursor
        self.server_cursor_factory = _ServerCursor

    def step(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Died

    async def commit(self) -> None:
        self.step()
        await super().commit()
        self.step()


class Mortal:
    """Replaces the service's `Database`."""

    def __init__(self, conn: _Connection, observer: psycopg.Connection[Any], of: Slice = ALL_BATCHES) -> None:
        """`observer` is another connection, with which the history looks at the rows."""
        self.conn, self.observer, self.slice = conn, observer, of

    @property
    def database(self) -> Database:
        return cast("Database", self)

    def own(self, poll: Sequence[Delivery]) -> list[Delivery]:
        """Returns what the service's code takes out of a poll, by its bytes."""
        return [
            each
            for each in poll
            if decode_own(each.topic, each.partition, each, DEFAULT_LIMITS, self.slice) is not None
        ]

    def value(self, query: str) -> Any:
        return (self.observer.execute(query).fetchone() or (None,))[0]

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection[Any]]:  # noqa: ARG002
        try:
            yield self.conn
            await self.conn.commit()
        except BaseException:
            self.conn.fuse = None
            await self.conn.rollback()
            raise


# -- one history


class History:
    """The random choices, the databases and the model of one history.

    It is played by one database or, beside that one, by the databases of several cells.
    """

    def __init__(self, one: Mortal, cells: Sequence[Mortal], seed: int) -> None:
        self.dice = random.Random(seed)
        self._one, self._cells = one, cells
        self._all = [one, *cells]
        number = self.dice.choice((1, 2, 3)) * max(1, len(cells))
        self.batches = {f"b{number}": Expected() for number in range(number)}
        self._sizes = {batch_id: self.dice.randint(1, 6) for batch_id in self.batches}
        self._classes = {batch_id: self.dice.choice((None, "8a")) for batch_id in self.batches}
        self.delivered: list[Delivery] = []
        self.rejected: set[str] = set()
        self.steps: list[str] = []
        self.deaths = 0
        self.inputs = 0

    async def play(self, steps: int) -> list[str]:
        """Runs the history. Returns what is wrong."""
        for each in self._all:
            for table in (*TABLES, "operator_actions"):
                each.observer.execute(f"delete from els.{table}".encode())
        doings: list[tuple[Callable[[], Any], int]] = [
            (self._poll, 12), (self._again, 3), (self._expire, 1), (self._late, 1), (self._restore, 1),
            (self._remove, 1), (self._replay, 1), (self._close, 1), (self._cancel, 1),
        ]  # fmt: skip
        chosen = self.dice.choices([each for each, _ in doings], [weight for _, weight in doings], k=steps)
        for doing in chosen:
            self.steps.append(doing.__name__)
            await doing()
        found = [error for each in self._all for error in self._wrong(each)]
        found += self._miscounted([self._one])
        if self._cells:
            found += self._miscounted(self._cells)
            found += differences([self._one.observer], [each.observer for each in self._cells])
        for each in self._all:
            before = invariants.state(each.observer)
            await deliver(each.database, each.own(self.delivered))
            if invariants.state(each.observer) != before:
                found.append(f"I7: all delivered once more to {each.slice} changed something")
        return found

    # -- what can happen

    async def _poll(self) -> None:
        poll = [self._arrival() for _ in range(self.dice.choice((1, 1, 2, 4, 8, 16)))]
        await self._deliver(poll)

    async def _again(self) -> None:
        """Delivers earlier records again, in another order."""
        if self.delivered:
            await self._deliver(self.dice.sample(self.delivered, self.dice.randint(1, min(8, len(self.delivered)))))

    async def _deliver(self, poll: list[Delivery]) -> None:
        """Delivers the poll until it is applied; after a crash perhaps with more records or in pieces."""
        for each in self._all:
            own = each.own(poll)
            while self.dice.random() < 0.3:
                each.conn.fuse = self.dice.randint(0, 20)
                try:
                    await deliver(each.database, own)
                    each.conn.fuse = None
                except Died:
                    self.deaths += 1
                self._judge(each)
            await deliver(each.database, own)
        for delivery in poll if self._cells else ():
            if (takers := sum(bool(each.own([delivery])) for each in self._cells)) != 1:
                raise AssertionError(f"{takers} cells take {delivery.value!r}")
        self.inputs += len(poll)
        self.delivered += poll
        self._model(poll)

    def _model(self, poll: Sequence[Delivery]) -> None:
        for delivery in poll:
            if isinstance(delivery.event, Rejection):
                self.rejected.add(repr(delivery.value))
        for batch_id, batch in self.batches.items():
            arrived = [
                each.event for each in poll if not isinstance(each.event, Rejection) and each.event.batch_id == batch_id
            ]
            self._model_batch(batch, arrived)

    def _model_batch(self, batch: Expected, arrived: Sequence[Incoming]) -> None:
        """Models one transaction: the registration, then content before failures, pending uploads before new ones."""
        registrations = [event for event in arrived if isinstance(event, BatchRegistered)]
        contents = [event.text_storage_id for event in arrived if isinstance(event, ContentProvisioned)]
        failures = [event.file_upload_id for event in arrived if isinstance(event, events.ValidationFailed)]
        uploads = [*contents, *failures]
        if registrations and batch.essays is None:
            for upload in uploads:  # pending first, so that one rule assigns all
                batch.places.setdefault(upload, "pending")
            batch.register(registrations[0].essay_ids, registrations[0].class_id)
        for upload in uploads:
            batch.arrive(upload)
        confirmed = [event.class_id for event in arrived if isinstance(event, events.AssociationsConfirmed)]
        if batch.essays is None:
            confirmed.sort()  # those of one transaction have waited since the same time
        for class_id in [*batch.confirmations, *confirmed]:
            batch.confirm(class_id)
        for registration in registrations:
            if set(registration.essay_ids) != set(batch.essays or ()):
                self.rejected.add(f"{registration.batch_id} {sorted(registration.essay_ids)}")

    def _arrival(self) -> Delivery:
        batch_id = self.dice.choice(list(self.batches))
        match self.dice.random():
            case chance if chance < 0.12:
                return self._registration(batch_id)
            case chance if chance < 0.3:
                return inputs.failed(batch_id, f"f{self.dice.randint(1, 4)}")
            case chance if chance < 0.4:
                return inputs.confirmed(batch_id, self.dice.choice(("8a", "8a", "8a", "8b", None)))
            case chance if chance < 0.46:
                value = self.dice.choice((None, b"", b"{}", b"\xff", b"[" * 99, *_hostile(batch_id)))
                # One place for each, since the same value at another place would be the same input.
                return inputs.delivery(CONTENT_PROVISIONED, value, partition=len(value or b"") % 12)
        correlation = UUID(int=self.dice.randint(1, 3))  # a repeat may have another correlation id
        text = f"c{self.dice.randint(1, 8)}"
        delivery = inputs.provisioned(batch_id, text)
        return replace(delivery, event=cast("ContentProvisioned", delivery.event)._replace(correlation_id=correlation))

    def _registration(self, batch_id: str) -> Delivery:
        essays = [f"e{number}" for number in range(self._sizes[batch_id])]
        if self.dice.random() < 0.2:
            essays.append("e-other")
        if self.dice.random() < 0.3 and self.batches[batch_id].essays is not None:
            self.dice.shuffle(essays)
        return inputs.registered(batch_id, *essays, class_id=self._classes[batch_id])

    def _later(self) -> datetime:
        """Returns another time with each call: content that expires again is another event."""
        return LATER + timedelta(seconds=len(self.steps))

    async def _expire(self) -> None:
        for each in self._all:
            await purge.purge_once(each.database, TERMS, now=self._later())
        for batch in self.batches.values():
            batch.expire()

    async def _late(self) -> None:
        for each in self._all:
            await purge.purge_once(each.database, LATE, now=self._later())
        for batch in self.batches.values():
            batch.report_late()

    async def _restore(self) -> None:
        batch_id = self.dice.choice(list(self.batches))
        if self.batches[batch_id].essays is None:
            for each in self._of(batch_id):
                async with each.transaction() as conn:
                    await pending.restore_pending(conn, OPERATOR, batch_id, None)
            self.batches[batch_id].move(list(self.batches[batch_id].places), ["expired"], "pending")

    async def _remove(self) -> None:
        batch_id = self.dice.choice(list(self.batches))
        upload = self.dice.choice((f"c{self.dice.randint(1, 8)}", f"f{self.dice.randint(1, 4)}"))
        if self.batches[batch_id].essays is None:
            for each in self._of(batch_id):
                with suppress(actions.NotFound):
                    async with each.transaction() as conn:
                        chosen = PendingFilter(batch_id, [upload])
                        await pending.remove_pending(conn, OPERATOR, "pending remove", chosen)
            self.batches[batch_id].move([upload], ["pending", "expired"], "removed")

    async def _close(self) -> None:
        batch_id = self.dice.choice(list(self.batches))
        await self._end(lambda actions_: actions_.close(OPERATOR, batch_id))
        self.batches[batch_id].close()

    async def _cancel(self) -> None:
        batch_id = self.dice.choice(list(self.batches))
        await self._end(lambda actions_: actions_.cancel(OPERATOR, batch_id, "OTHER"))
        self.batches[batch_id].cancel()

    def _of(self, batch_id: str) -> list[Mortal]:
        """Returns the databases that have a batch."""
        return [each for each in self._all if each.slice.holds(batch_id)]

    async def _end(self, end: Callable[[BatchActions], Awaitable[object]]) -> None:
        """Ends a batch, where its state permits that; after a crash again. Other cells refuse to do it."""
        for each in self._all:
            for fuse in (self.dice.randint(0, 20), None):
                each.conn.fuse = fuse
                try:
                    with suppress(actions.Conflict, actions.NotFound, Died):
                        await end(BatchActions(each.database, IntakeLimits()))
                finally:
                    each.conn.fuse = None
                self._judge(each)

    async def _replay(self) -> None:
        """Replays the quarantine: no record was rejected without a reason, so each is rejected again."""
        for each in self._all:
            replay = Replay(each.database, OPERATOR, IntakeLimits(), InputLimits())
            for (id_,) in each.observer.execute("select id from els.quarantine where state = 'open'").fetchall():
                replayed = await replay.replay(id_)
                if not replayed.failed:
                    raise AssertionError(f"what was rejected is {replayed.outcome} now")

    # -- checks

    def _judge(self, each: Mortal) -> None:
        """Checks the invariants after a crash, in the middle of a history."""
        if found := invariants.violations(each.observer):
            raise AssertionError(f"after a death: {found[0]}")

    def _wrong(self, each: Mortal) -> list[str]:
        found = invariants.violations(each.observer)
        found += [str(row) for row in each.observer.execute("select * from ops.invariant_violations")]
        for topic, event in each.observer.execute("select topic, event from ops.outbox_events"):
            read_strictly(topic, event)
        for batch_id, expected in self.batches.items():
            batch = expected if each.slice.holds(batch_id) else Expected()
            for what, wanted, query in (
                ("slots", batch.slots, _SLOTS),
                ("places", batch.places, _PLACES),
                ("confirmations", batch.confirmations, _CONFIRMATIONS),
                (
                    "announced",
                    {f"{topic} {about}": count for (topic, about), count in batch.announced.items() if count},
                    _ANNOUNCED,
                ),
            ):
                rows = dict(each.observer.execute(query, {"batch_id": batch_id}).fetchall())
                if rows != wanted:
                    found.append(f"{what} of {batch_id} in {each.slice}: {rows}, and by the model {wanted}")
        return found

    def _miscounted(self, cells: Sequence[Mortal]) -> list[str]:
        """Compares the quarantines of these databases with the model."""
        conflicts = f"reason = '{Reason.CONFLICTING_REGISTRATION}'"
        rejected = sum(each.value("select count(*) from els.quarantine") for each in cells)
        odd = sum(each.value(f"select count(*) from els.quarantine where not {conflicts}") for each in cells)
        bad = sum(not each.startswith("b") or each.startswith("b'") for each in self.rejected)
        if odd == bad and (rejected > odd) == (len(self.rejected) > bad):
            return []
        return [f"quarantine: {rejected} rows, {odd} of them bad records; by the model {self.rejected}"]


def _hostile(batch_id: str) -> list[bytes]:
    """Values that are rejected, and name a batch in ways that a scan or a decoder may read differently."""
    named = b'{"data": {"batch_id": "%s"}}' % batch_id.encode()
    return [
        named,
        b"\xef\xbb\xbf" + named,
        b"\xff" + named,
        named.decode().encode("utf-16"),
        named[:-1] + b"\0}",
        named.replace(b"batch_id", b"batch\\u005fid"),
        named.replace(b"batch_id", b"entity_id"),
        named.replace(b'"data": ', b'"data": {"batch_id": "b-other"}, "data": '),
        named.replace(b'"batch_id"', b'"batch_id": "b-other", "batch_id"'),
        named.replace(b'{"batch_id"', b'{"nested": {"batch_id"').replace(b"}}", b"}}}"),
        named.replace(b'{"batch_id"', b'{"name": "\\"batch_id\\": 1", "batch_id"'),
        b'{"data": {"batch_id": "\\ud800"}}',
        b'{"data": {"batch_id": 5}}',
        b'{"data": {"batch_id": null}}',
        b'{"data": {"batch_id": "%s"}}' % (b"b" * 256),
    ]


_SLOTS = """
    select essay_id, coalesce(text_storage_id, file_upload_id)
    from els.slots
    where batch_id = %(batch_id)s and state in ('assigned', 'failed')
"""
_PLACES = """
    select text_storage_id, 'slot' from els.slots where batch_id = %(batch_id)s and state = 'assigned'
    union all select text_storage_id, 'excess' from els.excess_content where batch_id = %(batch_id)s
    union all select text_storage_id, state from els.pending_content where batch_id = %(batch_id)s
    union all select file_upload_id, state from els.validation_failures where batch_id = %(batch_id)s
"""
_CONFIRMATIONS = """
    select class_id, state from els.confirmations where batch_id = %(batch_id)s
"""
_ANNOUNCED = """
    select topic || ' ' || coalesce(event::json -> 'data' ->> 'text_storage_id', ''), count(*)
    from ops.outbox_events
    where batch_id = %(batch_id)s
    group by 1
"""


_TABLES = (
    *("batches", "slots", "pending_content", "excess_content", "validation_failures", "confirmations", "quarantine"),
    "incomplete_batches",
)
_COLUMNS = """
    select
        case column_name
            when 'arrival' then 'rank() over (partition by batch_id order by arrival)'
            else quote_ident(column_name)
        end
    from information_schema.columns
    where table_schema = 'els' and table_name = %s and data_type <> 'timestamp with time zone'
        and column_name not in ('id', 'seq', 'repeats', 'deliveries')
"""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)")


def differences(one: Sequence[psycopg.Connection[Any]], cells: Sequence[psycopg.Connection[Any]]) -> list[str]:
    """Compares the rows, and the events of each batch in their order, of one database with the union of several.

    But for times, numbers that each database counts by itself, and how often an input was delivered.
    """
    before, after = _union(one), _union(cells)
    found = [f"only one database has {each}" for each in (before - after)]
    return found + [f"only the cells have {each}" for each in (after - before)]


def _union(conns: Sequence[psycopg.Connection[Any]]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for conn in conns:
        for table in _TABLES:
            names = ", ".join(name for (name,) in conn.execute(_COLUMNS, [table]))
            rows = conn.execute(f"select row({names})::text from els.{table}".encode())
            found.update((table, _TIME.sub("", row)) for (row,) in rows)
        places: Counter[str] = Counter()
        for batch_id, topic, event in conn.execute("select batch_id, topic, event from ops.outbox_events order by seq"):
            places[batch_id] += 1
            found[f"event {places[batch_id]} of {batch_id}", f"{topic} {_TIME.sub('', event)}"] += 1
    return found


async def histories(urls: Sequence[str], task: Task, most: int, *, steps: int = 20) -> Row:
    """Runs at most `most` histories until the time is over.

    The first database has all batches. The others, if there are any, are cells that share them, and must end alike.
    """
    cells = len(urls) - 1
    what = "random steps against the model" + (f", on one database and on {cells} cells" if cells else "")
    row = Row("histories", what, unit="histories")
    counts: Counter[str] = Counter()
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        one, *others = [
            await _opened(stack, url, Slice(cells, number - 1) if number else ALL_BATCHES)
            for number, url in enumerate(urls)
        ]
        while row.runs < most and not task.is_over:
            seed = task.seed * 1_000_003 + row.runs
            history = History(one, others, seed)
            try:
                found = await history.play(steps)
            except Exception as error:  # noqa: BLE001  every error is reported with its seed
                found = [f"{type(error).__name__}: {error}"]
                for each in (one, *others):
                    each.conn.fuse = None
                    await each.conn.rollback()
            row.found += [f"seed {seed}, after {' '.join(history.steps)}: {each}" for each in found]
            row.runs += 1
            counts.update(inputs=history.inputs, deaths=history.deaths, **Counter(history.steps))
            if row.runs % 10 == 0:
                task.report(f"{row.runs:,} histories, {counts['deaths']:,} crashes")
    row.seconds = time.monotonic() - started
    row.more = {name.lstrip("_"): count for name, count in counts.items()}
    return row


async def _opened(stack: AsyncExitStack, url: str, of: Slice) -> Mortal:
    """Makes a database that of a cell, and connects to it as its pods do."""
    observer = stack.enter_context(psycopg.connect(url, autocommit=True))
    observer.execute("update els.slice set cells = %s, cell = %s", of)
    conn = await stack.enter_async_context(await _Connection.connect(url))
    await conn.execute(start_of(of, {}).encode())
    await conn.commit()
    arrays.register(conn)
    return Mortal(conn, observer, of)
