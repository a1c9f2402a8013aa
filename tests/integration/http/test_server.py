"""The endpoints say that the process lives, which of its parts is not well, and what it has counted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from service.http.server import Http
from service.runtime.health import Health
from service.runtime.metrics import QUARANTINED


class Endpoints:
    """Http on a free port, and a client of it."""

    def __init__(self) -> None:
        self.health = Health("database", "consumer")
        self.looks = 0
        self.http = Http("127.0.0.1", 0, self.health, self._look)

    async def _look(self) -> None:
        self.looks += 1

    async def get(self, path: str) -> tuple[int, str, Any]:
        async with (
            ClientSession() as client,
            client.get(f"http://127.0.0.1:{self.http.port}{path}") as answer,
        ):
            is_json = answer.content_type == "application/json"
            return answer.status, answer.content_type, await (answer.json() if is_json else answer.text())


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    endpoints = Endpoints()
    await endpoints.http.start()
    yield endpoints
    await endpoints.http.close()


async def test_the_process_lives_whatever_its_parts_do(endpoints: Endpoints) -> None:
    endpoints.health.set_error("database", "away")
    assert await endpoints.get("/healthz") == (200, "application/json", {"status": "alive"})


async def test_what_was_never_heard_of_is_not_ready(endpoints: Endpoints) -> None:
    status, _, told = await endpoints.get("/readyz")
    assert (status, told) == (
        503,
        {"status": "not ready", "parts": {"database": "starting", "consumer": "starting"}},
    )


async def test_readiness_says_which_part_is_not_well_and_why(endpoints: Endpoints) -> None:
    endpoints.health.set_healthy("database")
    endpoints.health.set_error("consumer", "no word from the broker")
    status, _, told = await endpoints.get("/readyz")
    assert (status, told["parts"]) == (503, {"database": "ok", "consumer": "no word from the broker"})

    endpoints.health.set_healthy("consumer")
    status, _, told = await endpoints.get("/readyz")
    assert (status, told["status"]) == (200, "ready")
    assert endpoints.looks == 2


async def test_a_topic_that_is_stopped_is_named(endpoints: Endpoints) -> None:
    endpoints.health.set_healthy("database")
    endpoints.health.set_healthy("consumer")
    endpoints.health.set_error("topics", "stopped, nothing but rejections: some.topic")
    status, _, told = await endpoints.get("/readyz")
    assert status == 503
    assert "some.topic" in told["parts"]["topics"]


async def test_metrics_are_what_prometheus_reads(endpoints: Endpoints) -> None:
    QUARANTINED.labels("not_json").inc(0)
    status, content_type, text = await endpoints.get("/metrics")
    assert (status, content_type) == (200, "text/plain")
    assert 'els_quarantined_total{reason="not_json"}' in text
    assert "# TYPE els_slots_assigned_total counter" in text


async def test_an_address_that_is_taken_is_an_error_at_once(endpoints: Endpoints) -> None:
    another = Http("127.0.0.1", endpoints.http.port, endpoints.health, endpoints._look)
    with pytest.raises(OSError, match="already in use"):
        await another.start()
    await another.close()


async def test_a_path_that_is_not_there_is_not_found(endpoints: Endpoints) -> None:
    status, *_ = await endpoints.get("/admin/")
    assert status == 404
