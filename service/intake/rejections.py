"""Stores rejected records in quarantine, and pauses a topic after too many consecutive rejections."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from service.domain.admission import (
    CountRejections,
    RejectionCounter,
    count_rejections,
    decide_admission,
)
from service.domain.delivery import Delivery, fingerprint
from service.domain.events import Rejection
from service.intake.outcome import record_of
from service.intake.work import PollWork
from service.store import quarantine

_NO_REJECTIONS = RejectionCounter(0, paused=False)


class Rejections:
    """Decides which records to process at the beginning of a transaction, and stores the rejected ones at its end."""

    def __init__(self, work: PollWork) -> None:
        self._work = work
        self._counters: Mapping[str, RejectionCounter] = {}
        self._admitted: dict[str, Sequence[Delivery]] = {}

    def admit(
        self, deliveries: Sequence[Delivery], counters: Mapping[str, RejectionCounter], *, probing: bool
    ) -> Iterable[Delivery]:
        """Yield the deliveries to process, topic by topic. Those of paused topics are `not_admitted`.

        `counters` are those of the topics with consecutive rejections. In an exclusive transaction all deliveries were
        admitted with their poll before.
        """
        self._counters = counters
        outcome, limit = self._work.outcome, self._work.limits.consecutive_rejections
        for topic, arrived in _by_topic(deliveries).items():
            count = len(arrived)
            if not self._work.exclusive:
                rejected = [
                    fingerprint(delivery) if isinstance(delivery.event, Rejection) else None for delivery in arrived
                ]
                counter = counters.get(topic, _NO_REJECTIONS)
                count = decide_admission(rejected, counter, limit, probing=probing).count
            self._admitted[topic] = arrived[:count]
            outcome.not_admitted += arrived[count:]
            yield from arrived[:count]
        outcome.paused = {topic for topic, counter in counters.items() if counter.paused}

    async def store(self) -> None:
        """Quarantine the rejected records, and change the counters of their topics."""
        work, rejected = self._work, self._work.effects.rejected
        new: set[int] = set()
        if rejected:
            work.effects.rejected = await quarantine.quarantine_inputs(work.conn, rejected)
            new = {id(delivery) for delivery, _ in work.effects.rejected}
            for delivery, _ in rejected:
                if id(delivery) not in new:
                    work.effects.records.append(record_of("rejection_repeated", delivery))
        if counts := self._counts({id(delivery) for delivery, _ in rejected}, new):
            limits = work.limits
            paused = await quarantine.count_rejections(
                work.conn, counts, self._new_bytes(), limits.consecutive_rejections, limits.rejected_bytes
            )
            work.outcome.paused = (work.outcome.paused - paused.keys()) | {
                topic for topic, is_paused in paused.items() if is_paused
            }

    def _counts(self, rejected: set[int], new: set[int]) -> dict[str, CountRejections]:
        """Return the counters that change. Deferred records count as valid, conflicting registrations as rejected."""
        if self._work.exclusive:
            return {}  # counted with their poll
        counts = {}
        for topic, admitted in self._admitted.items():
            count = count_rejections(
                [
                    "valid" if id(delivery) not in rejected else "rejected" if id(delivery) in new else "repeat"
                    for delivery in admitted
                ]
            )
            if count.consecutive or (count.restarted and topic in self._counters):
                counts[topic] = count
        return counts

    def _new_bytes(self) -> Mapping[str, int]:
        """Return how many bytes of each topic are new in quarantine."""
        found: dict[str, int] = defaultdict(int)
        for delivery, _ in self._work.effects.rejected:
            found[delivery.topic] += len(delivery.key or b"") + len(delivery.value or b"")
        return found


def _by_topic(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    topics: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        topics[delivery.topic].append(delivery)
    return topics
