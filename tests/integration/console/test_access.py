"""Tests who may use the console, and from where."""

import asyncio
from ipaddress import ip_network

import pytest
from structlog.testing import capture_logs

from service.console.session import COOKIE, SESSION_SECONDS, Person, Sessions, TrustedProxy
from service.domain.topics import CONTENT_PROVISIONED
from service.runtime import metrics
from service.runtime.tokens import Tokens
from tests.integration.console.conftest import TOKENS, ServedHere, served, set_cookie
from tests.support.builders.inputs import delivery, provisioned, registered

PERFORM = {"why": "a test", "step": "perform"}


def rejected(label: str) -> float:
    return float(metrics.HTTP_REJECTED.labels(label)._value.get())


async def test_without_a_session_every_page_leads_to_the_login_and_back(console: ServedHere) -> None:
    for path in ("", "waiting?batch=b%26c", "batch?id=b", "do/pending-clear?batch=b", "samples.json", "not/there"):
        response, _ = await console.send("GET", path, role=None)
        assert response.status == 303
        assert response.headers["Location"].startswith("/console/login?next=/console/"), path
    response, _ = await console.send("GET", "", role=None, headers={"HX-Request": "true"})
    assert (response.status, response.headers["HX-Refresh"]) == (401, "true")
    response, _ = await console.send("POST", "do/pending-clear?batch=b", role=None, data=PERFORM)
    assert (response.status, response.headers["Location"]) == (303, "/console/login?next=/console/")


async def test_a_token_begins_a_session_whose_cookie_only_the_console_gets(console: ServedHere) -> None:
    form = {"who": "Åsa", "token": TOKENS.viewer, "next": "/console/late"}
    response, _ = await console.send("POST", "login", role=None, data=form)
    assert (response.status, response.headers["Location"]) == (303, "/console/late")
    cookie = set_cookie(response)[COOKIE]
    assert (cookie["path"], cookie["samesite"], cookie["httponly"], cookie["secure"]) == (
        "/console",
        "Strict",
        True,
        "",
    )
    assert int(cookie["max-age"]) == SESSION_SECONDS
    assert console.sessions.person(cookie.value) == Person("Åsa", "viewer")
    secured, _ = await console.send("POST", "login", role=None, data=form, headers={"X-Forwarded-Proto": "https"})
    assert set_cookie(secured)[COOKIE]["secure"] is True


@pytest.mark.parametrize(
    "target",
    ["", "//elsewhere.example/", "https://elsewhere.example/console/", "/admin/", "/console/login", "/console/\\x",
     "javascript:alert(1)", "/console/\r\nX: y", "\\\\elsewhere.example"],
)  # fmt: skip
async def test_a_login_leads_to_no_other_place(console: ServedHere, target: str) -> None:
    form = {"who": "x", "token": TOKENS.operator, "next": target}
    response, _ = await console.send("POST", "login", role=None, data=form)
    assert (response.status, response.headers["Location"]) == (303, "/console/")


