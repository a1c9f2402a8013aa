"""Compares what the demo finds at its end with what it has sent."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from deploy.demo.story import Batch, Outcome, by_batch
from service.domain.topics import (
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    OUTGOING_TOPICS,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)


class Claim(NamedTuple):
    """One check: what must hold, whether it does, and the counts."""

    text: str
    holds: bool
    numbers: str


def claims(batches: Sequence[Batch], contradicted: Batch, end: Outcome) -> list[Claim]:
    """Compares the result with what was sent. `contradicted` is the batch that had two registrations."""
    held = by_batch((batch, text) for batch, _, _, _, text, _ in end.slots if text is not None)
    beyond = by_batch(end.excess)
    failed = by_batch((batch, upload) for batch, _, _, state, _, upload in end.slots if state == "failed")
    assigned = [(batch, essay, text) for batch, _, essay, state, text, _ in end.slots if state == "assigned"]
    return [
        Claim(
            "each text is in one slot or excess",
            all(sorted(held[b.batch_id] + beyond[b.batch_id]) == sorted(b.texts) for b in batches),
            f"{sum(b.contents for b in batches)} = {_count(held)} + {_count(beyond)}",
        ),
        Claim(
            "all slots are taken, all batches are ready",
            sorted(end.batches) == sorted((b.batch_id, "ready") for b in batches)
            and len(end.slots) == sum(b.slots for b in batches)
            and all(state != "open" for _, _, _, state, _, _ in end.slots),
            f"{len(end.slots)} slots, {len(end.batches)} batches",
        ),
        Claim(
            "each failed upload took one slot",
            all(sorted(failed[b.batch_id]) == sorted(b.failed_uploads) for b in batches),
            f"{_count(failed)} failed slots",
        ),
        Claim(
            "only surplus texts are excess",
            all(len(beyond[b.batch_id]) == b.excess for b in batches),
            f"{sum(b.excess for b in batches)} excess texts",
        ),
        Claim(
            "EssaySlotAssigned: one for each text in a slot",
            _same(_named(end, SLOT_ASSIGNED, "batch_id", "essay_id", "text_storage_id"), assigned),
            f"{len(end.data(SLOT_ASSIGNED))} events",
        ),
        Claim(
            "BatchContentProvisioningCompleted: one per batch",
            _same(map(_completed, end.data(BATCH_COMPLETED)), _ready_by_slots(end)),
            f"{len(end.data(BATCH_COMPLETED))} events",
        ),
        Claim(
            "BatchEssaysReady: one per batch, slots in order",
            _same(map(_ready, end.data(BATCH_READY)), _ready_by_slots(end)),
            f"{len(end.data(BATCH_READY))} events",
        ),
        Claim(
            "BatchEssaysReady: never before its slots are announced",
            all(
                _last(end, SLOT_ASSIGNED, b) <= _last(end, BATCH_COMPLETED, b) <= _last(end, BATCH_READY, b)
                for b in batches
            ),
            f"{len(end.batches)} batches",
        ),
        Claim(
            "ExcessContentProvisioned: one for each excess",
            _same(_named(end, EXCESS_CONTENT, "batch_id", "text_storage_id"), end.excess),
            f"{len(end.data(EXCESS_CONTENT))} events",
        ),
        Claim(
            "BatchValidationErrors: one per batch with failures",
            _same(map(_errors, end.data(VALIDATION_ERRORS)), [(b.batch_id, b.failures) for b in batches if b.failures]),
            f"{len(end.data(VALIDATION_ERRORS))} events",
        ),
        Claim(
            "no other events were published",
            {event.topic for event in end.events}
            <= {SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY, EXCESS_CONTENT, VALIDATION_ERRORS},
            f"{len(OUTGOING_TOPICS)} topics read",
        ),
        Claim(
            "nothing is pending or expired",
            not end.waiting,
            f"{len(end.waiting)} rows",
        ),
        Claim(
            "one row in quarantine: the contradiction, discarded",
            list(end.quarantine) == [(contradicted.batch_id, "conflicting_registration, discarded")],
            f"{len(end.quarantine)} row{'' if len(end.quarantine) == 1 else 's'}",
        ),
        Claim(
            "ops.invariant_violations is empty",
            not end.violations,
            "; ".join(" ".join(row) for row in end.violations[:3]) or "0 rows",
        ),
        Claim(
            "ops.health has nothing new to do or to acknowledge",
            not end.left,
            "; ".join(end.left) or end.level,
        ),
    ]


def _last(end: Outcome, topic: str, batch: Batch) -> int:
    """Returns when the last event of a topic was published for a batch, in milliseconds; 0 without one."""
    of_it = (e.published_at for e in end.events if e.topic == topic and e.batch_id == batch.batch_id)
    return max(of_it, default=0)


def _ready_by_slots(end: Outcome) -> list[Any]:
    """Returns what each BatchEssaysReady must contain, according to the slots."""
    essays = by_batch((batch, (essay, text)) for batch, _, essay, state, text, _ in end.slots if state == "assigned")
    return [(batch, tuple(essays[batch])) for batch, state in end.batches if state == "ready"]


def _completed(data: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    essays = data["essays_for_processing"]
    return data["batch_id"], tuple((each["essay_id"], each["text_storage_id"]) for each in essays)


def _ready(data: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return data["batch_id"], tuple((each["essay_id"], each["text_storage_id"]) for each in data["ready_essays"])


def _errors(data: Mapping[str, Any]) -> tuple[str, int]:
    return data["batch_id"], len(data["failed_essays"])


def _named(end: Outcome, topic: str, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(data[name] for name in fields) for data in end.data(topic)]


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return sorted(some) == sorted(others)


def _count(grouped: Mapping[str, list[Any]]) -> int:
    return sum(map(len, grouped.values()))
