"""The console in a real Chromium: every page and every action, as a person uses them.

One pod serves it, with the role console alone, so that nothing changes by itself. The browser is the machine's own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.console.session import COOKIE, SESSION_SECONDS, Person, Sessions
from service.domain.topics import BATCH_REGISTERED
from service.runtime.tokens import Tokens
from tests.support.builders.inputs import delivery, provisioned, registered
from tests.support.pods.served_console import HOSTILE, OPERATOR, VIEWER, ServedConsole, plant, served_console

REJECTED = "Failed to load resource: the server responded with a status of 4"
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1600, "height": 1000}
INPUTS = "select id from els.quarantine where position(convert_to(%s, 'UTF8') in key) = 1"


@pytest.fixture(scope="module")
def console(server_url: str, template: str) -> Iterator[ServedConsole]:
    with served_console(server_url, template) as served:
        plant(served)
        yield served


@pytest.fixture(scope="module")
def browser(console: ServedConsole, chromium: str) -> Iterator[Browser]:
    """After the console: a loop of the browser then runs in this thread."""
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, who runs the tests in a container.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


class Watched:
    """A page, and what its browser complained about or fetched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: list[str] = []
        self.fetched: set[str] = set()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.fetched.add(urlsplit(request.url).netloc))


@contextmanager
def opened(
    browser: Browser, console: ServedConsole, token: str | None = OPERATOR, *, rejected: bool = False, **options: Any
) -> Iterator[Page]:
    """Opens the console as a person who is logged in. At the end, nothing may have been complained about or fetched.

    Chromium itself complains about each answer of an error; with `rejected`, such are expected.
    """
    with browser.new_context(base_url=console.url, **options) as context:
        page = context.new_page()
        watched = Watched(page)
        if token is not None:
            log_in(page, token)
        yield page
        assert [each for each in watched.messages if not (rejected and each.startswith(REJECTED))] == []
        assert watched.fetched == {urlsplit(console.url).netloc}


def log_in(page: Page, token: str, who: str = "Åsa") -> None:
    page.goto("")
    page.get_by_label("Your name").fill(who)
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Log in").click()


def addresses(console: ServedConsole, name: str) -> list[str]:
    """Every page, with what is about an id."""
    found = ["", "find", "waiting", "late", "quarantine", "topics", "outbox", "actions", "system?run=1", "do/nothing"]
    found += [f"quarantine/input?id={id_}" for (id_,) in console.rows(INPUTS, name[:50])]
    for kind in ("waiting", "open", "ready", "expired"):
        found.append(f"batch?id={quote(f'{kind}-{name}'[:255])}")
    found += [f"find?text={quote(name)}", f"waiting?batch={quote(f'waiting-{name}'[:255])}"]
    found += [f"waiting?file={quote(name)}", f"actions?who={quote(name)}"]
    found += [f"do/pending-remove?batch={quote(f'waiting-{name}'[:255])}&text={quote(name)}"]
    found += ["runbook?name=operations.md%23elsquarantineopen", "do/quarantine-replay?reason=not_utf8"]
    return [*found, "do/pending-restore", "do/quarantine-replay", "do/quarantine-resume", "do/health-acknowledge"]


def log(console: ServedConsole) -> list[tuple[Any, ...]]:
    return console.rows("select who, action, batch_id, why from els.operator_actions order by id desc limit 1")


def act(page: Page, why: str, name: str) -> str:
    """Fills in a reason, and performs what is shown. Returns what was shown before anything was changed."""
    page.get_by_label("Reason", exact=True).fill(why)
    page.get_by_role("button", name="Show what will change").click()
    shown = page.get_by_role("main").inner_text()
    assert "Nothing has been changed yet." in shown
    page.get_by_role("button", name=name, exact=True).click()
    return shown


