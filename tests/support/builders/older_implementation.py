"""Announces what other implementations of the contract announce: in part wrong, and with contradictions."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from service.domain.topics import (
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
)

Announcement = tuple[str, str, dict[str, Any]]
"""Topic, batch id and data."""

Places = Literal["in order", "at random"]
FORGETS = 0.1
"""How often one of its pods does not know what another one has assigned."""


@dataclass(slots=True)
class _Batch:
    essays: list[str] = field(default_factory=list)
    slots: dict[str, str] = field(default_factory=dict)


class OlderImplementation:
    """Assigns slots in the order of essay ids or at random, keeps no early content, and forgets what it did."""

    def __init__(self, chance: random.Random, places: Places) -> None:
        self._chance, self._places = chance, places
        self._batches: dict[str, _Batch] = {}

    def announcements(self, inputs: Iterable[tuple[str, int, bytes]]) -> list[Announcement]:
        """Returns what it announces of these inputs, in order."""
        return [each for topic, _, value in inputs for each in self._take(topic, orjson.loads(value)["data"])]

    def _take(self, topic: str, data: dict[str, Any]) -> Sequence[Announcement]:
        batch_id = data["batch_id"]
        if topic == BATCH_REGISTERED:
            self._batches.setdefault(batch_id, _Batch(sorted(data["essay_ids"])))
        if topic != CONTENT_PROVISIONED:
            return []
        text, batch = data["text_storage_id"], self._batches.get(batch_id)
        if batch is None:
            return [(EXCESS_CONTENT, batch_id, {"text_storage_id": text, "reason": "batch_not_registered"})]
        is_open = [essay for essay in batch.essays if essay not in batch.slots]
        if self._chance.random() < FORGETS:
            is_open = batch.essays
        elif text in batch.slots.values():
            return []
        if not is_open:
            return [(EXCESS_CONTENT, batch_id, {"text_storage_id": text, "reason": "BATCH_FULL"})]
        essay_id = is_open[0] if self._places == "in order" else self._chance.choice(is_open)
        batch.slots[essay_id] = text
        assigned = {"essay_id": essay_id, "text_storage_id": text}
        return [(SLOT_ASSIGNED, batch_id, assigned), *self._ended(batch_id, batch)]

    def _ended(self, batch_id: str, batch: _Batch) -> Sequence[Announcement]:
        """Its lists have only two fields of each essay."""
        if len(batch.slots) < len(batch.essays):
            return []
        listed = [{"essay_id": essay, "text_storage_id": text} for essay, text in sorted(batch.slots.items())]
        ended = [(BATCH_COMPLETED, batch_id, {"essays_for_processing": listed})]
        if self._chance.random() < 0.8:
            ended.append((BATCH_READY, batch_id, {"ready_essays": listed}))
        return ended


def authoritative(announcements: Iterable[Announcement]) -> tuple[dict[str, dict[str, str]], int]:
    """Returns the content of each slot by batch and essay, as the first announcements state it, and what contradicts.

    The second is the number of the later announcements that contradict an earlier one.
    """
    slots: dict[str, dict[str, str]] = {}
    excess: set[tuple[str, str]] = set()
    lists: dict[str, list[Any]] = {}
    contradictions = 0
    for topic, batch_id, data in announcements:
        known = slots.setdefault(batch_id, {})
        if topic == EXCESS_CONTENT:
            if data["reason"] == "BATCH_FULL":
                text = data["text_storage_id"]
                contradictions += text in known.values()
                if text not in known.values():
                    excess.add((batch_id, text))
            continue
        listed = (
            [data]
            if topic == SLOT_ASSIGNED
            else data["essays_for_processing" if topic == BATCH_COMPLETED else "ready_essays"]
        )
        if topic != SLOT_ASSIGNED:
            if batch_id in lists:
                contradictions += listed != lists[batch_id]
                continue
            lists[batch_id] = listed
        for each in listed:
            essay_id, text = each["essay_id"], each["text_storage_id"]
            if known.get(essay_id) == text:
                continue
            if essay_id in known or text in known.values() or (batch_id, text) in excess:
                contradictions += 1
            else:
                known[essay_id] = text
    return slots, contradictions
