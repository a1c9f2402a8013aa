"""Each endpoint of /admin/ and each action and page of the console, tried by those who may not use it, and misused."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from service.console.acting import ACTIONS
from service.console.console import PAGES
from service.console.session import COOKIE, Person, Sessions
from service.http import admin
from service.http.schemas import Endpoint
from service.runtime.loop import watch_blocking
from service.runtime.tokens import Tokens
from tests.integration.console import conftest as consoles
from tests.integration.http.test_admin import TOKEN, VIEWER, Served
from tests.support.builders.inputs import content, delivery, provisioned, registered

WRITING = [endpoint for endpoint in admin.ENDPOINTS if endpoint.method == "POST"]
READING = [endpoint for endpoint in admin.ENDPOINTS if endpoint.method == "GET"]
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PERFORM = {"why": "a test", "step": "perform"}
CHANGED = """
    select count(*), (select count(*) from els.pending_content where state = 'pending'),
        (select count(*) from els.quarantine where state = 'open'),
        (select count(*) from els.batches where state = 'registered')
    from els.operator_actions
"""
STALL_SECONDS = 1.0
"""SPEC, section 5: the event loop never stalls for longer."""
MEBIBYTE = 1024 * 1024


def many(kind: bytes, begin: bytes, end: bytes) -> bytes:
    return begin + kind * ((MEBIBYTE - 200) // len(kind)) + end


MISUSED = {
    "no JSON": (b"no JSON", (400,)),
    "not UTF-8": (b'{"batch": "\xff"}', (400,)),
    "cut off": (b'{"batch": ', (400,)),
    "a list": (b"[]", (400,)),
    "deep": (b'{"batch":' * 5_000 + b"0" + b"}" * 5_000, (400,)),
    "deep lists": (b"[" * 9_000, (400,)),
    "too large": (b" " * (MEBIBYTE + 1), (413,)),
    "many unknown fields": (many(b'"":0,', b"{", b'"":0}'), (413,)),
    "many different fields": (
        b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b"}",
        (413,),
    ),
    "many lists": (many(b"[],", b'{"ids":[', b"0]}"), (413,)),
    "many numbers": (many(b"0,", b'{"ids":[', b"0]}"), (413,)),
    "a long number": (many(b"1", b'{"limit":', b"}"), (400, 422)),
    "a long text": (many(b"x", b'{"batch":"', b'"}'), (422,)),
    "a long reason": (many(b"x", b'{"why":"', b'"}'), (422,)),
    "escapes": (many(b"\\u001b", b'{"batch":"', b'"}'), (422,)),
    "a NUL": (b'{"batch": "\\u0000", "topic": "\\u0000", "ids": ["\\u0000"]}', (422,)),
}


def path_of(endpoint: Endpoint) -> str:
    return endpoint.path.removeprefix("/admin/")


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.tokens.DENIED_SECONDS", 0)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


INPUTS = (
    provisioned("early", "t"),
    registered("b", "e1"),
    delivery("huleedu.file.essay.content.provisioned.v1", content("b", "t2", file_size_bytes=-1)),
)
UNCHANGED = (0, 1, 1, 1)


@pytest.fixture
async def served(app_url: str, conn: psycopg.Connection[Any]) -> AsyncIterator[Served]:
    """The API. In the end, nobody has changed anything."""
    served = Served(app_url)
    await served.http.start()
    await served.take(*INPUTS)
    yield served
    await served.http.close()
    await served.database.close()
    assert conn.execute(CHANGED).fetchone() == UNCHANGED


@pytest.fixture
async def console(app_url: str, conn: psycopg.Connection[Any]) -> AsyncIterator[consoles.ServedHere]:
    """The console. In the end, nobody has changed anything."""
    async with consoles.served(app_url) as served:
        await served.take(*INPUTS)
        yield served
    assert conn.execute(CHANGED).fetchone() == UNCHANGED


# -- /admin/


@pytest.mark.parametrize("token", [None, "", "x", TOKEN[:-1], TOKEN[:15], VIEWER[1:], "\x1b[31m"[1:]])
async def test_without_a_token_no_endpoint_answers(served: Served, token: str | None) -> None:
    for endpoint in admin.ENDPOINTS:
        for body in (b"{}", b"no JSON", b" " * 10_000):
            more = {"data": body, "headers": JSON} if endpoint.method == "POST" else {}
            status, _ = await served.send(endpoint.method, path_of(endpoint), token=token, **more)
            assert status == 401, endpoint.path


async def test_a_viewer_reads_with_every_endpoint_and_acts_with_none(served: Served) -> None:
    for endpoint in READING:
        assert (await served.send("GET", path_of(endpoint), token=VIEWER))[0] in (200, 422), endpoint.path
    for endpoint in WRITING:
        for body in (b"{}", b'{"all": true}', b'{"dry_run": true, "all": true}', b"no JSON"):
            status, _ = await served.send("POST", path_of(endpoint), token=VIEWER, data=body, headers=JSON)
            assert status == 403, endpoint.path


async def test_a_method_that_an_endpoint_does_not_have_does_nothing(served: Served) -> None:
    for endpoint in admin.ENDPOINTS:
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - {endpoint.method}:
            for token in (TOKEN, VIEWER):
                status, _ = await served.send(method, path_of(endpoint), token=token, data=b"{}", headers=JSON)
                assert status in (403, 405), (method, endpoint.path)


@pytest.mark.parametrize("name", MISUSED)
async def test_a_misused_endpoint_answers_at_once_and_does_nothing(served: Served, name: str) -> None:
    body, expected = MISUSED[name]
    blocked = [0.0]
    watch = asyncio.create_task(watch_blocking(blocked.append))
    with capture_logs() as logs:
        for endpoint in WRITING:
            status, problem = await served.send("POST", path_of(endpoint), data=body, headers=JSON)
            assert status in expected, (endpoint.path, problem)
            assert len(json.dumps(problem)) < 5_000
    watch.cancel()
    assert blocked[-1] < STALL_SECONDS
    assert logs == []


@pytest.mark.parametrize("endpoint", WRITING, ids=path_of)
async def test_no_field_takes_a_value_of_another_type_or_size(served: Served, endpoint: Endpoint) -> None:
    wrong: tuple[object, ...] = (
        "x" * 900_000,
        "x\0",
        10**30,
        -(10**9),
        1.5,
        [],
        {},
        [{}],
        ["x" * 500_000],
        {"a": [[]]},
    )
    for name in endpoint.request.model_fields:
        for value in wrong:
            status, problem = await served.send("POST", path_of(endpoint), json={name: value})
            assert status in (400, 409, 422), (name, value)
            assert len(json.dumps(problem)) < 5_000


async def test_only_json_acts(served: Served) -> None:
    for endpoint in WRITING:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"):
            status, _ = await served.send(
                "POST", path_of(endpoint), data=b'{"all": true}', headers={"Content-Type": kind}
            )
            assert status == 415, endpoint.path


# -- the console

OTHERS_COOKIES = (
    {COOKIE: Sessions(Tokens("another operator's token", None), lambda: 1_000_000.0).cookie(Person("x", "operator"))},
    {COOKIE: "x" * 4_000},
    {COOKIE: "é.é"},
    {"another": "cookie"},
)


async def test_without_a_session_no_page_is_shown_and_no_action_performed(console: consoles.ServedHere) -> None:
    paths = [page.path for page in PAGES] + [f"do/{name}" for name in ACTIONS] + ["", "samples.json"]
    for cookies in OTHERS_COOKIES:
        for path in paths:
            response, _ = await console.send("GET", path, cookies=cookies)
            assert response.status == 303, path
            assert response.headers["Location"].startswith("/console/login"), path
        for name in ACTIONS:
            response, _ = await console.send(
                "POST", f"do/{name}?batch=early&id=1&all=on", cookies=cookies, data=PERFORM
            )
            assert response.status == 303, name


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_is_performed_for_no_viewer_and_from_no_other_page(
    console: consoles.ServedHere, name: str
) -> None:
    path = f"do/{name}?batch=early&id=1&kind=batch&text=t&all=on"
    for step in ("plan", "perform", "x"):
        response, _ = await console.send("POST", path, role="viewer", data=PERFORM | {"step": step})
        assert response.status == 403
    for headers in (
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://elsewhere.example", "X-Forwarded-Host": "another.example"},
        {"Host": "elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        response, _ = await console.send("POST", path, data=PERFORM, headers=headers)
        assert response.status == 403, headers
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await console.send(method, path, data=PERFORM))[0].status == 405


@pytest.mark.parametrize("name", ACTIONS)
async def test_what_is_no_form_performs_no_action(console: consoles.ServedHere, name: str) -> None:
    for kind, body, status in (
        ("application/json", b'{"why": "x", "step": "perform"}', 415),
        ("text/plain", b"why=x&step=perform", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        (FORM["Content-Type"], b"why=x&" + b"&a=b" * 10_000, 400),
        (FORM["Content-Type"], b"why=\xff", 400),
        (FORM["Content-Type"], b"why=%ff&step=perform", 400),
        (FORM["Content-Type"], b"why=" + b"x" * (2 * MEBIBYTE), 413),
        (FORM["Content-Type"], b"why=" + b"x" * 100_000 + b"&step=perform", 422),
        (FORM["Content-Type"], b"why=%00&step=perform", 422),
        (FORM["Content-Type"], b"why=&step=perform", 422),
    ):
        with capture_logs() as logs:
            response, _ = await console.send("POST", f"do/{name}", data=body, headers={"Content-Type": kind})
        assert response.status == status, (kind, body[:30])
        assert "console_request_failed" not in {each["event"] for each in logs}


async def test_no_page_fails_or_shows_markup_because_of_what_is_asked(console: consoles.ServedHere) -> None:
    odd = ("<script>x</script>", "\x00", "\x1b[31m", "\u202e", "-1", str(2**64), "%", "_\\", "(" * 200, "å" * 2_000)
    for page in PAGES:
        for value in odd:
            query = dict.fromkeys(("id", "batch", "text", "file", "user", "after", "before", "state", "topic"), value)
            with capture_logs() as logs:
                response, text = await console.send("GET", page.path, params=query)
            assert response.status in (200, 400, 404, 422, 503), (page.path, value)
            assert "<script>x" not in text
            assert "console_request_failed" not in {each["event"] for each in logs}
