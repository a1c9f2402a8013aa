"""Tests that the endpoints report liveness, the errors of the parts, and the metrics."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from service.http.server import Http
from service.runtime.health import Health
from service.runtime.metrics import QUARANTINED


class Endpoints:
    """An Http on a free port, and a client of it."""

    def __init__(self) -> None:
        self.health = Health("database", "consumer")
        self.refreshes = 0
        self.http = Http("127.0.0.1", 0, self.health, self._refresh)

    async def _refresh(self) -> None:
        self.refreshes += 1

    async def get(self, path: str) -> tuple[int, str, Any]:
        async with (
            ClientSession() as client,
            client.get(f"http://127.0.0.1:{self.http.port}{path}") as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, response.content_type, await (response.json() if is_json else response.text())


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    endpoints = Endpoints()
    await endpoints.http.start()
    yield endpoints
    await endpoints.http.close()


async def test_the_process_is_alive_whatever_its_parts_report(endpoints: Endpoints) -> None:
    endpoints.health.set_error("database", "away")
    assert await endpoints.get("/healthz") == (200, "application/json", {"status": "alive"})


async def test_a_part_that_has_not_reported_is_not_ready(endpoints: Endpoints) -> None:
    status, _, body = await endpoints.get("/readyz")
    assert (status, body) == (
        503,
        {"status": "not ready", "parts": {"database": "starting", "consumer": "starting"}},
    )


async def test_readiness_reports_the_error_of_each_part(endpoints: Endpoints) -> None:
    endpoints.health.set_healthy("database")
    endpoints.health.set_error("consumer", "no word from the broker")
    status, _, body = await endpoints.get("/readyz")
    assert (status, body["parts"]) == (503, {"database": "ok", "consumer": "no word from the broker"})

    endpoints.health.set_healthy("consumer")
    status, _, body = await endpoints.get("/readyz")
    assert (status, body["status"]) == (200, "ready")
    assert endpoints.refreshes == 2


async def test_a_paused_topic_is_named(endpoints: Endpoints) -> None:
    endpoints.health.set_healthy("database")
    endpoints.health.set_healthy("consumer")
    endpoints.health.set_error("topics", "paused, consecutive rejections: some.topic")
    status, _, body = await endpoints.get("/readyz")
    assert status == 503
    assert "some.topic" in body["parts"]["topics"]


async def test_metrics_have_the_text_format_of_prometheus(endpoints: Endpoints) -> None:
    QUARANTINED.labels("not_json").inc(0)
    status, content_type, text = await endpoints.get("/metrics")
    assert (status, content_type) == (200, "text/plain")
    assert 'els_quarantined_total{reason="not_json"}' in text
    assert "# TYPE els_slots_assigned_total counter" in text


async def test_an_address_in_use_is_an_error_at_once(endpoints: Endpoints) -> None:
    another = Http("127.0.0.1", endpoints.http.port, endpoints.health, endpoints._refresh)
    with pytest.raises(OSError, match="already in use"):
        await another.start()
    await another.close()


async def test_an_unknown_path_is_not_found(endpoints: Endpoints) -> None:
    status, *_ = await endpoints.get("/admin/")
    assert status == 404
