"""Looks for a name in everything that a database has."""

import base64
import json
import unicodedata
from typing import Any

import psycopg

COLUMNS = """
    select n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, null)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a on a.attrelid = c.oid
    where n.nspname in ('els', 'ops')
    and c.relkind in ('r', 'v', 'm')
    and not (n.nspname = 'els' and starts_with(c.relname, 'own_'))
    and a.attnum > 0
    and not a.attisdropped
    order by 1, 2, 3
"""


def forms_of(name: str) -> set[bytes]:
    """The name in all forms in which it may be stored."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    forms |= {name.lower(), name.upper()}
    texts = {each.encode() for each in forms} | {json.dumps(each)[1:-1].encode() for each in forms}
    texts |= {each.encode("utf-16-le") for each in forms}
    texts |= {each.encode().decode("latin-1").encode() for each in forms}  # as headers are stored
    return texts | {base64.b64encode(each).rstrip(b"=")[:-1] for each in texts}


def contains_name(given: bytes, name: str) -> bool:
    """Whether bytes contain the name in any form."""
    return any(form in given or form.lower() in given.lower() for form in forms_of(name))


def places_of(conn: psycopg.Connection[Any], name: str, schemas: tuple[str, ...] = ("els",)) -> set[str]:
    """The columns of all tables (and views, of schema ops) that contain the name, in any row."""
    found = set()
    for schema, table, column, kind in conn.execute(COLUMNS).fetchall():
        if schema in schemas:
            value = f'"{column}"' if kind == "bytea" else f"convert_to(\"{column}\"::text, 'UTF8')"
            rows = conn.execute(f'select {value} from {schema}.{table} where "{column}" is not null'.encode())
            if any(contains_name(bytes(given), name) for (given,) in rows):
                found.add(f"{table}.{column}")
    return found
