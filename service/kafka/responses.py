"""Notes what aiokafka ignores in the responses of brokers: delays because of a quota, and why records are rejected.

A broker answers a request at once, says for how long it will not read from the connection, and is then silent for that
long (KIP-219). While a partition lacks replicas, an idempotent producer of aiokafka tries again without end and without
an error.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest

from service.runtime.metrics import THROTTLED

NOTABLE_SECONDS: Final = 0.5
"""A shorter delay is not reported. It is counted, as all are."""


class Responses:
    """Watches the responses to one client."""

    def __init__(self, client: Any, name: str) -> None:
        """`client` is an AIOKafkaClient, whose `send` is replaced. `name` is the label of its metric."""
        self._send, client.send = client.send, self._sent
        self._name = name
        self._rejections: dict[TopicPartition, int] = {}
        self.throttled_until = 0.0
        """The monotonic time up to which a broker delays this client because of a quota."""

    @property
    def quota(self) -> str | None:
        """Say that a broker delays this client for long because of a quota; None where none does."""
        left = self.throttled_until - time.monotonic()
        return f"a quota of the broker delays it for {left:.1f} s" if left > NOTABLE_SECONDS else None

    def forget(self, tp: TopicPartition) -> None:
        """Forget the last rejection: other records are sent."""
        self._rejections.pop(tp, None)

    def rejection(self, tp: TopicPartition) -> Exception | None:
        """Return the error with which the broker last rejected records of a partition; None where it took them."""
        code = self._rejections.get(tp)
        return None if code is None else for_code(code)()

    async def _sent(self, node: Any, request: Any, **options: Any) -> Any:
        response = await self._send(node, request, **options)
        if milliseconds := getattr(response, "throttle_time_ms", 0):
            self.throttled_until = max(self.throttled_until, time.monotonic() + milliseconds / 1000)
            THROTTLED.labels(self._name).inc(milliseconds / 1000)
        if isinstance(request, ProduceRequest):
            self._note_rejections(
                {
                    TopicPartition(topic, each[0]): each[1]
                    for topic, partitions in response.topics
                    for each in partitions
                }
            )
        return response

    def _note_rejections(self, codes: Mapping[TopicPartition, int]) -> None:
        for tp, code in codes.items():
            if code:
                self._rejections[tp] = code
            else:
                self._rejections.pop(tp, None)
