"""Reads the tables in one snapshot, as facts."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from service.domain.delivery import fingerprint
from service.domain.events import Rejection
from service.domain.input_limits import InputLimits
from service.history import facts
from service.history.facts import EventFact, Fact, upload_digest
from service.history.ledger import Ledger
from service.history.topics import describe_input, event_of
from service.kafka.deliveries import decode
from service.kafka.unpacking import Record
from service.postgres.pool import Database
from service.store.audit import VALUES_PAGE, AuditStatement, audit_pages, begin_audit


async def read_tables(database: Database, ledger: Ledger, counts: Counter[str], limits: InputLimits) -> datetime:
    """Add all rows of one snapshot to the ledger, and count them. Returns the snapshot's time. Raises psycopg.Error.

    What operators have sent in place of rejected inputs is added as inputs. Of a batch of another cell, only the places
    of its rows are added.
    """
    of = database.slice
    async with database.transaction() as conn:
        moment, split_at = await begin_audit(conn)
        since = _seconds(split_at) or 0.0
        for statement, fact in _FACT_OF.items():
            async for page in audit_pages(conn, statement):
                own = [(each[0], fact(*each)) for each in page if of.holds(each[0])]
                ledger.add(own)
                counts[f"rows of {statement.removeprefix('audit_')}"] += len(page)
                if len(own) < len(page):
                    others = [(each[0], fact(*each)) for each in page if not of.holds(each[0])]
                    ledger.add([(batch_id, _elsewhere(of.cell, each, since)) for batch_id, each in others])
                    counts["rows of batches of other cells"] += len(others)
        async for page in audit_pages(conn, "audit_quarantine"):
            ledger.add_quarantined([(topic, identity.hex(), state) for topic, identity, state in page], of.cell)
            counts["rows of quarantine"] += len(page)
        async for page in audit_pages(conn, "audit_operator_inputs", VALUES_PAGE):
            inputs = [found for row in page if (found := _operator_input(limits, *row))]
            ledger.add([each for each in inputs if of.holds(each[0])])
            counts["inputs of operators"] += len(page)
    return moment


def _elsewhere(cell: int, row: Fact, since: float) -> facts.ElsewhereFact:
    """Describe a row whose batch belongs to another cell than this one. A split then has left what is older."""
    match row:
        case facts.BatchFact():
            return facts.ElsewhereFact(cell, "registration", "", "", True, row.registered_at > since)
        case facts.SlotFact():
            value = row.text or row.upload or ""
            return facts.ElsewhereFact(cell, "slot", row.essay_id, value, True, (row.taken_at or 0.0) > since)
        case facts.ExcessFact():
            return facts.ElsewhereFact(cell, "excess content", row.text, "", True, row.declared_at > since)
        case facts.WaitingFact():
            return facts.ElsewhereFact(cell, f"{row.state} content", row.text, "", False, row.stored_at > since)
        case facts.FailureFact():
            return facts.ElsewhereFact(cell, f"{row.state} failure", row.upload, "", False, row.stored_at > since)
        case facts.ConfirmationFact():
            return facts.ElsewhereFact(cell, "confirmation", row.class_id, "", False, row.stored_at > since)
        case facts.EventFact():
            what = f"{row.topic} in the outbox"
            return facts.ElsewhereFact(cell, what, row.subject, "", False, row.sent_at > since)
        case _:
            raise TypeError(f"{type(row).__name__} is not read from a table of batches")


def _batch(
    _: str,
    essay_set: bytes,
    expected: int,
    assigned: int,
    failed: int,
    state: str,
    class_id: str,
    withdrawn: int,
    reason: str,
    registered_at: datetime,
    *times: datetime | None,
) -> facts.BatchFact:
    completed, late, confirmed, ready, cancelled = map(_seconds, times)
    return facts.BatchFact(
        essay_set.hex(),
        expected,
        assigned,
        failed,
        state,
        class_id,
        registered_at.timestamp(),
        completed,
        late,
        confirmed,
        ready,
        cancelled,
        withdrawn,
        reason,
    )


def _slot(
    _: str,
    essay_id: str,
    position: int,
    state: str,
    text: str | None,
    upload: str | None,
    name: str,
    file: list[Any],
    origin: list[Any],
    taken_at: datetime | None,
    written_by: int,
    source: str | None,
) -> facts.SlotFact:
    trace, tracestate = origin[:2], origin[2]
    announced = upload_digest(name, tracestate, essay_id, text, upload, *trace)
    content = facts.ONLY_OUTPUT if source else upload_digest(name, tracestate, upload, *file, *trace)
    return facts.SlotFact(essay_id, position, state, text, upload, content, announced, _seconds(taken_at), written_by)


def _waiting(
    _: str,
    text: str,
    state: str,
    upload: str,
    name: str,
    file: list[Any],
    origin: list[Any],
    stored_at: datetime,
    closed_at: datetime | None,
    source: str | None,
) -> facts.WaitingFact:
    trace, tracestate = origin[:2], origin[2]
    announced = upload_digest(name, tracestate, text, upload, *trace)
    content = facts.ONLY_OUTPUT if source else upload_digest(name, tracestate, upload, *file, *trace)
    return facts.WaitingFact(text, state, content, announced, stored_at.timestamp(), _seconds(closed_at))


def _excess(
    _: str,
    text: str,
    reason: str,
    upload: str,
    name: str,
    file: list[Any],
    origin: list[Any],
    declared_at: datetime,
    source: str | None,
) -> facts.ExcessFact:
    trace, tracestate = origin[:2], origin[2]
    announced = upload_digest(name, tracestate, text, reason, *trace)
    content = facts.ONLY_OUTPUT if source else upload_digest(name, tracestate, upload, *file, *trace)
    return facts.ExcessFact(text, content, announced, declared_at.timestamp())


def _failure(_: str, upload: str, state: str, stored_at: datetime, source: str | None) -> facts.FailureFact:
    return facts.FailureFact(upload, state, stored_at.timestamp(), source)


def _confirmation(_: str, class_id: str, state: str, stored_at: datetime) -> facts.ConfirmationFact:
    return facts.ConfirmationFact(class_id, state, stored_at.timestamp())


def _in_outbox(batch_id: str, topic: str, payload: str, seq: int, created_at: datetime) -> EventFact:
    event = event_of(topic, batch_id.encode(), payload.encode(), -1, seq, created_at.timestamp(), settled=False)
    if event is None:
        raise ValueError(f"row {seq} of the outbox is not an event of this service")
    return event[1]


def _operator_input(
    limits: InputLimits, topic: str, partition: int, offset: int, key: bytes | None, value: bytes, closed_at: datetime
) -> tuple[str, facts.InputFact] | None:
    delivery = decode(topic, partition, Record(offset, key, value), limits)
    if isinstance(delivery.event, Rejection):  # an earlier release has accepted it
        return None
    subject, content = describe_input(delivery.event)
    at, identity = closed_at.timestamp(), fingerprint(delivery).hex()
    return delivery.event.batch_id, facts.InputFact(topic, subject, content, at, True, identity)


_FACT_OF: Final[Mapping[AuditStatement, Callable[..., Fact]]] = {
    "audit_batches": _batch,
    "audit_slots": _slot,
    "audit_pending_content": _waiting,
    "audit_excess_content": _excess,
    "audit_validation_failures": _failure,
    "audit_confirmations": _confirmation,
    "audit_outbox": _in_outbox,
}


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