def test_every_page_fits_a_phone_and_a_wide_screen_in_both_colour_schemes_without_barriers(
    browser: Browser, console: ServedConsole
) -> None:
    axe = Axe()
    for size, scheme, name in ((PHONE, "dark", HOSTILE), (WIDE, "light", "b")):
        with opened(browser, console, rejected=True, viewport=size, color_scheme=scheme) as page:
            for address in addresses(console, name):
                answer = page.goto(address)
                assert answer is not None
                assert answer.status == (404 if address == "do/nothing" else 200), address
                widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert widths[0] <= widths[1], f"{address} scrolls sideways: {widths}"
                found = axe.run(page)
                assert found.violations_count == 0, f"{address}: {found.generate_report()}"
                colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (colour == "rgb(21, 24, 28)") == (scheme == "dark")


def test_an_action_shows_what_it_will_change_and_is_logged_with_the_person(
    browser: Browser, console: ServedConsole
) -> None:
    console.take(
        *(each for name in ("short", "wrong") for each in (registered(name, "e1", "e2"), provisioned(name, "t"))),
        provisioned("acted", "t1"),
        provisioned("acted", "t2"),
        registered("whole", "e"),
        provisioned("whole", "w"),
    )
    with opened(browser, console) as page:
        page.goto("batch?id=acted")
        page.get_by_role("link", name="Remove", exact=True).first.click()
        assert "1 content of batch acted" in act(page, "a test", "Remove a text or failure")
        assert log(console) == [("Åsa", "pending remove", "acted", "a test")]

        page.goto("batch?id=acted")
        page.get_by_role("link", name="Remove what waits").click()
        assert "1 content of batch acted" in act(page, "the rest", "Remove what waits for a batch")
        assert log(console) == [("Åsa", "pending clear", "acted", "the rest")]

        page.goto("waiting")
        page.get_by_role("link", name="Restore", exact=True).first.click()
        assert "1 content" in act(page, "it came", "Restore expired content")
        assert log(console)[0][:2] == ("Åsa", "pending restore")

        page.goto("batch?id=whole")
        page.get_by_role("link", name="Publish again").click()
        assert "batch whole" in act(page, "they lost it", "Publish again")
        assert log(console) == [("Åsa", "batches republish", "whole", "they lost it")]

        for name, link, button, action in (
            ("short", "Close", "Close the batch", "batches close"),
            ("wrong", "Cancel", "Cancel the batch", "batches cancel"),
        ):
            page.goto(f"batch?id={name}")
            page.get_by_role("link", name=link, exact=True).click()
            if action == "batches cancel":
                page.get_by_label("Kind").select_option("DUPLICATE")
            shown = act(page, "no more comes", button)
            assert f"Batch {name} is registered and will be" in shown
            assert "1 assigned, 0 failed and 1 withdrawn" in shown
            assert log(console) == [("Åsa", action, name, "no more comes")]

        page.goto("batch?id=acted")
        page.get_by_role("link", name="Erase personal data").click()
        assert "will be erased, and whatever arrives of it again" in act(page, "asked for", "Erase personal data")
        assert log(console) == [("Åsa", "privacy erase", "acted", "asked for")]

        page.goto("topics")
        page.get_by_role("link", name="Acknowledge").click()
        assert "loss 1" in act(page, "known", "Acknowledge notices")
        assert log(console)[0][:2] == ("Åsa", "health acknowledge")


def test_rejected_inputs_are_replayed_and_discarded_exactly_as_they_were_shown(
    browser: Browser, console: ServedConsole
) -> None:
    ids = [id_ for (id_,) in console.rows("select id from els.quarantine where reason = 'not_utf8' order by id")]
    with opened(browser, console) as page:
        page.goto(f"quarantine/input?id={ids[0]}")
        page.get_by_role("link", name="Replay").click()
        assert f"{ids[0]}: huleedu.batch" in act(page, "try", "Replay rejected inputs")
        assert "0 inputs replayed, 1 not" in page.get_by_role("main").inner_text()
        assert log(console)[0][:2] == ("Åsa", "quarantine replay")

        (bad,) = console.rows("select id from els.quarantine where batch_id = 'bad-b'")[0]
        page.goto(f"quarantine/input?id={bad}")
        page.get_by_role("link", name="Edit and replay").click()
        value = page.get_by_label("Value", exact=True)
        value.fill(value.input_value().replace('"many"', "12"))
        shown = act(page, "corrected", "Edit and replay")
        assert '-    "file_size_bytes": "many"' in shown
        assert '+    "file_size_bytes": 12' in shown
        assert console.rows("select file_size_bytes from els.pending_content where batch_id = 'bad-b'") == [(12,)]
        assert log(console)[0][:2] == ("Åsa", "quarantine edit")

        page.goto("quarantine")
        page.get_by_role("row", name="not_utf8").get_by_role("link", name="Discard").first.click()
        page.get_by_label("Reason", exact=True).fill("no use")
        page.get_by_role("button", name="Show what will change").click()
        assert f"{len(ids)} rejected inputs will be discarded" in page.get_by_role("main").inner_text()
        # One that arrives between the preview and the action is not part of what was shown.
        console.take(delivery(BATCH_REGISTERED, b"\xff another"))
        page.get_by_role("button", name="Discard rejected inputs").click()
        assert f"{len(ids)} inputs discarded." in page.get_by_role("main").inner_text()
        assert console.rows("select count(*) from els.quarantine where state = 'open' and reason = 'not_utf8'") == [
            (1,)
        ]