async def test_wrong_tokens_are_counted_and_answered_slowly(
    console: ServedHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("service.runtime.tokens.asyncio.sleep", pause)
    before = rejected("token")
    for token in ("wrong", "", "å" * 100):
        response, text = await console.send("POST", "login", role=None, data={"who": "x", "token": token})
        assert (response.status, "This token is wrong." in text, "Set-Cookie" in response.headers) == (401, True, False)
    assert (rejected("token") - before, pauses) == (3, [1.0] * 3)
    response, text = await console.send("POST", "login", role=None, data={"who": "", "token": TOKENS.operator})
    assert (response.status, "Enter your name." in text) == (422, True)


async def test_a_session_ends_and_no_cookie_can_be_made_up(console: ServedHere) -> None:
    cookie = console.sessions.cookie(Person("Åsa", "operator"))
    assert (await console.send("GET", "late", cookies={COOKIE: cookie}))[0].status == 200
    stated, signature = cookie.split(".")
    others = [
        Sessions(Tokens("a token of operators", None), lambda: console.now).cookie(Person("Åsa", "operator")),
        f"{stated}.", f".{signature}", stated, f"{stated}.{signature[::-1]}", f"{stated[::-1]}.{signature}", "å.å", "",
    ]  # fmt: skip
    for other in others:
        assert console.sessions.person(other) is None, other
    console.now += SESSION_SECONDS - 1
    assert console.sessions.person(cookie) == Person("Åsa", "operator")
    console.now += 1
    assert (await console.send("GET", "late", cookies={COOKIE: cookie}))[0].status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_what_no_page_of_the_console_sent_does_not_act(console: ServedHere, headers: dict[str, str]) -> None:
    await console.take(provisioned("b", "t"))
    before = rejected("origin")
    response, text = await console.send("POST", "do/pending-clear?batch=b", data=PERFORM, headers=headers)
    assert (response.status, "did not come from a page of this console" in text) == (403, True)
    assert rejected("origin") - before == 1
    assert (await console.send("POST", "do/pending-clear?batch=b", data=PERFORM))[0].status == 200


async def test_a_viewer_does_not_act(console: ServedHere) -> None:
    await console.take(provisioned("b", "t"))
    for step in ("plan", "perform"):
        response, text = await console.send(
            "POST", "do/pending-clear?batch=b", role="viewer", data=PERFORM | {"step": step}
        )
        assert (response.status, "You can read here, and not act." in text) == (403, True)


async def test_every_answer_has_the_headers_of_security(console: ServedHere) -> None:
    for method, path in (("GET", ""), ("GET", "static/console.js"), ("GET", "not/there"), ("POST", "do/none")):
        response, _ = await console.send(method, path)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_trusted_proxy_names_the_person(app_url: str) -> None:
    async with served(app_url, TrustedProxy("X-Forwarded-User", [ip_network("127.0.0.0/8")], ["åsa"])) as console:
        await console.take(provisioned("b", "t"))
        for who, status in (("åsa", 200), ("bo", 403)):
            response, text = await console.send(
                "POST", "do/pending-clear?batch=b", role=None, data=PERFORM, headers={"X-Forwarded-User": who}
            )
            assert response.status == status
            assert f"{who} (" in text
            assert "Log out" not in text
        assert (await console.send("GET", "late", role=None))[0].status == 303
        assert (await console.send("GET", "late", role=None, headers={"X-Forwarded-User": "x" * 256}))[0].status == 303
    for networks in ([], [ip_network("10.0.0.0/8")], [ip_network("::1/128")]):
        async with served(app_url, TrustedProxy("X-Forwarded-User", networks, ["*"])) as console:
            assert (await console.send("GET", "late", role=None, headers={"X-Forwarded-User": "åsa"}))[0].status == 303


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded; charset=utf-7", b"who=x&token=%2B2AA-", 401),
        ("application/x-www-form-urlencoded; charset=none", b"who=x", 401),
        ("application/x-www-form-urlencoded", b"who=\xff", 400),
        ("application/x-www-form-urlencoded", b"who=%ed%a0%80", 400),
        ("application/x-www-form-urlencoded", b"&a=b" * 1000, 400),
        ("application/x-www-form-urlencoded", b"who=" + b"x" * 2_000_000, 413),
        ("multipart/form-data", b"", 422),
        ("multipart/form-data; boundary=x", b"--x\r\nno form", 415),
        ("application/json", b"{}", 415),
    ],
)
async def test_what_is_no_form_is_rejected_and_is_no_error_of_the_console(
    console: ServedHere, monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes, status: int
) -> None:
    monkeypatch.setattr("service.runtime.tokens.DENIED_SECONDS", 0)
    with capture_logs() as logs:
        response, _ = await console.send("POST", "login", role=None, data=body, headers={"Content-Type": kind})
    assert response.status == status
    assert "console_request_failed" not in {each["event"] for each in logs}


async def test_a_form_that_does_not_arrive_holds_its_connection_only_for_a_while(
    console: ServedHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.console.access.FORM_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", console.http.port)
    kind = "application/x-www-form-urlencoded"
    head = f"POST /console/login HTTP/1.1\r\nHost: h\r\nOrigin: http://h\r\nContent-Type: {kind}\r\n"
    writer.write(f"{head}Content-Length: 9\r\n\r\nwho".encode())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()


async def test_who_reads_about_persons_is_logged_whatever_the_request_says(console: ServedHere) -> None:
    with capture_logs() as logs:
        await console.send("GET", "waiting?batch=b", role="viewer", headers={"HX-Request": "true"})
    assert [each["who"] for each in logs if each["event"] == "personal_data_read"] == ["Åsa"]


async def test_what_an_action_shows_is_logged_as_read(console: ServedHere) -> None:
    await console.take(provisioned("b", "t1"), delivery(CONTENT_PROVISIONED, b"no JSON"))
    with capture_logs() as logs:
        await console.send("GET", "do/quarantine-edit?id=1")
        await console.send("POST", "do/privacy-erase?kind=file&name=t1.txt", data={"why": "case 7"})
    read = [(each["path"], each["parameters"]) for each in logs if each["event"] == "personal_data_read"]
    assert read == [("/console/do/quarantine-edit", {"id": "1"}), ("/console/do/privacy-erase", {})]


async def test_an_erasure_that_has_to_wait_says_in_how_many_batches_it_is_done(
    console: ServedHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.console.actions.privacy.WAIT_SECONDS_HERE", 0.1)
    await console.take(registered("b", "e1"), provisioned("b", "t1"))  # its events are published by nobody
    form = {"why": "case 7", "step": "perform"}
    _, text = await console.send("POST", "do/privacy-erase?kind=batch&batch=b", data=form)
    assert "Erased in 0 of 1 batches." in text
