"""Makes databases of cells."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from deploy.servers import databases
from service.domain.cells import cell_of, slices_at


def become_cells(*connections: psycopg.Connection[Any]) -> None:
    """Gives each database its slice; the connections are those of a superuser, that to cell 0 first."""
    for cell, conn in enumerate(connections):
        conn.execute("update els.slice set cells = %s, cell = %s", [len(connections), cell])


def set_slices(urls: Sequence[str]) -> None:
    """Gives each database its slice; the URLs are those of a superuser, each at its places as in `slices_at`."""
    for of, url in slices_at(urls):
        with psycopg.connect(url) as conn:
            conn.execute("update els.slice set cells = %s, cell = %s", of)


@contextmanager
def new_cells(server_url: str, template: str, places: str) -> Iterator[Sequence[str]]:
    """Gives the URL of a database at each of its places, as superuser: "abcb" is three cells, of which b is 1 of 2."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(databases.cloned(server_url, template)) for name in sorted(set(places))}
        urls = [made[name] for name in places]
        set_slices(urls)
        yield urls


def urls_of(cells: Sequence[str], role: str = "els_app") -> str:
    """Returns the value of ELS_CELL_DATABASE_URLS."""
    return " ".join(databases.url_as(url, role) for url in cells)


def batch_of(cell: int, cells: int = 2, name: str = "b") -> str:
    """Returns the id of a batch of this cell."""
    return next(f"{name}{each}" for each in range(999) if cell_of(f"{name}{each}", cells) == cell)
