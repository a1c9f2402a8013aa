"""The statements in sql/queries, and the arrays that are bound to them.

A statement's file can be pasted into psql as it is (`:name` binds there too); here each `:name`
becomes psycopg's `%(name)s`. Arrays are bound in PostgreSQL's binary form, built in one go: psycopg's
own list dumper costs more than all the rest of a poll.
"""

import re
from collections.abc import Mapping
from pathlib import Path

QUERIES = Path(__file__).parents[2] / "sql" / "queries"

# What can hold a `:name` that is none: comments, quoted text, casts. They are matched first.
_TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|::|:(?P<name>[a-z][a-z0-9_]*)|%")


def placeholders(sql: str) -> str:
    """Turn each `:name` of a statement into `%(name)s`; comments, quoted text and casts stay."""

    def replace(token: re.Match[str]) -> str:
        if token["name"]:
            return f"%({token['name']})s"
        return token[0].replace("%", "%%")

    return _TOKEN.sub(replace, sql)


def _load() -> Mapping[str, str]:
    return {path.stem: placeholders(path.read_text()) for path in sorted(QUERIES.glob("*/*.sql"))}


STATEMENTS: Mapping[str, str] = _load()
