"""Compares what was sent, announced and stored of one batch: the rules of the contract (docs/events.md)."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.prove.field.topics import COMPLETED, ERRORS, EXCESS, EXPIRED, LATE, READY, SLOT, Seen

Json = dict[str, Any]


@dataclass
class Verdict:
    """What became of the inputs. `lost` have no outcome (yet), `contradicted` lists what cannot both be true."""

    lost: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    """Batches whose events are in two partitions of a topic, so that their order is not kept."""
    repeated: int = 0
    inputs: int = 0
    outputs: int = 0
    batches: int = 0
    ready: int = 0

    @property
    def found_nothing(self) -> bool:
        """Returns whether every input has its outcome, and all of it is true."""
        return not (self.lost or self.contradicted or self.split)


@dataclass
class Committed:
    """The inputs of one batch; uploads by their ids."""

    registrations: list[Json] = field(default_factory=list)
    contents: dict[str, Json] = field(default_factory=dict)
    failures: dict[str, Json] = field(default_factory=dict)
    confirmations: int = 0


@dataclass
class Announced:
    """The first events of one batch by topic, and their records."""

    events: defaultdict[str, list[tuple[Json, Seen]]] = field(default_factory=lambda: defaultdict(list))
    partitions: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def of(self, topic: str) -> list[Json]:
        return [event for event, _ in self.events[topic]]


@dataclass
class Stored:
    """The rows of one batch."""

    batch: tuple[Any, ...] | None = None
    slots: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    rows: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def taken(self) -> dict[str, str]:
        """Returns the texts by the essays whose slots they hold."""
        return {essay: row[1] for essay, row in self.slots.items() if row[0] == "assigned"}

    @property
    def failed(self) -> set[str]:
        return {row[2] for row in self.slots.values() if row[0] == "failed"}


class OneBatch:
    """Compares what was sent, announced and stored of one batch."""

    def __init__(self, name: str, sent: Committed, announced: Announced, stored: Stored, verdict: Verdict) -> None:
        self._name = name
        self._sent = sent
        self._announced = announced
        self._stored = stored
        self._verdict = verdict

    def compare(self) -> None:
        """Notes what is lost and what contradicts."""
        self._verdict.split += [
            f"{self._name} is in partitions {sorted(found)} of {topic}"
            for topic, found in self._announced.partitions.items()
            if len(found) > 1
        ]
        if not self._sent.registrations:
            self._compare_unregistered()
            return
        essays = self._sent.registrations[0]["essay_ids"]
        if self._stored.batch is None or set(essays) != set(self._stored.slots):
            self._lost(f"its registration: {self._stored.batch}, {len(self._stored.slots)} slots of {len(essays)}")
            return
        for found in (
            self._slots(),
            self._contents(),
            self._failures(),
            self._ends(essays),
            self._limits(),
            self._order(),
        ):
            self._verdict.contradicted += [f"{self._name}: {each}" for each in found]
        self._look_for_losses(essays)

    def _compare_unregistered(self) -> None:
        for topic, events in self._announced.events.items():
            self._verdict.contradicted += [f"{self._name} is not registered, and {topic} has {each}" for each in events]
        if self._stored.batch:
            self._verdict.contradicted.append(f"{self._name} is not registered, and has {self._stored.batch}")
        for text in self._sent.contents.keys() - self._stored.rows["pending"]:
            self._lost(f"the early content {text}")
        for upload in self._sent.failures.keys() - self._stored.rows["failures"]:
            self._lost(f"the early failure {upload}")
        for text in self._stored.rows["pending"] - self._sent.contents.keys():
            self._verdict.contradicted.append(f"{self._name}: nobody committed the pending content {text}")

    def _lost(self, what: str) -> None:
        self._verdict.lost.append(f"{self._name}: {what}")

    def _slots(self) -> Iterator[str]:
        """Each slot event is of a committed content, and the table says the same."""
        holders: dict[str, str] = {}
        texts: set[str] = set()
        for event in self._announced.of(SLOT):
            essay, text = event["data"]["essay_id"], event["data"]["text_storage_id"]
            if holders.setdefault(essay, text) != text or text in texts:
                yield f"the slot {essay} was given to {holders[essay]} and {text}, or a text has two"
            texts.add(text)
            sent = self._sent.contents.get(text)
            for name in ("file_upload_id", "original_file_name"):
                if sent is not None and sent[name] != event["data"][name]:
                    yield f"{name} of {text} is {event['data'][name]}, not {sent[name]}"
        for essay, text in holders.items() - self._stored.taken.items():
            yield f"{text} was announced for {essay}, whose row has {self._stored.slots.get(essay)}"

    def _contents(self) -> Iterator[str]:
        slots = {event["data"]["text_storage_id"] for event in self._announced.of(SLOT)}
        excess = [event["data"]["text_storage_id"] for event in self._announced.of(EXCESS)]
        for text in slots & set(excess):
            yield f"{text} has a slot and is excess"
        if len(excess) != len(set(excess)):
            yield "a text is excess under two event ids"
        known = {*self._stored.taken.values(), *self._stored.rows["excess"], *self._stored.rows["pending"]}
        for text in {*slots, *excess, *known} - self._sent.contents.keys():
            yield f"nobody committed the content {text}"
        if excess and self._open():
            yield f"{len(excess)} texts are excess, and {self._open()} slots are open"

    def _failures(self) -> Iterator[str]:
        for upload in {*self._stored.failed, *self._stored.rows["failures"]} - self._sent.failures.keys():
            yield f"nobody committed the failure {upload}"
        for event in self._announced.of(ERRORS):
            listed = {each["essay_id"] for each in event["data"]["failed_essays"]}
            if listed != self._stored.failed or self._open():
                yield f"announced as failed: {listed}; stored: {self._stored.failed}, {self._open()} open"

    def _ends(self, essays: list[str]) -> Iterator[str]:
        """What is announced of the whole batch agrees with its slots, and with itself."""
        given = {event["data"]["essay_id"]: event["data"]["text_storage_id"] for event in self._announced.of(SLOT)}
        for topic, listed in ((COMPLETED, "essays_for_processing"), (READY, "ready_essays")):
            events = self._announced.of(topic)
            if len(events) > 1:
                yield f"{topic} has {len(events)} event ids"
            for event in events:
                pairs = [(each["essay_id"], each["text_storage_id"]) for each in event["data"][listed]]
                if dict(pairs) != given or [essay for essay, _ in pairs] != [one for one in essays if one in given]:
                    yield f"{topic} lists {pairs}; given were {given}"
                if self._open() or not given:
                    yield f"{topic}, and {self._open()} slots are open, {len(given)} hold a text"
        for event in self._announced.of(READY):
            class_id = self._sent.registrations[0].get("class_id")
            if event["data"]["class_type"] != ("REGULAR" if class_id else "GUEST"):
                yield f"ready as {event['data']['class_type']}, and its class is {class_id}"
            if class_id and not self._sent.confirmations:
                yield "ready without the confirmation of its class"

    def _limits(self) -> Iterator[str]:
        for topic in (EXPIRED, LATE):
            if self._announced.events[topic]:
                yield f"{topic} within minutes, and the limits are days"

    def _order(self) -> Iterator[str]:
        """Ready is written after everything else, and numbered so."""
        for _, ready in self._announced.events[READY]:
            for topic in (SLOT, COMPLETED):
                for event, record in self._announced.events[topic]:
                    if record.time > ready.time or _seq(record) > _seq(ready):
                        yield f"ready at {ready.time}, before {topic} {event['event_id']} at {record.time}"

    def _open(self) -> int:
        return sum(row[0] == "open" for row in self._stored.slots.values())

    def _look_for_losses(self, essays: list[str]) -> None:
        """Everything that must follow from the inputs has followed."""
        slots = {event["data"]["text_storage_id"] for event in self._announced.of(SLOT)}
        excess = {event["data"]["text_storage_id"] for event in self._announced.of(EXCESS)}
        for text in self._sent.contents.keys() - slots - excess:
            self._lost(f"the content {text}")
        for upload in self._sent.failures.keys() - self._stored.failed - self._stored.rows["failures"]:
            self._lost(f"the failure {upload}")
        if self._sent.confirmations and not self._stored.rows["confirmations"]:
            self._lost("the confirmation")
        if len(self._sent.contents) + len(self._sent.failures) < len(essays):
            return
        if self._open():
            self._lost(f"{self._open()} slots are open, and there are uploads for all")
        if self._stored.failed and not self._announced.events[ERRORS]:
            self._lost("the event that uploads failed")
        if not slots:
            return
        if not self._announced.events[COMPLETED]:
            self._lost("the event that it is complete")
        waits = self._sent.registrations[0].get("class_id") and not self._sent.confirmations
        if not waits and not self._announced.events[READY]:
            self._lost("the event that it is ready")


def _seq(record: Seen) -> int:
    return int(record.headers.get("seq", b"0"))
