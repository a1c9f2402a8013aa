"""Tests that each page says in words what is down, that those that do not need it work, and that no action is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.servers.brokers import Broker
from service.console import acting, outages
from service.console.console import PAGES
from service.domain.topics import CONTENT_PROVISIONED
from service.operators.pending import PendingActions
from tests.integration.console.conftest import ServedHere
from tests.support.builders.inputs import delivery, provisioned, registered
from tests.support.pods.command_line import NOBODY
from tests.support.servers.migrations import moved
from tests.support.servers.proxy import Proxy

NEEDED = {"find": "?text=b", "batch": "?id=b", "quarantine/input": "?id=1", "system": "?run=1"}
NEEDED |= {"runbook": "?name=operations.md%23elsquarantineopen"}
"""The parameters of pages, so that each reads what it can."""

ALWAYS = {"", "topics", "system", "runbook"}
"""The pages that have something to show without a database."""

PERFORM = {"why": "x", "step": "perform"}


class Behind:
    """A console whose database is behind a proxy."""

    def __init__(self, console: ServedHere, proxy: Proxy) -> None:
        self.console = console
        self.proxy = proxy

    def know_nothing(self) -> None:
        """What a page knows is three seconds old at most: this is the time after it."""
        self.console.outages.forget()

    async def pages(self) -> dict[str, tuple[int, str]]:
        """The status and text of each page, and of the form of each action."""
        paths = {page.path: f"{page.path}{NEEDED.get(page.path, '')}" for page in PAGES}
        paths |= {f"do/{name}": f"do/{name}" for name in acting.ACTIONS if name != "quarantine-edit"}
        found = {}
        for name, path in paths.items():
            response, text = await self.console.send("GET", path)
            found[name] = response.status, text
        return found

    async def act(self) -> tuple[int, str]:
        """The status and text of an action that is performed."""
        response, text = await self.console.send("POST", "do/pending-clear?batch=waits", data=PERFORM)
        return response.status, text


@pytest.fixture
async def behind(app_url: str) -> AsyncIterator[Behind]:
    port = conninfo_to_dict(app_url)["port"]
    proxy = await Proxy(int(str(port))).start()
    console = ServedHere(f"{app_url}&port={proxy.port}")
    await console.take(
        registered("b", "e"),
        provisioned("b", "t"),
        provisioned("waits", "t"),
        delivery(CONTENT_PROVISIONED, b"no JSON"),
    )
    await console.http.start()
    try:
        yield Behind(console, proxy)
    finally:
        proxy.flow()
        await console.http.close()
        await console.database.close()
        await proxy.stop()


async def test_while_nothing_is_down_no_page_says_that_something_is(behind: Behind) -> None:
    for name, (status, text) in (await behind.pages()).items():
        said = any(f"{each} " in text for each in ("The database is", "The schema is", "Recovery:"))
        assert (status, said) == (200, False), name


async def closed(behind: Behind) -> str:
    await behind.proxy.stop()
    return "The database is unavailable: "


async def silent(behind: Behind) -> str:
    behind.proxy.stall()
    return "The database is unavailable: it has not answered within"


@pytest.mark.parametrize("end", [closed, silent])
async def test_without_a_database_pages_that_need_none_work_and_the_others_say_why_not(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, end: Callable[[Behind], Awaitable[str]]
) -> None:
    monkeypatch.setattr(outages, "DATABASE_ANSWER_SECONDS", 0.3)
    assert {status for status, _ in (await behind.pages()).values()} == {200}
    said = await end(behind)
    behind.know_nothing()
    for name, (status, text) in (await behind.pages()).items():
        works = name in ALWAYS or name.startswith("do/")
        assert (status, said in text, "Nothing is lost" in text) == (200 if works else 503, True, True), name
    status, text = await behind.act()
    assert (status, "Nothing was changed: The database is unavailable" in text) == (503, True)
    form = {"who": "x", "token": "a token of operators"}
    assert (await behind.console.send("POST", "login", role=None, data=form))[0].status == 303
    assert (await behind.console.send("GET", "samples.json"))[0].status == 200


async def test_when_the_database_is_back_the_pages_are_too(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "DATABASE_ANSWER_SECONDS", 0.3)
    behind.proxy.stall()
    response, text = await behind.console.send("GET", "waiting?batch=waits")
    assert (response.status, "The database is unavailable" in text) == (503, True)
    assert 'hx-get="/console/waiting?batch=waits" hx-select="#main" hx-target="#main"' in text  # it is asked for again
    behind.proxy.flow()
    behind.know_nothing()
    response, text = await behind.console.send("GET", "waiting?batch=waits")
    assert (response.status, "unavailable" in text, "t.txt" in text) == (200, False, True)


async def test_a_database_that_ends_while_a_page_is_read_is_named_at_once(behind: Behind) -> None:
    assert (await behind.console.send("GET", "late"))[0].status == 200  # within three seconds, this counts as known
    await behind.proxy.stop()
    for path, status in (("late", 503), ("", 200)):
        response, text = await behind.console.send("GET", path)
        assert (response.status, "The database is unavailable" in text) == (status, True), path


async def test_a_database_that_accepts_reads_only_is_named(behind: Behind, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(f'alter database "{conn.info.dbname}" set default_transaction_read_only = on'.encode())
    behind.proxy.cut()
    await behind.console.send("GET", "late")  # finds that its session has ended
    behind.know_nothing()
    for name, (status, text) in (await behind.pages()).items():
        works = name in ALWAYS or name.startswith("do/")
        assert (status, "the server accepts no writes" in text) == (200 if works else 503, True), name


async def test_a_page_that_takes_too_long_says_so(
    behind: Behind, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.console.pages.reads.PAGE_SECONDS", 0.3)
    with psycopg.connect(database_url) as conn:
        conn.execute("lock table els.operator_actions in access exclusive mode")
        response, text = await behind.console.send("GET", "actions")
        assert (response.status, "This has taken longer than 0 s." in text) == (503, True)
        assert "every 5s" not in text, "the database answers: nobody waits for that"
        assert (await behind.console.send("GET", "late"))[0].status == 200


async def test_an_action_whose_answer_is_lost_may_have_been_done_and_says_so(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = PendingActions.remove

    async def removed(*args: Any, **options: Any) -> Any:
        await remove(*args, **options)
        await behind.proxy.stop()
        return await remove(*args, **options)

    monkeypatch.setattr(PendingActions, "remove", removed)
    status, text = await behind.act()
    assert (status, "Look on the page Actions whether it was done" in text) == (503, True)
    assert "Nothing was changed" not in text


async def test_an_action_of_several_transactions_that_meets_a_lock_may_be_done_in_part_and_says_so(
    behind: Behind, database_url: str
) -> None:
    """An erasure keeps its tombstones before it blanks what was rejected."""
    path, form = "do/privacy-erase?kind=batch&batch=waits", {"step": "perform", "why": "x"}
    with psycopg.connect(database_url) as conn:
        conn.execute("lock table els.quarantine in access exclusive mode")
        response, text = await behind.console.send("POST", path, data=form)
    assert "This was not finished" in text, text
    assert ("Look on the page Actions what was done" in text, "Nothing was changed" in text) == (True, False)
    assert response.status == 422


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("behind", "The database is behind its topics: a restore; run `recover`."),
        ("recovering", "Recovery: a restore."),
    ],
)
async def test_while_a_database_is_behind_or_in_recovery_pages_work_and_actions_say_why_not(
    behind: Behind, database_url: str, state: str, said: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("insert into els.recovery (state, why) values (%s, 'a restore')", [state])
    behind.know_nothing()
    for name, (status, text) in (await behind.pages()).items():
        assert (status, said in text, "no action is performed" in text) == (200, True, True), name
    for step in ("plan", "perform"):
        for name in acting.ACTIONS:
            given = {"why": "x", "step": step, "batch": "waits", "text": "t", "ids": "1", "id": "1", "value": "{}"}
            given |= {"topic": CONTENT_PROVISIONED, "partition": "0", "offset": "0", "all": "yes"}
            given |= {each.name: each.choices[0] for each in acting.ACTIONS[name].fields if each.name == "kind"}
            response, text = await behind.console.send("POST", f"do/{name}", data=given)
            assert (response.status, f"Nothing was changed: {said}" in text) == (422, True), (name, text)


async def test_while_the_schema_is_of_another_release_pages_say_which(behind: Behind, database_url: str) -> None:
    await asyncio.to_thread(moved, database_url, "-1")
    behind.know_nothing()
    for name, (status, text) in (await behind.pages()).items():
        assert status in (200, 503), name
        assert "The schema is at revision" in text, name
    status, text = await behind.act()
    assert (status, "Nothing was changed: The schema is at revision" in text) == (422, True)


async def test_without_a_broker_only_what_it_knows_is_missing(
    tansu: Broker, app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.kafka.offsets.SHARED_SECONDS", 0.0)
    console = ServedHere(app_url, broker=tansu.bootstrap_servers)
    await console.http.start()
    try:
        await console.take(registered("b", "e"), delivery(CONTENT_PROVISIONED, b"no JSON"))
        here = Behind(console, Proxy(0))
        for name, (status, text) in (await here.pages()).items():
            assert (status, "The broker is unavailable" in text) == (200, False), name
        tansu.kill()
        await console.samples.take()
        for name, (status, text) in (await here.pages()).items():
            assert (status, "The broker is unavailable" in text, "Nothing is lost" in text) == (200, True, True), name
        await console.take(provisioned("waits", "t"))
        status, text = await here.act()
        assert (status, "1 content of batch waits removed" in text) == (200, True)
        given = {"why": "x", "step": "plan", "topic": CONTENT_PROVISIONED, "partition": "0", "offset": "0"}
        response, text = await console.send("POST", "do/inputs-skip", data=given)
        assert (response.status, "Nothing was changed: the broker" in text) == (503, True)
        tansu.start()
        await tansu.create_topics()
        await console.samples.take()
        assert "The broker is unavailable" not in (await console.send("GET", "late"))[1]
    finally:
        await console.http.close()
        await console.database.close()


async def test_without_database_and_broker_each_page_says_both() -> None:
    console = ServedHere("postgresql://127.0.0.1:1/els", broker=NOBODY)
    await console.http.start()
    try:
        await console.samples.take()
        for name, (status, text) in (await Behind(console, Proxy(0)).pages()).items():
            assert "The database is unavailable" in text, name
            assert "The broker is unavailable" in text, name
            assert status == (200 if name in ALWAYS or name.startswith("do/") else 503), name
    finally:
        await console.http.close()
