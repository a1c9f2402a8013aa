"""Decides whether inputs were lost or contradicted, from the topics and tables alone.

It knows the contract (docs/events.md) and nothing of the service: it imports none of it, reads with another client,
and asks the views with plain SQL. Several batches of one run have a common prefix, and others are none of its business.
"""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable

import psycopg

from tests.prove.field.batches import Announced, Committed, OneBatch, Stored, Verdict
from tests.prove.field.topics import CONFIRMED, CONTENT, FAILURE, INPUTS, OUTPUTS, READY, REGISTERED, Reader, Seen

TABLES = {
    "batches": "select batch_id, state, expected, assigned, failed from ops.batches",
    "slots": "select batch_id, essay_id, state, text_storage_id, file_upload_id from ops.slots",
    "pending": "select batch_id, text_storage_id from ops.pending_content",
    "failures": "select batch_id, file_upload_id, state from ops.validation_failures",
    "confirmations": "select batch_id from ops.confirmations",
    "excess": "select batch_id, text_storage_id from ops.excess_content",
}


class Judge:
    """Judges the batches with this prefix in their ids, from the records that the topics get from now on."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.prefix = prefix
        self.reader = Reader(servers)
        self._reading = threading.Lock()
        self.reader.skip()
        self.acknowledged: Counter[tuple[str, bytes]] = Counter()
        """What producers know to be committed, by topic and value: all of it must be in the topics."""
        self.records: list[Seen] = []

    def read(self) -> None:
        """Reads what is new. To be called before a topic is deleted or trimmed, so that its records are known."""
        with self._reading:
            self.records += [each for each in self.reader.read() if self._is_mine(each)]

    def has(self, topic: str, batch_id: str) -> bool:
        """Returns whether it has read an event of the batch."""
        return any(each.topic == topic and each.key == batch_id.encode() for each in self.records)

    def judge(self, database_url: str) -> Verdict:
        """Reads topics and tables and compares them."""
        self.read()
        verdict, committed, garbage = Verdict(), defaultdict[str, Committed](Committed), list[Seen]()
        known = Counter((each.topic, each.value) for each in self.records if each.topic in INPUTS)
        verdict.lost += [f"acknowledged, and not in {topic}: {value[:200]!r}" for topic, value in
                         self.acknowledged - known]  # fmt: skip
        for each in self.records:
            if each.topic in INPUTS:
                verdict.inputs += 1
                if not _note_input(committed, each):
                    garbage.append(each)
        announced = self._announced(verdict)
        stored, quarantined = self._stored(database_url)
        _compare_quarantine(verdict, garbage, quarantined)
        for name in sorted({*committed, *announced, *stored}):
            one = OneBatch(name, committed[name], announced[name], stored[name], verdict)
            one.compare()
        verdict.batches = sum(bool(each.registrations) for each in committed.values())
        verdict.ready = sum(bool(each.events[READY]) for each in announced.values())
        return verdict

    def _is_mine(self, record: Seen) -> bool:
        if record.key.startswith(self.prefix.encode()):
            return True
        try:
            return str(json.loads(record.value)["data"]["batch_id"]).startswith(self.prefix)
        except (ValueError, KeyError, TypeError):
            return False

    def _announced(self, verdict: Verdict) -> defaultdict[str, Announced]:
        """Returns the first record of each event; checks that its repeats are equal."""
        announced = defaultdict[str, Announced](Announced)
        first: dict[str, Seen] = {}
        for each in self.records:
            if each.topic not in OUTPUTS:
                continue
            verdict.outputs += 1
            event = json.loads(each.value)
            batch = announced[event["data"]["batch_id"]]
            batch.partitions[each.topic].add(each.place[0])
            before = first.setdefault(event["event_id"], each)
            if before is each:
                batch.events[each.topic].append((event, each))
                continue
            verdict.repeated += 1
            if (before.topic, before.value) != (each.topic, each.value):
                verdict.contradicted.append(
                    f"two bodies of {each.topic} {event['event_id']}: {before.place, each.place}"
                )
        return announced

    def _stored(self, database_url: str) -> tuple[defaultdict[str, Stored], list[tuple[str, bytes | None]]]:
        stored = defaultdict[str, Stored](Stored)
        like = [f"{self.prefix}%"]
        with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as conn:
            for name, query in TABLES.items():
                for batch, *row in conn.execute(f"{query} where batch_id like %s".encode(), like):
                    if name == "batches":
                        stored[batch].batch = tuple(row)
                    elif name == "slots":
                        stored[batch].slots[row[0]] = tuple(row[1:])
                    else:
                        stored[batch].rows[name].add(row[0] if row else batch)
            query = "select topic, value from ops.quarantine where key_text like %(like)s or value_text like %(in)s"
            rows = conn.execute(query.encode(), {"like": like[0], "in": f"%{self.prefix}%"}).fetchall()
        return stored, [(topic, value) for topic, value in rows]


def _note_input(committed: defaultdict[str, Committed], record: Seen) -> bool:
    """Returns whether the record is valid. The field's senders make nothing that is valid only in part."""
    try:
        event = json.loads(record.value)
    except ValueError:
        return False
    data = event["data"]
    batch = committed[data["batch_id"]]
    if record.topic == REGISTERED:
        batch.registrations.append(data)
    elif record.topic == CONTENT:
        batch.contents.setdefault(data["text_storage_id"], data)
    elif record.topic == FAILURE:
        batch.failures.setdefault(data["file_upload_id"], data)
    elif record.topic == CONFIRMED:
        batch.confirmations += 1
    return True


def _compare_quarantine(
    verdict: Verdict, garbage: Iterable[Seen], quarantined: Iterable[tuple[str, bytes | None]]
) -> None:
    expected = {(each.topic, each.value) for each in garbage}
    found = {(topic, bytes(value or b"")) for topic, value in quarantined}
    verdict.lost += [f"invalid, and not in quarantine: {each}" for each in expected - found]
    verdict.contradicted += [f"valid, and in quarantine: {each}" for each in found - expected]
