"""Makes the pictures of docs/console.md: `python -m docs.console_pictures` (needs Chromium).

It starts PostgreSQL, a broker and a pod of their own, gives them something to show, and ends them.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from deploy.servers import databases
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import content, delivery, provisioned, registered, registration
from tests.support.pods.served_console import OPERATOR, ServedConsole, served_console

PICTURES = Path(__file__).parent / "pictures"


def main() -> int:
    """Writes the pictures. Returns the exit status."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.stderr.write("chromium (Debian's package chromium) is not there\n")
        return 1
    with (
        databases.server_url(None) as url,
        databases.template(url) as template,
        served_console(url, template, roles="consumer,relay,purge,console") as console,
    ):
        plant(console)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(base_url=console.url, viewport={"width": 1100, "height": 620})
            take(page)
            browser.close()
    return 0


def plant(console: ServedConsole) -> None:
    """Gives the pages something to show."""
    for number, texts in ((1, 3), (2, 30), (3, 12)):
        console.take(*(provisioned(f"batch-2026-11-{number:02}", f"text-{number}-{each}") for each in range(texts)))
    essays = [f"essay-{number}" for number in range(4)]
    console.take(registered("batch-2026-10-17", *essays), *(provisioned("batch-2026-10-17", f"t{n}") for n in range(3)))
    rejected = [content("batch-2026-11-04", f"text-{number}", file_size_bytes="2 kB") for number in range(3)]
    console.take(*(delivery(CONTENT_PROVISIONED, each) for each in rejected))
    console.take(delivery(BATCH_REGISTERED, registration("batch-2026-11-01", essays, expected_essay_count=3)))


def take(page: Page) -> None:
    """Logs in, and takes the pictures."""
    page.goto("")
    page.get_by_label("Your name").fill("Åsa")
    page.get_by_label("Token", exact=True).fill(OPERATOR)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="What to do").wait_for()
    page.screenshot(path=PICTURES / "console-overview.png")
    page.goto("quarantine/input?id=1")
    page.screenshot(path=PICTURES / "console-input.png")
    page.goto(f"do/quarantine-replay?topic={CONTENT_PROVISIONED}&reason=invalid_field")
    page.get_by_label("Reason", exact=True).fill("the File Service 4.2 sends sizes as numbers again")
    page.get_by_role("button", name="Show what will change").click()
    page.set_viewport_size({"width": 1100, "height": 520})
    page.screenshot(path=PICTURES / "console-plan.png")


if __name__ == "__main__":
    sys.exit(main())
