"""The console over two cells: each page is about one of them, or all; one that is down does not hold up the other."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.servers.databases import url_as
from service.console import outages
from service.console.acting import ACTIONS
from service.console.console import PAGES
from service.domain.topics import CONTENT_PROVISIONED
from tests.integration.console.conftest import ServedHere
from tests.support.builders.alive import ALIVE
from tests.support.builders.inputs import delivery, provisioned, registered
from tests.support.servers.cells import batch_of, new_cells
from tests.support.servers.proxy import Proxy

HERE, THERE = batch_of(0), batch_of(1)
PERFORM = {"why": "x", "step": "perform"}


class TwoCells(NamedTuple):
    """A console of cell 0; the database of cell 1 is behind a proxy. The connections are those of a superuser."""

    console: ServedHere
    proxy: Proxy
    here: psycopg.Connection[Any]
    there: psycopg.Connection[Any]

    async def get(self, path: str) -> tuple[int, str]:
        response, text = await self.console.send("GET", path)
        return response.status, text

    async def post(self, path: str, **form: str) -> tuple[int, str]:
        response, text = await self.console.send("POST", path, data=form)
        return response.status, text

    def know_nothing(self) -> None:
        self.console.cells.forget(None)
        for reads in self.console.cells.reads.values():
            reads.forget()


@pytest.fixture
def urls(server_url: str, template: str) -> Iterator[Sequence[str]]:
    with new_cells(server_url, template, "ab") as made:
        yield made


@pytest.fixture
async def cells(urls: Sequence[str]) -> AsyncIterator[TwoCells]:
    here, there = (url_as(url, "els_app") for url in urls)
    proxy = await Proxy(int(str(conninfo_to_dict(there)["port"]))).start()
    console = ServedHere(here, others=[f"{there}&port={proxy.port}"])
    await console.http.start()
    with psycopg.connect(urls[0], autocommit=True) as own, psycopg.connect(urls[1], autocommit=True) as other:
        try:
            yield TwoCells(console, proxy, own, other)
        finally:
            proxy.flow()
            await console.http.close()
            for database in console.databases:
                await database.close()
            await proxy.stop()


async def plant(cells: TwoCells) -> None:
    """A text that waits, a rejected input and an open batch in each cell."""
    for cell, batch in enumerate((HERE, THERE)):
        await cells.console.take(
            provisioned(batch, f"text-{batch}", original_file_name=f"Åsa {cell}.txt"),
            delivery(CONTENT_PROVISIONED, f'no JSON {batch} {{"data":{{"batch_id":"{batch}"}}'.encode()),
            registered(batch_of(cell, name="open"), "e"),
            cell=cell,
        )


def log(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select who, action, batch_id from els.operator_actions order by id").fetchall()


def current(text: str) -> str:
    """Returns the cell that a page is about, as it says."""
    return "".join(re.findall(r'<a href="[^"]*" aria-current="true">(All cells|Cell \d)</a>', text))


async def test_the_overview_shows_each_cell_and_the_sum(cells: TwoCells) -> None:
    for conn in (cells.here, cells.there):
        conn.execute(ALIVE)
    status, text = await cells.get("")
    assert (status, current(text), "All is well in all 2 cells" in text) == (200, "All cells", True)
    await plant(cells)
    cells.there.execute("insert into els.notices (kind, detail) values ('servers', 'the database moved')")
    cells.know_nothing()
    _, text = await cells.get("")
    row = re.search(r'<tr><th scope="row">All</th>(.*?)</tr>', text, re.DOTALL)
    assert row is not None
    assert re.findall(r'<td class="n">([^<]*)</td>', row[1])[:2] == ["2", "2"], "contents that wait, open inputs"
    for cell in (0, 1):
        button = rf'<a class="button" href="/console/quarantine\?cell={cell}">'
        assert re.search(f"<span>Cell {cell}: .*?{button}", text, re.DOTALL)
    assert re.search(r"<span>Cell 1: .*the database moved", text)
    # Of one cell: its own verdict, and links that stay there.
    status, text = await cells.get("?cell=1")
    assert (status, current(text), "the database moved" in text) == (200, "Cell 1", True)
    assert 'href="/console/late?cell=1"' in text
    assert "the console of this cell" in text, "the plots are those of the pod"
    assert 'data-plot="lag"' in (await cells.get("?cell=0"))[1]


async def test_a_list_is_of_one_cell_and_links_to_the_same_of_the_others(cells: TwoCells) -> None:
    await plant(cells)
    for path, found in (("waiting", "batch?id={}"), ("quarantine", "batch?id={}"), ("late", "batch?id=open")):
        for cell, batch in enumerate((HERE, THERE)):
            status, text = await cells.get(f"{path}?cell={cell}")
            wanted = found.format(batch) if path != "late" else f"batch?id={batch_of(cell, name='open')}"
            assert (status, current(text), wanted in text) == (200, f"Cell {cell}", True), (path, cell)
            assert f'href="/console/{path}?cell={1 - cell}"' in text
    assert current((await cells.get("late"))[1]) == "Cell 0", "that of the process, where none is named"
    _, text = await cells.get("quarantine?cell=1&reason=not_json&before=9")
    assert 'href="/console/quarantine?reason=not_json&amp;cell=0"' in text
    assert '<input type="hidden" name="cell" value="1">' in text
    for wrong in ("2", "-1", "x", "¹"):
        assert (await cells.get(f"late?cell={wrong}"))[0] == 422


async def test_a_batch_is_shown_by_the_cell_that_has_it(cells: TwoCells) -> None:
    await plant(cells)
    for path in (f"batch?id={THERE}", f"batch?id={THERE}&cell=0", f"waiting?batch={THERE}"):
        status, text = await cells.get(path)
        assert (status, "Åsa 1.txt" in text, '<p class="hint">Cell 1</p>' in text) == (200, True, True), path
    status, text = await cells.get("find?text=%C3%85sa&cell=0")
    assert (status, "Åsa 0.txt" in text, "Åsa 1.txt" in text) == (200, True, True)
    assert (await cells.get("find?text=nobody"))[1].count("nothing has the id") == 1


async def test_an_action_is_performed_and_logged_by_the_cell_that_has_the_batch(cells: TwoCells) -> None:
    await plant(cells)
    # The batch is in the address, or was typed into the form of another cell.
    status, text = await cells.post("do/pending-clear?cell=0", batch=THERE, why="x", step="plan")
    assert (status, f"1 content of batch {THERE} will be removed" in text) == (200, True)
    assert f'action="/console/do/pending-clear?batch={THERE}&amp;cell=1"' in text
    status, text = await cells.post(f"do/pending-clear?cell=1&batch={THERE}", **PERFORM)
    assert (status, "1 content" in text, 'href="/console/actions?cell=1"' in text) == (200, True, True)
    assert (log(cells.here), log(cells.there)) == ([], [("Åsa", "pending clear", THERE)])
    # Rejected inputs have numbers of their own in each cell.
    ((id_,),) = cells.there.execute("select id from els.quarantine").fetchall()
    status, text = await cells.post(f"do/quarantine-discard?ids={id_}&cell=1", **PERFORM)
    assert (status, "1 input" in text) == (200, True)
    assert [len(log(conn)) for conn in (cells.here, cells.there)] == [0, 2]
    # A field of that name that is no batch.
    form = (await cells.get("do/inputs-skip?batch=yes&cell=1"))[1]
    assert current(form) == "Cell 1"


async def closed(cells: TwoCells) -> None:
    await cells.proxy.stop()


async def silent(cells: TwoCells) -> None:
    cells.proxy.stall()


@pytest.mark.parametrize("end", [closed, silent])
async def test_a_cell_that_is_down_says_so_and_the_other_is_as_usable_as_before(
    cells: TwoCells, monkeypatch: pytest.MonkeyPatch, end: Callable[[TwoCells], Any]
) -> None:
    monkeypatch.setattr(outages, "DATABASE_ANSWER_SECONDS", 0.3)
    await plant(cells)
    await cells.get("")
    await end(cells)
    cells.know_nothing()
    status, text = await cells.get("")
    assert (status, "1 of 2 cells cannot be read. The others work." in text) == (200, True)
    assert "Cell 1: The database is unavailable: " in text
    assert text.count("cannot be read</td>") == 1
    status, text = await cells.get("find?text=%C3%85sa")
    assert (status, "Åsa 0.txt" in text, "Cell 1 was not searched." in text) == (200, True, True)
    for page in PAGES:
        if page.read_all or not page.is_in_menu:
            continue
        status, text = await cells.get(f"{page.path}?cell=0")
        assert (status, "The database is unavailable" in text) == (200, False), page.path
        status, text = await cells.get(f"{page.path}?cell=1")
        works = not page.needs_database
        assert (status, "Cell 1: The database is unavailable: " in text) == (200 if works else 503, True), page.path
        assert 'href="/console/late?cell=0"' not in text or current(text) == "Cell 1"
    status, text = await cells.post(f"do/pending-clear?batch={HERE}", **PERFORM)
    assert (status, "1 content" in text, log(cells.here)) == (200, True, [("Åsa", "pending clear", HERE)])
    status, text = await cells.post("do/pending-clear", batch=THERE, **PERFORM)
    assert (status, "Nothing was changed: Cell 1: The database is unavailable" in text) == (503, True)


async def test_with_one_cell_no_page_says_anything_of_cells(console: ServedHere) -> None:
    await console.take(registered("b", "e"))
    paths = [page.path for page in PAGES if page.is_in_menu] + [f"do/{each}" for each in ACTIONS if "edit" not in each]
    for path in [*paths, "batch?id=b", "late?cell=1"]:
        response, text = await console.send("GET", path)
        assert (response.status, re.search(r"\b[Cc]ells?\b", text.partition("<main")[2])) == (200, None), path
