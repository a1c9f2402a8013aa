"""The console in a real Chromium while PostgreSQL and the broker are stopped, and when PostgreSQL is back."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from deploy.local.postgres import Postgres
from deploy.servers import databases
from tests.acceptance.test_console import log_in
from tests.support.builders.inputs import provisioned
from tests.support.pods.served_console import OPERATOR, VIEWER, ServedConsole, served_console

SOON = 30_000
"""Milliseconds within which an open page shows what has changed: it asks every 5 seconds."""


@pytest.fixture
def server() -> Iterator[Postgres]:
    with databases.embedded_server(durable=True) as server:
        yield server


@pytest.fixture
def console(server: Postgres) -> Iterator[ServedConsole]:
    with databases.template(server.url()) as template, served_console(server.url(), template) as served:
        served.take(provisioned("waits", "t"))
        yield served
        if not server.running():  # the databases are dropped, wherever the test has ended
            server.start()


@pytest.fixture
def browser(console: ServedConsole, chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


def test_open_pages_say_what_is_down_and_recover_by_themselves(
    browser: Browser, console: ServedConsole, server: Postgres
) -> None:
    with browser.new_context(base_url=console.url) as context:
        page = context.new_page()
        log_in(page, OPERATOR)
        outages = page.locator("#outages")
        page.goto("outbox")
        expect(outages).to_be_empty()
        server.stop()
        expect(outages).to_contain_text("The database is unavailable", timeout=SOON)
        page.goto("")
        expect(page.locator(".verdict")).to_have_text("The database cannot be read.")
        expect(page.locator(".plot canvas")).to_have_count(5)
        page.goto("do/pending-clear?batch=waits")
        page.get_by_label("Reason", exact=True).fill("it fails")
        page.get_by_role("button", name="Show what will change").click()
        expect(page.get_by_role("alert").last).to_contain_text("Nothing was changed: The database is unavailable")
        with browser.new_context(base_url=console.url) as another:  # who comes now can log in, and is told the same
            second = another.new_page()
            log_in(second, VIEWER)
            expect(second.locator("#outages")).to_contain_text("Nothing is lost")
        page.goto("waiting")
        expect(page.get_by_role("heading", name="Unavailable")).to_be_visible()
        server.start()
        expect(page.get_by_role("heading", name="Missing registrations")).to_be_visible(timeout=SOON)
        expect(page.get_by_role("link", name="waits")).to_be_visible()
        expect(outages).to_be_empty()
        console.broker.kill()
        page.goto("topics")
        expect(outages).to_contain_text("The broker is unavailable")
        page.goto("waiting")
        expect(outages).to_contain_text("events wait in the outbox")
        expect(page.get_by_role("link", name="waits")).to_be_visible()
