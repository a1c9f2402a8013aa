"""Stores rejected records in quarantine, and pauses a topic after too many consecutive rejections."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from service.domain.decisions import CountRejections, RejectionCounter, count_rejections, decide_admission
from service.domain.delivery import Delivery
from service.domain.events import Rejection
from service.intake.outcome import EffectRecord
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
                rejected = [isinstance(delivery.event, Rejection) for delivery in arrived]
                counter = counters.get(topic, _NO_REJECTIONS)
                count = decide_admission(rejected, counter, limit, probing=probing).count
            self._admitted[topic] = arrived[:count]
            outcome.not_admitted += arrived[count:]
            yield from arrived[:count]
        outcome.paused = {topic for topic, counter in counters.items() if counter.paused}

    async def store(self) -> None:
        """Quarantine the rejected records, and change the counters of their topics."""
        work, counts = self._work, self._counts()
        if rejected := work.effects.rejected:
            work.effects.rejected = await quarantine.quarantine_inputs(work.conn, rejected)
            new = {id(delivery) for delivery, _ in work.effects.rejected}
            for delivery, _ in rejected:
                if id(delivery) not in new:
                    work.effects.records.append(EffectRecord("rejection_repeated", None, None, None, delivery))
        if counts:
            limit = work.limits.consecutive_rejections
            paused = await quarantine.count_rejections(work.conn, counts, limit)
            work.outcome.paused = (work.outcome.paused - paused.keys()) | {
                topic for topic, is_paused in paused.items() if is_paused
            }

    def _counts(self) -> dict[str, CountRejections]:
        """Return the counters that change. Deferred records count as valid, conflicting registrations as rejected."""
        if self._work.exclusive:
            return {}  # counted with their poll
        rejected = {id(delivery) for delivery, _ in self._work.effects.rejected}
        counts = {}
        for topic, admitted in self._admitted.items():
            count = count_rejections([id(delivery) in rejected for delivery in admitted])
            if count.consecutive or (count.restarted and topic in self._counters):
                counts[topic] = count
        return counts


def _by_topic(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    topics: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        topics[delivery.topic].append(delivery)
    return topics
