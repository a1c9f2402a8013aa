"""Implements `els send`: publishes events to the input topics, as the neighbouring services do, for trying it out."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from service.cli.output import CommandError, UsageError, print_rows
from service.domain import incoming
from service.domain.events import Rejection
from service.domain.topics import INCOMING_TOPICS, LARGEST_RECORD
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import broker_error, input_limits, kafka_options


async def send(settings: Settings, options: Namespace) -> int:
    """Publish the events of a file; none is published unless the service accepts all, or with --force."""
    limits = input_limits(settings)
    events = []
    for number, event in enumerate(_events_of(options.file), start=1):
        topic = event.get("event_type") if isinstance(event, dict) else None
        if topic not in INCOMING_TOPICS:
            raise CommandError(f"event {number}: its event_type is not an input topic: {', '.join(INCOMING_TOPICS)}")
        value = json.dumps(event).encode()
        decoded = incoming.decode(topic, value, max_bytes=limits.value_bytes[topic], max_values=limits.json_values)
        if isinstance(decoded, Rejection) and not options.force:
            raise CommandError(f"event {number} would be rejected: {decoded.reason}: {decoded.error}")
        events.append((topic, _batch_of(event) if isinstance(decoded, Rejection) else decoded.batch_id, value))
    producer = AIOKafkaProducer(
        **kafka_options(settings),
        acks="all",
        enable_idempotence=settings.kafka_enable_idempotence,
        max_request_size=LARGEST_RECORD,
    )
    rows = []
    try:
        await producer.start()
        for topic, batch_id, value in events:
            sent = await producer.send_and_wait(topic, value, key=batch_id.encode())
            rows.append({"topic": topic, "batch": batch_id, "partition": sent.partition, "offset": sent.offset})
    except (KafkaError, OSError, TimeoutError) as error:
        raise CommandError(broker_error(error)) from None
    finally:
        await producer.stop()
    print_rows(rows, options.json)
    return 0


def _batch_of(event: Any) -> str:
    """Return what a rejected event names as its batch; "" where it names none."""
    data = event.get("data")
    found = data.get("batch_id", data.get("entity_id")) if isinstance(data, dict) else None
    return found if isinstance(found, str) else ""


def _events_of(path: str) -> Iterator[Any]:
    """Yield the JSON values of a file, or of standard input (-): one or more, separated by white space."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {one_line(error)}") from None
    at, decoder = len(text) - len(text.lstrip()), json.JSONDecoder()
    if at == len(text):
        raise UsageError(f"{path}: there is no event in it")
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}: {one_line(error)}") from None
        yield value
        at += len(text[at:]) - len(text[at:].lstrip())
