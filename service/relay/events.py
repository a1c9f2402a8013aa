"""Unpacks rows of the outbox into events, each with its Kafka headers."""

from collections.abc import Iterator
from typing import NamedTuple

from service.domain.enveloped import headers_of
from service.store.outbox import EVENTS_PER_ROW, OutboxRow


class OutboxEvent(NamedTuple):
    """One event to publish: the one at `place` in its row, from 0."""

    row: OutboxRow
    place: int
    is_last: bool
    topic: str
    headers: list[tuple[str, bytes]]
    payload: bytes

    @property
    def batch_id(self) -> bytes:
        """The batch, which is the key of the record."""
        return self.row.batch_id

    @property
    def trace(self) -> tuple[str | None, str | None]:
        """The trace context: traceparent and tracestate."""
        headers = {name: value.decode() for name, value in self.headers}
        return headers.get("traceparent"), headers.get("tracestate")


def events_of(row: OutboxRow) -> Iterator[OutboxEvent]:
    """Yield the events of a row that are not acknowledged yet, in their order, or its last one: it completes the row.

    Raises ValueError where one is not an event of this service.

    The header `seq` is a number that rises within a batch in the order of the commits, and within a commit in the order
    of publication.
    """
    payloads = row.events.split(b"\n")
    for place in range(min(row.acknowledged, len(payloads) - 1), len(payloads)):
        headers = headers_of(payloads[place])
        topic = headers[1][1].decode()
        headers.append(("seq", b"%d" % (row.seq * EVENTS_PER_ROW + place)))
        yield OutboxEvent(row, place, place == len(payloads) - 1, topic, headers, payloads[place])