def test_a_paused_topic_is_resumed_once(browser: Browser, console: ServedConsole) -> None:
    topic = "huleedu.file.essay.content.provisioned.v1"
    console.rows(
        "insert into els.topic_refusals (topic, in_a_row, stopped_at) values (%s, 1000, now())"
        " on conflict (topic) do update set in_a_row = 1000, stopped_at = now()",
        topic,
    )
    with opened(browser, console, rejected=True) as page:
        page.goto("topics")
        page.get_by_role("link", name="Resume").click()
        assert f"{topic} will be read again" in act(page, "mended", "Resume a paused topic")
        assert log(console)[0][:2] == ("Åsa", "quarantine resume")
        page.goto(f"do/quarantine-resume?topic={topic}")
        page.get_by_label("Reason", exact=True).fill("again")
        page.get_by_role("button", name="Show what will change").click()
        assert f"{topic} is not paused" in page.get_by_role("alert").inner_text()


def test_added_partitions_are_used_and_an_unreadable_record_is_skipped(
    browser: Browser, console: ServedConsole
) -> None:
    topic = "huleedu.els.batch.essays.ready.v1"
    console.produce(BATCH_REGISTERED, b"a record that no pod can read")
    console.rows("insert into els.progress (topic, partition, next_offset) values (%s, 0, 0)", BATCH_REGISTERED)
    console.rows("insert into els.output_topics (topic, partitions, found, found_at) values (%s, 12, 24, now())", topic)
    with opened(browser, console) as page:
        page.goto("topics")
        page.get_by_role("link", name="Use added partitions").click()
        assert f"{topic}: 24 partitions instead of 12" in act(page, "relays are stopped", "Use added partitions")
        assert log(console)[0][:2] == ("Åsa", "topics adopt")

        page.goto("topics")
        page.get_by_role("link", name="Skip a record").click()
        page.get_by_label("Offset").fill("0")
        assert "will not be read" in act(page, "it ends each pod", "Skip a record")
        assert log(console)[0][:2] == ("Åsa", "inputs skip")


def test_a_viewer_reads_and_cannot_act(browser: Browser, console: ServedConsole) -> None:
    console.take(provisioned("viewed", "t"))
    with opened(browser, console, VIEWER) as page:
        page.goto("batch?id=viewed")
        assert page.get_by_role("link", name="Remove").count() == 0
        page.goto("do/pending-clear?batch=viewed")
        assert page.get_by_role("button", name="Show what will change").count() == 0
        answer = page.request.post(
            "do/pending-clear?batch=viewed",
            form={"why": "x", "step": "perform"},
            headers={"Origin": console.url.removesuffix("/console/")},
        )
        assert (answer.status, "You can read here, and not act" in answer.text()) == (403, True)
    assert console.rows("select count(*) from els.pending_content where batch_id = 'viewed' and state = 'pending'") == [
        (1,)
    ]


