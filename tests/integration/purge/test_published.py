"""The events of the purge are what the contract says."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from service.domain import contract
from service.domain.topics import PENDING_EXPIRED, READINESS_TIMEOUT
from tests.support.builders.events import content, registration
from tests.support.pods.purger import TRACE, PurgeFixture

CONTRACT = Path(__file__).parents[2] / "data" / "contract"


def sample(name: str) -> Any:
    return json.loads((CONTRACT / f"out.{name}.json").read_text())


def shape(value: Any) -> Any:
    """The names of all fields and the kinds of their values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


async def test_the_event_is_what_the_contract_says(house: PurgeFixture) -> None:
    event = content("c1", traceparent=TRACE, tracestate="vendor=1")
    await house.poll(event)
    await house.purge(1.01)
    (published,) = house.events(PENDING_EXPIRED)
    expected = sample("pending_content_expired")
    assert shape(published["data"]) == shape(expected["data"])
    assert list(published) == list(expected)
    TypeAdapter(contract.Envelope[contract.PendingExpired]).validate_json(json.dumps(published))
    ((stored_at, closed_at),) = house.rows("select stored_at, closed_at from els.pending_content")
    data = published["data"]
    assert datetime.fromisoformat(data["stored_at"]) == stored_at
    assert datetime.fromisoformat(data["expired_at"]) == closed_at
    assert (data["text_storage_id"], data["file_upload_id"]) == ("c1", "upload-c1")
    assert published["correlation_id"] == data["correlation_id"] == str(event.correlation_id)
    assert published["metadata"] == {"traceparent": TRACE, "tracestate": "vendor=1"}


async def test_the_report_of_a_late_batch_is_what_the_contract_says(house: PurgeFixture) -> None:
    await house.poll(registration(essays=2, traceparent=TRACE))
    await house.poll(content("c1"))
    await house.purge(1.01)
    (published,) = house.events(READINESS_TIMEOUT)
    expected = sample("batch_readiness_timeout")
    assert list(published) == list(expected)
    assert shape(published["data"]) == shape(expected["data"])
    TypeAdapter(contract.Envelope[contract.ReadinessTimeout]).validate_json(json.dumps(published))
    assert published["metadata"] == {"traceparent": TRACE}
