"""Every statement of sql/queries fits the schema, names its indexes and locks, and is used."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.pq import ExecStatus

import service.store
from service.postgres.statements import QUERIES, STATEMENTS

TEXTS = {path.stem: path.read_text() for path in QUERIES.glob("*/*.sql")}
SERVICE = "\n".join(path.read_text() for path in (Path(__file__).parents[3] / "service").rglob("*.py"))


def numbered(statement: str) -> bytes:
    """The statement with PostgreSQL's own parameters, $1 and on."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    text = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
    return text.replace("%%", "%").encode()


def server_error(conn: Connection[Any], statement: str) -> str:
    """The error of the server; the statement is not run."""
    prepared = conn.pgconn.prepare(b"", numbered(statement))
    return "" if prepared.status == ExecStatus.COMMAND_OK else prepared.error_message.decode()


def test_every_statement_can_be_prepared_on_the_migrated_schema(app_url: str) -> None:
    with psycopg.connect(app_url) as conn:
        found = {name: error for name, text in STATEMENTS.items() if (error := server_error(conn, text))}
        assert found == {}
        assert "surname" in server_error(conn, "select surname from els.batches where batch_id = %(batch_id)s")


def test_a_statement_begins_with_what_it_does_which_index_it_uses_and_what_it_locks() -> None:
    headers = {name: re.match(r"(--.*\n)*", text)[0] for name, text in TEXTS.items()}  # type: ignore[index]
    assert [name for name, header in headers.items() if "Index:" not in header or "Locks:" not in header] == []
    assert [name for name, header in headers.items() if max(map(len, header.splitlines())) > 120] == []


def test_a_statement_is_used() -> None:
    """Those of the audit are named by what they audit."""
    assert [name for name in STATEMENTS if not name.startswith("audit_") and f'"{name}"' not in SERVICE] == []


@pytest.mark.parametrize("folder", sorted(QUERIES.iterdir()), ids=lambda folder: folder.name)
def test_the_statements_of_a_folder_are_run_by_the_module_of_the_same_name(folder: Path) -> None:
    if folder.name == "audit":  # whose statements history/ runs for all tables in one loop
        return
    module = (Path(service.store.__file__).parent / f"{folder.name}.py").read_text()
    assert [path.stem for path in folder.glob("*.sql") if f'"{path.stem}"' not in module] == []