def test_a_page_of_another_origin_cannot_act(browser: Browser, console: ServedConsole) -> None:
    """The browser itself sends the request, without the cookie; the origin is rejected before that is looked at."""
    console.take(provisioned("forged", "t"))
    form = (
        f"<form method=post action='{console.url}do/pending-clear?batch=forged'>"
        "<input name=why value=x><input name=step value=perform><button>go</button></form>"
    )
    with browser.new_context(base_url=console.url) as context:
        page = context.new_page()
        log_in(page, OPERATOR)
        page.route("http://elsewhere.example/", lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto("http://elsewhere.example/")
        page.get_by_role("button").click()
        expect(page.get_by_role("alert")).to_have_text("The request did not come from a page of this console.")
    assert console.rows("select count(*) from els.pending_content where batch_id = 'forged' and state = 'pending'") == [
        (1,)
    ]


def test_everything_works_with_the_keyboard_alone(browser: Browser, console: ServedConsole) -> None:
    console.take(provisioned("typed", "t"))
    with opened(browser, console, None) as page:
        page.goto("")
        for text in ("Åsa", OPERATOR):
            while page.evaluate("document.activeElement.tagName") != "INPUT" or page.evaluate(
                "document.activeElement.value"
            ):
                page.keyboard.press("Tab")
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.goto("batch?id=typed")
        press(page, "Remove what waits")
        page.wait_for_url("**/do/pending-clear?*")
        while page.evaluate("document.activeElement.id") != "why":
            page.keyboard.press("Tab")
        page.keyboard.type("by keyboard")
        press(page, "Show what will change")
        page.wait_for_selector("text=Nothing has been changed yet")
        press(page, "Remove what waits for a batch")
        page.wait_for_selector("text=removed.")
    assert log(console) == [("Åsa", "pending clear", "typed", "by keyboard")]


def press(page: Page, name: str) -> None:
    """Goes to a link or button by Tab, and presses Enter. What has the focus must show it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


def test_a_part_of_a_file_name_leads_to_its_batch_and_what_happened(browser: Browser, console: ServedConsole) -> None:
    console.take(
        provisioned("sought", "found-text", original_file_name="Björns uppsats.txt"), registered("sought", "e1", "e2")
    )
    with opened(browser, console) as page:
        page.get_by_role("link", name="Find").click()
        page.get_by_label("Batch, text, upload").fill("björns upp")
        page.get_by_role("button", name="Find").click()
        page.get_by_role("link", name="sought").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Batch sought")
        assert "1 of 2 slots are assigned" in page.locator(".verdict").inner_text()
        what = page.get_by_role("region", name="What happened").inner_text()
        assert what.index("registered") < what.index("assigned")


def test_the_overview_plots_the_last_hour_and_renews_itself(browser: Browser, console: ServedConsole) -> None:
    with opened(browser, console) as page:
        expect(page.locator(".plot canvas")).to_have_count(5)
        assert page.get_by_role("status").inner_text().startswith("Action needed")
        page.evaluate("document.querySelector('#live .verdict').textContent = 'old'")
        expect(page.locator("#live .verdict")).not_to_have_text("old", timeout=20_000)


def test_an_open_page_leads_to_the_login_when_its_session_has_ended(browser: Browser, console: ServedConsole) -> None:
    past = Sessions(Tokens(OPERATOR, VIEWER), lambda: time.time() - SESSION_SECONDS - 1)
    ended = past.cookie(Person("Åsa", "operator"))
    with opened(browser, console, rejected=True) as page:
        page.context.add_cookies(
            [{"name": COOKIE, "value": ended, "domain": "127.0.0.1", "path": "/console", "sameSite": "Strict"}]
        )
        expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=20_000)


def test_a_session_ends_and_leads_back_to_the_page(browser: Browser, console: ServedConsole) -> None:
    with opened(browser, console, rejected=True) as page:
        page.goto("late")
        page.get_by_role("button", name="Log out").click()
        assert page.url.endswith("/console/login")
        page.goto("late")
        page.get_by_label("Your name").fill("Åsa")
        page.get_by_label("Token", exact=True).fill("not the token at all")
        with page.expect_response("**/login"):
            page.get_by_role("button", name="Log in").click()
        assert page.get_by_role("alert").inner_text() == "This token is wrong."
        page.get_by_label("Token", exact=True).fill(VIEWER)
        page.get_by_role("button", name="Log in").click()
        assert page.url.endswith("/console/late")
