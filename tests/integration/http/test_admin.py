"""Tests the JSON API under /admin/: authentication, the endpoints, and the errors."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Reason, Rejection
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import BATCH_COMPLETED, BATCH_READY, CONTENT_PROVISIONED
from service.http import admin
from service.http.server import Http
from service.intake.intake import Intake
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.runtime import metrics
from service.runtime.health import Health
from service.runtime.tokens import Tokens
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.pods.applier import forget

TOKEN = "a token of Åsa's"
VIEWER = "a token for reading"
DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
MEBIBYTE = 1024 * 1024


class Served:
    """/admin/ on a free port, a client of it, and the part of a pod that applies polls."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=2, timeouts=Timeouts(lock_timeout=200))
        self.operations = Operations(self.database, IntakeLimits(), DEFAULT_LIMITS)
        applications = {"/admin/": admin.application(self.operations, Tokens(TOKEN, VIEWER))}
        self.http = Http("127.0.0.1", 0, Health(), self._refresh, applications)

    async def _refresh(self) -> None:
        """Refresh nothing."""

    async def take(self, *deliveries: Delivery) -> None:
        """Apply records as the consumer would."""
        await Intake(self.database, IntakeLimits(), Health("database"), forget).take(deliveries)

    async def send(self, method: str, path: str, *, token: str | None = TOKEN, **more: Any) -> tuple[int, Any]:
        """Send a request. Returns the status and the JSON of the response."""
        headers = more.pop("headers", {}) | ({} if token is None else {"Authorization": f"Bearer {token}"})
        url = f"http://127.0.0.1:{self.http.port}/admin/{path}"
        async with ClientSession() as client, client.request(method, url, headers=headers, **more) as response:
            kind = "application/json" if response.status == 200 else "application/problem+json"
            assert response.content_type == kind, await response.text()
            return response.status, await response.json(content_type=kind)

    async def get(self, path: str, **query: object) -> tuple[int, Any]:
        return await self.send("GET", path, params={name: str(value) for name, value in query.items()})

    async def post(self, path: str, **body: object) -> tuple[int, Any]:
        return await self.send("POST", path, json=body)


@pytest.fixture
async def served(app_url: str) -> AsyncIterator[Served]:
    served = Served(app_url)
    await served.http.start()
    yield served
    await served.http.close()
    await served.database.close()


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def states(conn: psycopg.Connection[Any]) -> dict[str, str]:
    return dict(conn.execute("select text_storage_id, state from els.pending_content order by arrival").fetchall())


