"""Builds the record batch of a record that is sent compressed, since its topic takes it in no other way."""

import asyncio
import gzip
from collections.abc import Sequence
from typing import Final

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from service.kafka.record_batches import LAYOUT, OVERHEAD

_PLAIN, _GZIP = 0, 1
_FASTEST: Final = 1
_UNCHECKED: Final = 21
"""Bytes of a record batch that its checksum does not cover."""


class CompressedBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka's classes have no types
    """A record batch of one record with a body that is compressed already. aiokafka would do so in the event loop."""

    def __init__(self, body: bytes) -> None:
        """Prepare the head: that of a batch of one record, whatever is in it."""
        super().__init__(LAYOUT.size, _PLAIN)
        self.append(timestamp=None, key=b"", value=b"")
        self._body = body
        self._whole: bytes | None = None

    def size(self) -> int:
        """Return the size of the batch in bytes."""
        return LAYOUT.size + len(self._body)

    def _build(self) -> bytes:
        if self._whole is None:
            head = list(LAYOUT.unpack_from(super()._build()))
            head[1] = self.size() - OVERHEAD.size
            head[5] |= _GZIP
            head[4] = calc_crc32c(LAYOUT.pack(*head)[_UNCHECKED:] + self._body)
            self._whole = LAYOUT.pack(*head) + self._body
        return self._whole


async def compressed_batch(key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> CompressedBatch:
    """Return a record batch of one record, compressed in a thread with gzip, which every client can read."""

    def body() -> bytes:
        plain = BatchBuilder(len(value), _PLAIN)
        plain.append(timestamp=None, key=key, value=value, headers=headers)
        return gzip.compress(memoryview(plain._build())[LAYOUT.size :], _FASTEST)  # noqa: SLF001

    return CompressedBatch(await asyncio.to_thread(body))
