"""Tests that the endpoints report liveness, the errors of the parts, and the metrics."""

from asyncio import StreamReader, StreamWriter, open_connection
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from service.http import server
from service.http.server import Http
from service.runtime.health import Health
from service.runtime.metrics import HTTP_REJECTED, QUARANTINED


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


# -- strangers


async def connected(
    endpoints: Endpoints, sent: bytes = b"GET /healthz HTTP/1.1\r\nHo"
) -> tuple[StreamReader, StreamWriter]:
    reader, writer = await open_connection("127.0.0.1", endpoints.http.port)
    writer.write(sent)
    return reader, writer


async def is_closed(reader: StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def test_connections_that_ask_for_nothing_give_way(endpoints: Endpoints) -> None:
    silent = [await connected(endpoints) for _ in range(server.MOST_CONNECTIONS + 5)]
    for _ in range(3):
        assert (await endpoints.get("/healthz"))[0] == 200
    assert await is_closed(silent[0][0])
    for _, writer in silent:
        writer.close()


async def test_a_connection_without_a_whole_request_is_closed(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_SECONDS", 0.1)
    reader, writer = await connected(endpoints)
    assert await is_closed(reader)
    writer.close()


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"GET /\xff HTTP/9\r\n\r\n"]
)
async def test_a_request_that_is_no_http_is_counted_and_leaves_no_traceback(
    endpoints: Endpoints, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = HTTP_REJECTED.labels("malformed")._value.get()
    reader, writer = await connected(endpoints, request_)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.")
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"aiohttp" not in answer
    assert b"Traceback" not in answer
    assert HTTP_REJECTED.labels("malformed")._value.get() - before == 1
    assert caplog.records == []


async def test_answers_are_neither_cached_nor_guessed_at_and_name_no_version(endpoints: Endpoints) -> None:
    async with ClientSession() as client, client.get(f"http://127.0.0.1:{endpoints.http.port}/healthz") as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "els"
