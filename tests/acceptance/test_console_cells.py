"""The console over two cells in a real Chromium: lists, a batch, an action; then one cell's server is stopped."""

from collections.abc import Iterator

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect, sync_playwright

from deploy.local.postgres import Postgres
from deploy.servers import databases
from tests.acceptance.test_console import act, log_in
from tests.support.pods.served_console import OPERATOR, ServedConsole, served_console
from tests.support.servers.cells import batch_of

SOON = 30_000
HERE, THERE = batch_of(0), batch_of(1)
WAITING = (
    "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id, original_file_name,"
    " raw_file_storage_id, file_size_bytes, correlation_id, stored_at, waiting_since)"
    " values (%s, 'text', 1, 'upload', %s, 'raw', 1, gen_random_uuid(), now(), now())"
)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """The server of cell 1."""
    with databases.embedded_server(durable=True) as server:
        yield server


@pytest.fixture
def other(server: Postgres) -> Iterator[str]:
    with databases.template(server.url()) as template:
        yield databases.database_in(server.url(), template)
        if not server.running():
            server.start()


@pytest.fixture
def console(server_url: str, template: str, other: str) -> Iterator[ServedConsole]:
    with served_console(server_url, template, other_cells=[other]) as served:
        served.rows(WAITING, HERE, "Åsa here.txt")
        with psycopg.connect(other, autocommit=True) as conn:
            conn.execute(WAITING, [THERE, "Åsa there.txt"])
        yield served


@pytest.fixture
def browser(console: ServedConsole, chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


def test_a_person_sees_and_corrects_all_cells_and_those_that_are_left(
    browser: Browser, console: ServedConsole, server: Postgres, other: str
) -> None:
    with browser.new_context(base_url=console.url, viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        log_in(page, OPERATOR)
        cells = page.get_by_role("navigation", name="Cells")
        expect(cells.get_by_role("link", name="All cells")).to_have_attribute("aria-current", "true")
        expect(page.get_by_role("row", name="All")).to_contain_text("2")
        # A list, its other cell, and a batch of that; then an action, where the batch is.
        page.get_by_role("link", name="Waiting").click()
        expect(page.get_by_role("link", name=HERE)).to_be_visible()
        cells.get_by_role("link", name="Cell 1").click()
        expect(page.get_by_role("link", name=HERE)).to_be_hidden()
        page.get_by_role("link", name=THERE).click()
        expect(page.get_by_text("Åsa there.txt").first).to_be_visible()
        page.get_by_role("link", name="Remove what waits").click()
        assert f"1 content of batch {THERE}" in act(page, "a test", "Remove what waits for a batch")
        page.get_by_role("link", name="See the log of operator actions").click()
        expect(page.get_by_role("link", name=THERE)).to_be_visible()
        with psycopg.connect(other) as conn:
            assert conn.execute("select who, why from els.operator_actions").fetchall() == [("Åsa", "a test")]
        assert console.rows("select from els.operator_actions") == []
        for address in (
            "",
            "?cell=1",
            "waiting?cell=1",
            f"batch?id={THERE}",
            "find?text=%C3%85sa",
            "do/pending-restore",
        ):
            page.goto(address)
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1], f"{address} scrolls sideways: {widths}"
            found = Axe().run(page)
            assert found.violations_count == 0, f"{address}: {found.generate_report()}"
        # A cell that goes down, and comes back, on an open page.
        page.goto("")
        server.stop()
        expect(page.locator(".verdict")).to_have_text("1 of 2 cells cannot be read. The others work.", timeout=SOON)
        expect(page.locator("#outages")).to_contain_text("Cell 1: The database is unavailable")
        page.goto("find?text=%C3%85sa")
        expect(page.get_by_text("Åsa here.txt")).to_be_visible()
        expect(page.get_by_text("Cell 1 was not searched.")).to_be_visible()
        page.goto("waiting?cell=1")
        expect(page.get_by_role("heading", name="Unavailable")).to_be_visible()
        cells.get_by_role("link", name="Cell 0").click()
        expect(page.get_by_role("link", name=HERE)).to_be_visible()
        expect(page.locator("#outages")).to_be_empty()
        page.goto("waiting?cell=1")
        server.start()
        expect(page.get_by_role("heading", name="Missing registrations")).to_be_visible(timeout=SOON)
