"""Notes for how long brokers delay a client because of a quota.

A broker answers a request at once, says for how long it does not read from the connection any more, and then is silent
for that long (KIP-219). aiokafka ignores this.
"""

import time
from typing import Any

from service.runtime.metrics import THROTTLED


class Quota:
    """Watches the responses of one client."""

    def __init__(self, client: Any, name: str) -> None:
        """`client` is an AIOKafkaClient, whose `send` is replaced. `name` is the label of its metric."""
        self._send, client.send = client.send, self._sent
        self._name = name
        self.until = 0.0
        """The monotonic time up to which a broker delays this client."""

    @property
    def seconds(self) -> float:
        """How many seconds of the delay are left."""
        return max(0.0, self.until - time.monotonic())

    @property
    def told(self) -> str | None:
        """Say that a broker delays this client; None where none does."""
        return f"a quota of the broker delays it for {seconds:.0f} s" if (seconds := self.seconds) else None

    async def _sent(self, *request: Any, **options: Any) -> Any:
        response = await self._send(*request, **options)
        if milliseconds := getattr(response, "throttle_time_ms", 0):
            self.until = max(self.until, time.monotonic() + milliseconds / 1000)
            THROTTLED.labels(self._name).inc(milliseconds / 1000)
        return response