def written(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select who, action, batch_id, why from els.operator_actions order by id").fetchall()


# -- authentication


async def test_without_the_token_every_path_is_unauthorized(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(_: float) -> None:
        """Wrong tokens are answered slowly: test_wrong_tokens_are_counted_and_answered_slowly."""

    monkeypatch.setattr("service.runtime.tokens.asyncio.sleep", pause)
    for path in ("", "openapi.json", "pending", "batches/show", "not/there"):
        for token in (None, "", "wrong", TOKEN[:-1], f"{TOKEN}s", "å" * 3000):
            status, problem = await served.send("GET", path, token=token)
            assert (status, problem["status"], problem["title"]) == (401, 401, "Unauthorized"), (path, token)


async def test_an_unauthorized_response_names_the_scheme(served: Served) -> None:
    url = f"http://127.0.0.1:{served.http.port}/admin/pending"
    async with ClientSession() as client:
        for headers in ({}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
            async with client.get(url, headers=headers) as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="admin"')


async def test_the_token_of_a_viewer_reads_and_does_not_act(served: Served) -> None:
    assert (await served.send("GET", "pending", token=VIEWER))[0] == 200
    status, problem = await served.send("POST", "quarantine/replay", token=VIEWER, json={"all": True})
    assert (status, problem["detail"]) == (403, "the token of a viewer can read, and not act")


async def test_wrong_tokens_are_counted_and_answered_slowly(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("service.runtime.tokens.asyncio.sleep", pause)
    before = metrics.HTTP_REJECTED.labels("token")._value.get()
    for _ in range(3):
        assert (await served.send("GET", "pending", token="not the token"))[0] == 401
    assert metrics.HTTP_REJECTED.labels("token")._value.get() - before == 3
    assert pauses == [1.0] * 3


async def test_the_page_shows_every_endpoint_and_loads_nothing(served: Served) -> None:
    url = f"http://127.0.0.1:{served.http.port}/admin/"
    async with ClientSession() as client, client.get(url, headers={"Authorization": f"bearer {TOKEN}"}) as response:
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "http" not in page.replace("over HTTP", "").casefold().replace("https", "http").split("<h1>")[0]
    for endpoint in admin.ENDPOINTS:
        assert f"<code>{endpoint.method} {endpoint.path}</code>" in page


async def test_the_document_is_the_one_in_docs(served: Served) -> None:
    status, document = await served.get("openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert document == json.loads(DOCUMENT.read_text()), "make docs"


# -- pending


async def test_pending_content_is_listed_in_pages_and_shown_with_all_fields(served: Served) -> None:
    await served.take(*(provisioned("b", f"t{number}") for number in range(3)))
    status, first = await served.get("pending", limit=2, batch="b", older_than="0s", file="T")
    assert (status, [row["text_storage_id"] for row in first["rows"]]) == (200, ["t0", "t1"])
    _, rest = await served.get("pending", limit=2, after=first["next"])
    assert ([row["text_storage_id"] for row in rest["rows"]], rest["next"]) == (["t2"], None)
    assert (await served.get("pending", state="expired"))[1] == {"rows": [], "next": None}
    _, shown = await served.get("pending/show", batch="b", text="t1")
    assert (shown["state"], shown["file_upload_id"], shown["stored_at"][-1]) == ("pending", "upload-t1", "Z")
    assert (await served.get("pending/show", batch="b", text="x"))[0] == 404


async def test_long_names_are_cut_in_lists(served: Served) -> None:
    await served.take(provisioned("b", "t", original_file_name="x" * 1_000))
    assert len((await served.get("pending"))[1]["rows"][0]["original_file_name"]) == 255
    assert len((await served.get("pending/show", batch="b", text="t"))[1]["original_file_name"]) == 1_000


def restored(contents: int, failures: int = 0, **skipped: list[str]) -> dict[str, Any]:
    """The response to a restore."""
    return {"contents": contents, "failures": failures, "busy": [], "registered": []} | skipped


async def test_pending_content_is_removed_and_restored_and_logged_with_the_operator(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    await served.take(*(provisioned("b", f"t{number}") for number in range(4)), failed("b", "u"))
    removed = await served.post("pending/remove", batch="b", texts=["t0", "u"], who="Åsa", why="test")
    assert removed == (200, {"contents": 1, "failures": 1})
    assert [row["state"] for row in (await served.get("pending/failures", state="removed"))[1]["rows"]] == ["removed"]
    assert await served.post("pending/clear", batch="b", file="T1") == (200, {"contents": 1, "failures": 0})
    conn.execute("update els.pending_content set state = 'expired', closed_at = now() where text_storage_id > 't1'")
    assert await served.post("pending/restore", batch="b", texts=["t3"], who="Bo") == (200, restored(1))
    assert await served.post("pending/restore", batch="b", who="Bo") == (200, restored(1))
    assert states(conn) == {"t0": "removed", "t1": "removed", "t2": "pending", "t3": "pending"}
    assert written(conn) == [
        ("Åsa", "pending remove", "b", "test"),
        ("token from 127.0.0.1", "pending clear", "b", ""),
        ("Bo", "pending restore", "b", ""),
        ("Bo", "pending restore", "b", ""),
    ]


async def test_what_expired_is_restored_by_filter_and_never_all_by_mistake(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    await served.take(*(provisioned(batch, f"{batch}-t") for batch in ("b", "c", "d")), failed("d", "u"))
    conn.execute("update els.pending_content set state = 'expired', closed_at = now()")
    conn.execute("update els.validation_failures set state = 'expired', closed_at = now()")
    mistakes: list[dict[str, Any]] = [
        {},
        {"dry_run": True},
        {"texts": ["b-t"]},
        {"batch": "b", "texts": ["b-t"], "file": "x"},
    ]
    for body in mistakes:
        assert (await served.post("pending/restore", **body))[0] == 422
    assert await served.post("pending/restore", all=True, dry_run=True) == (200, restored(3, 1))
    assert written(conn) == []
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('c', 0))")
        assert await served.post("pending/restore", newer_than="1h", why="x") == (200, restored(2, 1, busy=["c"]))
    assert states(conn) == {"b-t": "pending", "c-t": "expired", "d-t": "pending"}
    assert await served.post("pending/restore", all=True) == (200, restored(1))
    assert (await served.post("pending/restore", all=True))[0] == 404
    assert [row[2:] for row in written(conn)] == [("b", "x"), ("d", "x"), ("c", "")]


async def test_missing_content_and_registered_batches_have_different_statuses(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    await served.take(provisioned("b", "t"), registered("r", "e1"))
    bodies: dict[str, dict[str, object]] = {"remove": {"texts": ["x"]}, "clear": {"file": "nowhere"}, "restore": {}}
    for path, body in bodies.items():
        status, problem = await served.post(f"pending/{path}", batch="b", **body)
        assert (status, "no such content" in problem["detail"]) == (404, True)
        status, problem = await served.post(f"pending/{path}", batch="r", **body)
        assert (status, "is registered" in problem["detail"]) == (409, True)
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


async def test_of_two_concurrent_operators_one_removes_the_content(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    await served.take(*(provisioned("b", f"t{number}") for number in range(50)))
    responses = await asyncio.gather(*(served.post("pending/clear", batch="b", who=f"w{n}") for n in range(2)))
    assert sorted(status for status, _ in responses) == [200, 404]
    assert [row[1] for row in written(conn)] == ["pending clear"]


async def test_a_locked_batch_is_a_conflict_that_can_be_retried(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(provisioned("b", "t"))
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
        status, problem = await served.post("pending/clear", batch="b")
    assert (status, "try again" in problem["detail"], states(conn)) == (409, True, {"t": "pending"})


# -- quarantine


def rejected(value: bytes) -> Delivery:
    """A record that was rejected when it arrived; the present code accepts it if it holds content."""
    return delivery(CONTENT_PROVISIONED, value, event=Rejection(Reason.INVALID_FIELD, "said the bug"))


async def test_rejected_inputs_are_listed_and_shown_as_text_or_base64(served: Served) -> None:
    for value in (b"text", b"\xff\x00", b"x" * (MEBIBYTE + 1)):
        await served.take(rejected(value))
    status, page = await served.get("quarantine", limit=2, topic=CONTENT_PROVISIONED, reason="invalid_field")
    ids = [row["id"] for row in page["rows"]]
    assert (status, page["next"]) == (200, str(ids[-1]))
    _, rest = await served.get("quarantine", before=ids[-1], state="open")
    oldest = rest["rows"][0]["id"]
    assert (await served.get("quarantine/show", id=oldest))[1]["value"] == "text"
    assert (await served.get("quarantine/show", id=oldest + 1))[1]["value_base64"] == "/wA="
    _, long = await served.get("quarantine/show", id=oldest + 2)
    assert (len(long["value"]), long["value_bytes"]) == (MEBIBYTE, MEBIBYTE + 1)
    assert (await served.get("quarantine/show", id=2**63 - 1))[0] == 404


async def test_a_replay_continues_after_the_previous_one_and_reports_failures(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    for value in (content("b", "t1"), b"no JSON", content("b", "t2")):
        await served.take(rejected(value))
    status, first = await served.post("quarantine/replay", all=True, limit=2, who="me", why="fixed")
    assert (status, first["failed"]) == (200, 1)
    assert [row["outcome"] for row in first["outcomes"]] == ["pending", "not_json"]
    _, second = await served.post("quarantine/replay", all=True, after=first["next"])
    assert ([row["outcome"] for row in second["outcomes"]], second["next"]) == (["pending"], None)
    assert states(conn) == {"t1": "pending", "t2": "pending"}
    assert written(conn)[0] == ("me", "quarantine replay", None, "fixed")
    assert (await served.post("quarantine/replay", ids=[first["outcomes"][0]["id"]]))[0] == 404


async def test_an_input_is_corrected_and_replayed(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(rejected(content("b", "t", file_size_bytes=-1)))
    _, page = await served.get("quarantine")
    id_, value = page["rows"][0]["id"], content("b", "t", file_size_bytes=1).decode()
    status, tried = await served.post("quarantine/edit", id=id_, value=value, dry_run=True)
    assert (status, tried["outcome"], tried["error"]) == (200, "pending", "")
    assert '-    "file_size_bytes": -1,' in tried["difference"]
    assert (states(conn), written(conn)) == ({}, [])
    status, wrong = await served.post("quarantine/edit", id=id_, value="no JSON")
    assert (status, wrong["outcome"], written(conn)) == (200, "not_json", [])
    status, done = await served.post("quarantine/edit", id=id_, value=value, who="me", why="fixed")
    assert (status, done["outcome"], states(conn)) == (200, "pending", {"t": "pending"})
    assert written(conn) == [("me", "quarantine edit", "b", "fixed")]
    assert (await served.post("quarantine/edit", id=id_, value=value))[0] == 409
    assert (await served.get("quarantine/show", id=id_))[1]["edited_value"] == value


async def test_two_replays_at_once_apply_each_input_once(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(*(rejected(content("b", f"t{number}")) for number in range(20)))
    responses = await asyncio.gather(*(served.post("quarantine/replay", all=True) for _ in range(2)))
    outcomes = [row["outcome"] for status, body in responses if status == 200 for row in body["outcomes"]]
    assert outcomes.count("pending") == 20
    assert set(outcomes) <= {"pending", "closed"}
    assert len(states(conn)) == len(written(conn)) == 20


async def test_inputs_are_discarded_and_never_all_by_mistake(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(rejected(b"1"), rejected(b"2"), rejected(b"3"))
    mistakes: list[dict[str, Any]] = [{}, {"after": 1}, {"limit": 5}]
    for body in mistakes:
        assert (await served.post("quarantine/discard", **body))[0] == 422
    _, page = await served.get("quarantine")
    ids = [row["id"] for row in page["rows"]]
    expected = {"discarded": 1, "closed_meanwhile": 0, "next": None}
    assert await served.post("quarantine/discard", ids=[ids[0]], who="me") == (200, expected)
    assert (await served.post("quarantine/discard", reason="invalid_field"))[1]["discarded"] == 2
    assert (await served.post("quarantine/discard", all=True))[0] == 404
    assert len(written(conn)) == 3


async def test_a_paused_topic_is_resumed(served: Served, conn: psycopg.Connection[Any]) -> None:
    conn.execute("insert into els.topic_refusals values (%s, 1000, now())", [CONTENT_PROVISIONED])
    assert await served.post("quarantine/resume", topic=CONTENT_PROVISIONED) == (200, {"topic": CONTENT_PROVISIONED})
    assert (await served.post("quarantine/resume", topic=CONTENT_PROVISIONED))[0] == 409
    assert (await served.post("quarantine/resume", topic="another"))[0] == 422


# -- notices


LOST = (
    "insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause) values (%s, 0, 1, 3, 'deleted')"
)


async def test_notices_are_acknowledged(served: Served, conn: psycopg.Connection[Any]) -> None:
    for topic in ("one", "two", "three"):
        conn.execute(LOST, [topic])
    assert await served.post("health/acknowledge", ids=[2], why="asked for again") == (
        200,
        {"notices": ["loss 2 of two"]},
    )
    status, verdict = await served.get("health")
    lines = {(each["level"], each["kind"]): each["line"] for each in verdict["conditions"]}
    assert (status, verdict["level"]) == (200, "action needed")
    assert lines["notice", "lost_inputs"].startswith("2 times")
    assert lines["action needed", "relays"].startswith("no pod publishes")
    assert await served.post("health/acknowledge", ids=[1, 3], dry_run=True) == (
        200,
        {"notices": ["loss 1 of one", "loss 3 of three"]},
    )
    assert (await served.post("health/acknowledge", ids=[2]))[0] == 404
    assert (await served.post("health/acknowledge"))[1] == {"notices": ["loss 1 of one", "loss 3 of three"]}
    assert conn.execute("select count(*) from ops.lost_inputs where acknowledged_at is null").fetchone() == (0,)
    status, problem = await served.post("health/acknowledge", kinds=["relays"])
    assert (status, "no pod publishes events" in problem["detail"]) == (409, True)
    assert (await served.post("health/acknowledge", kinds=["another"]))[0] == 422
    assert conn.execute("select count(*), min(action) from ops.operator_actions").fetchone() == (
        3,
        "health acknowledge",
    )


async def test_while_the_database_is_behind_an_operator_changes_nothing(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(LOST, ["one"])
    conn.execute("insert into els.recovery (state, why) values ('behind', 'a test')")
    status, error = await served.post("health/acknowledge")
    assert (status, "behind its topics" in str(error)) == (409, True)
    assert conn.execute("select count(*) from ops.lost_inputs where acknowledged_at is null").fetchone() == (1,)


# -- topics


async def test_added_partitions_are_adopted_as_relays_found_them(served: Served, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "insert into els.output_topics (topic, partitions, found) values (%s, 2, 3), ('t', 2, 2)", [BATCH_READY]
    )
    conn.execute("insert into els.relays values (gen_random_uuid(), now() + interval '1 hour', true)")
    adopted = {"topics": [{"topic": BATCH_READY, "used_before": 2, "partitions": 3}]}
    assert await served.post("topics/adopt", dry_run=True) == (200, adopted)
    status, error = await served.post("topics/adopt")
    assert (status, "stop all pods" in str(error)) == (409, True)
    assert await served.post("topics/adopt", while_publishing=True, why="seq is enough") == (200, adopted)
    assert await served.post("topics/adopt", while_publishing=True) == (200, {"topics": []})
    assert conn.execute("select action, topic, why from ops.operator_actions").fetchall() == [
        ("topics adopt", BATCH_READY, "seq is enough")
    ]


# -- batches


async def test_batches_are_listed_and_shown_in_pages(served: Served) -> None:
    odd = "../b/%2F?#å"
    await served.take(registered(odd, "e1", "e2", "e3"), registered("c", "e1"), provisioned(odd, "t"))
    status, page = await served.get("batches", limit=1, state="registered", newer_than="1h")
    assert (status, page["rows"][0]["batch_id"], page["next"].partition("/")[2]) == (200, "c", "c")
    status, page = await served.get("batches", limit=1, after=page["next"])
    assert (status, page["rows"][0]["batch_id"], page["next"].partition("/")[2]) == (200, odd, odd)
    assert (await served.get("batches", after=page["next"]))[1]["rows"] == []
    assert (await served.get("batches", after=odd))[0] == 422
    _, shown = await served.get("batches/show", batch=odd, limit=2)
    assert (shown["assigned"], [slot["state"] for slot in shown["slots"]]) == (1, ["assigned", "open"])
    _, rest = await served.get("batches/show", batch=odd, after=shown["next"])
    assert ([slot["essay_id"] for slot in rest["slots"]], rest["next"]) == (["e3"], None)
    assert (await served.get("batches/show", batch="x"))[0] == 404


async def test_the_events_of_a_complete_batch_are_published_again(
    served: Served, conn: psycopg.Connection[Any]
) -> None:
    await served.take(registered("b", "e1"), provisioned("b", "t"), registered("c", "e1"))
    status, body = await served.post("batches/republish", batch="b", why="BOS lost it")
    assert (status, [event["topic"] for event in body["events"]]) == (200, [BATCH_COMPLETED, BATCH_READY])
    rows = conn.execute(
        "select count(*), count(distinct event_id) from ops.outbox_events where topic = %s", [BATCH_READY]
    )
    assert rows.fetchone() == (2, 1)
    assert (await served.post("batches/republish", batch="c"))[0] == 409


async def test_batches_are_closed_and_cancelled(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(registered("b", "e1", "e2"), provisioned("b", "t"), registered("c", "e1"))
    status, expected = await served.post("batches/close", batch="b", dry_run=True)
    assert (status, expected["state"], expected["withdrawn"]) == (200, "ready", 1)
    assert await served.post("batches/close", batch="b", why="one was not written") == (200, expected)
    assert [event["topic"] for event in expected["events"]] == [BATCH_COMPLETED, BATCH_READY]
    assert (await served.post("batches/close", batch="b"))[0] == 409
    assert (await served.post("batches/close", batch="x"))[0] == 404
    assert (await served.post("batches/cancel", batch="c"))[0] == 422
    assert (await served.post("batches/cancel", batch="c", reason="BECAUSE"))[0] == 422
    status, ended = await served.post("batches/cancel", batch="c", reason="WITHDRAWN")
    assert (status, ended["before"], ended["state"]) == (200, "registered", "cancelled")
    _, page = await served.get("batches", state="cancelled")
    assert [(row["batch_id"], row["withdrawn"]) for row in page["rows"]] == [("c", 1)]
    rows = conn.execute("select action, batch_id, why from ops.operator_actions order by id").fetchall()
    assert rows == [("batches close", "b", "one was not written"), ("batches cancel", "c", "")]


# -- wrong requests


WRONG_QUERIES = (
    ("pending", "limit=0"),
    ("pending", "limit=1001"),
    ("pending", f"limit={'9' * 5000}"),
    ("pending", "limit=1&limit=2"),
    ("pending", "batsch=b"),
    ("pending", "batch=%00"),
    ("pending", f"batch={'x' * 256}"),
    ("pending", "batch="),
    ("pending", "older_than=2y"),
    ("pending", "older_than=999999999d"),
    ("pending", "after=0001-01-01T00:00:00%2B14:00/1"),
    ("pending", f"after=2026-01-01T00:00:00Z/{2**63}"),
    ("pending", "after=2026-01-01T00:00:00/1"),
    ("pending/show", "batch=b"),
    ("quarantine", "before=-1"),
    ("quarantine", "state=shut"),
    ("quarantine/show", f"id={2**63}"),
    ("batches/show", "batch=b&after=100001"),
)


async def test_a_wrong_query_gets_the_error_of_its_parameter(served: Served) -> None:
    for path, query in WRONG_QUERIES:
        status, problem = await served.send("GET", f"{path}?{query}")
        assert (status, len(problem.get("errors", ()))) == (422, 1), query
        assert len(json.dumps(problem)) < 2000


WRONG_BODIES = (
    (b"", 400),
    (b"no JSON", 400),
    (b"[]", 400),
    (b'{"batch": "\\ud800"}', 400),
    (b"[" * 5_000, 400),
    (b"[" * 100_000, 413),  # too many values
    (b'{"batch": "\\u0000"}', 422),
    (b'{"batch": 5}', 422),
    (b'{"batch": "b", "older_than": 5}', 422),
    (b'{"batch": "b", "file": null, "fil": "x"}', 422),
    (b'{"batch": "b", "who": "' + b"x" * 300 + b'"}', 422),
    (b'{"batch": "b", "why": "' + b"x" * 2001 + b'"}', 422),
    (b"x" * (MEBIBYTE + 1), 413),
)


async def test_a_wrong_body_changes_nothing(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(provisioned("b", "t"))
    for body, expected in WRONG_BODIES:
        status, problem = await served.send(
            "POST", "pending/clear", data=body, headers={"Content-Type": "application/json"}
        )
        assert (status, len(json.dumps(problem)) < 2000) == (expected, True), body[:50]
    assert states(conn) == {"t": "pending"}


async def test_types_are_strict_in_bodies(served: Served) -> None:
    wrong: list[dict[str, Any]] = [{"all": 1}, *({"ids": ids} for ids in (["1"], [True], [], [1.5], [0], [None]))]
    for body in wrong:
        assert (await served.post("quarantine/replay", **body))[0] == 422
    assert (await served.post("quarantine/replay", ids=list(range(1, 1002))))[0] == 422
    assert (await served.post("quarantine/replay", ids=[1, 2], limit=1))[0] == 422


async def test_unknown_paths_methods_and_media_types_are_problems_too(served: Served) -> None:
    assert (await served.send("GET", "not/there"))[0] == 404
    assert (await served.send("DELETE", "pending"))[0] == 405
    assert (await served.send("POST", "pending/clear", data=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415


async def test_no_request_causes_a_server_error(served: Served) -> None:
    """Random values for all parameters get a status of the client's errors, never 500."""
    dice = random.Random(7)
    odd = [
        "\0",
        "\x1b[31m",
        "å" * 300,
        str(2**64),
        "-1",
        "1e9",
        "",
        " ",
        "null",
        "%",
        "'; --",
        "\u202e",
        "0",
        "1h",
        "b",
    ]
    for _ in range(300):
        endpoint = dice.choice(admin.ENDPOINTS)
        names = [*endpoint.request.model_fields, "more"]
        values = {name: dice.choice(odd) for name in dice.sample(names, dice.randint(0, min(4, len(names))))}
        path = endpoint.path.removeprefix("/admin/")
        status, _ = await (served.get if endpoint.method == "GET" else served.post)(path, **values)
        assert status in (200, 404, 409, 422), (path, values)


async def test_an_unavailable_database_is_reported() -> None:
    served = Served("postgresql://nobody:secret@127.0.0.1:1/nowhere")
    await served.http.start()
    status, problem = await served.get("pending")
    assert (status, "secret" in json.dumps(problem)) == (503, False)
    await served.http.close()
    await served.database.close()


async def test_personal_data_is_erased(served: Served, conn: psycopg.Connection[Any]) -> None:
    await served.take(registered("b", "e", user_id="u7"), provisioned("b", "t", original_file_name="Anna Ek.docx"))
    conn.execute("delete from els.outbox_pages")
    for wrong in ({}, {"user": "u7", "batch": "b"}, {"text": "t"}, {"file": "Anna"}, {"user": ""}):
        assert (await served.post("privacy/erase", **wrong))[0] == 422
    status, body = await served.post("privacy/erase", file="anna ek", dry_run=True)
    assert (status, [each["text_storage_id"] for each in body["matches"]]) == (200, ["t"])
    status, body = await served.post("privacy/erase", file="anna ek", confirmed=True, why="case 7")
    assert (status, body["blocked"], body["batches"][0]["text_storage_ids"]) == (200, [], ["t"])
    status, body = await served.post("privacy/erase", user="u7", why="case 8")
    assert (status, [each["batch_id"] for each in body["batches"]]) == (200, ["b"])
    assert conn.execute("select original_file_name from els.slots").fetchall() == [("[erased]",)]
    assert (await served.send("POST", "privacy/erase", token=VIEWER, json={"batch": "b"}))[0] == 403


async def test_what_is_searched_is_not_logged(served: Served) -> None:
    await served.take(registered("b", "e", user_id="Anna Ek"), provisioned("c", "t", original_file_name="Anna Ek.docx"))
    searches = {"find": "text", "batches": "user", "pending": "file", "quarantine": "contains"}
    with capture_logs() as logs:
        for path, name in searches.items():
            assert (await served.get(path, **{name: "Anna Ek"}))[0] == 200
    assert [each["event"] for each in logs] == ["personal_data_read"] * len(searches)
    assert "Anna" not in repr(logs)


async def test_a_search_takes_times_and_the_beginning_of_an_id(served: Served) -> None:
    await served.take(provisioned("b", "3f2504e0-4f89", original_file_name="Åsa.docx"))
    status, body = await served.get("find", text="3f2504e0", since="2000-01-01T00:00+02:00", until="8000-01-01")
    assert (status, [row["matched"] for row in body["rows"]]) == (200, ["beginning of text storage id"])
    assert (await served.get("find", text="Åsa", until="2000-01-01"))[0] == 404
    assert (await served.get("find", text="Åsa", since="tuesday"))[0] == 422
