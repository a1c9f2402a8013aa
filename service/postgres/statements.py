"""Loads the statements of sql/queries.

A statement's file can be pasted into psql as it is (`:name` is a parameter there, too); here each `:name` becomes
psycopg's `%(name)s`. Array parameters are instances of the classes of `postgres.arrays`: psycopg's own encoder of lists
costs more than the rest of a poll.
"""

import re
from collections.abc import Mapping
from pathlib import Path

QUERIES = Path(__file__).parents[2] / "sql" / "queries"

# Comments, quoted text and casts may contain a `:name` that is no parameter, so they are matched first.
_TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|::|:(?P<name>[a-z][a-z0-9_]*)|%")


def placeholders(sql: str) -> str:
    """Replace each `:name` of a statement by `%(name)s`, except in comments, quoted text and casts."""

    def replace(token: re.Match[str]) -> str:
        if token["name"]:
            return f"%({token['name']})s"
        return token[0].replace("%", "%%")

    return _TOKEN.sub(replace, sql)


def _load() -> Mapping[str, str]:
    return {path.stem: placeholders(path.read_text()) for path in sorted(QUERIES.glob("*/*.sql"))}


STATEMENTS: Mapping[str, str] = _load()
"""Each statement of sql/queries by the name of its file."""
