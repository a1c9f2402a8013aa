"""Makes databases of cells."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from deploy.servers import databases
from service.domain.cells import cell_of


def become_cells(*connections: psycopg.Connection[Any]) -> None:
    """Gives each database its slice; the connections are those of a superuser, that to cell 0 first."""
    for cell, conn in enumerate(connections):
        conn.execute("update els.slice set cells = %s, cell = %s", [len(connections), cell])


def set_slices(urls: Sequence[str]) -> None:
    """Gives each database its slice; the URLs are those of a superuser, that of cell 0 first."""
    with ExitStack() as stack:
        become_cells(*(stack.enter_context(psycopg.connect(url, autocommit=True)) for url in urls))


@contextmanager
def new_cells(server_url: str, template: str, count: int) -> Iterator[Sequence[str]]:
    """Gives the URLs of the databases of so many cells, as superuser."""
    with ExitStack() as stack:
        urls = [stack.enter_context(databases.cloned(server_url, template)) for _ in range(count)]
        set_slices(urls)
        yield urls


def urls_of(cells: Sequence[str], role: str = "els_app") -> str:
    """Returns the value of ELS_CELL_DATABASE_URLS."""
    return " ".join(databases.url_as(url, role) for url in cells)


def batch_of(cell: int, cells: int = 2, name: str = "b") -> str:
    """Returns the id of a batch of this cell."""
    return next(f"{name}{each}" for each in range(999) if cell_of(f"{name}{each}", cells) == cell)
