"""Implements the command that checks the environment: `topics` has its part that is about the broker."""

from argparse import Namespace
from typing import Any

import psycopg

from service.cli.output import print_rows
from service.cli.topics import check_broker
from service.postgres.pool import Database
from service.postgres.schema import read_revision, schema_error
from service.postgres.server import (
    connections_error,
    durability_warning,
    planner_error,
    pooler_error,
    server_error,
    timeouts_error,
)
from service.runtime.errors import one_line
from service.settings import Settings, misspelt_settings
from service.store.progress import behind_error, previous_release_warning
from service.wiring import SPARE_SESSIONS, open_database, sessions_of_pods


async def check(settings: Settings, options: Namespace) -> int:
    """Check server, schema, planner, broker, topics and retentions. The settings were checked when they were read."""
    database = open_database(settings)
    try:
        rows = await _check_database(settings, database)
        rows += [_row(*each) for each in await check_broker(settings)]
        rows += [_row("settings", True, f"warning: {line}") for line in misspelt_settings()]
    finally:
        await database.close()
    print_rows(rows, options.json)
    return 0 if all(row["ok"] for row in rows) else 1


async def _check_database(settings: Settings, database: Database) -> list[dict[str, Any]]:
    url = settings.database_url.get_secret_value()
    try:
        if unsupported := await server_error(url):
            return [_row("database", False, f"ELS_DATABASE_URL: {unsupported}")]
        if wrong_pooler := await pooler_error(url, settings.database_pooler):
            return [_row("pooler", False, wrong_pooler)]
        wrong = {
            "timeouts": await timeouts_error(database),
            "planner": await planner_error(database),
            "connections": await connections_error(database, sessions_of_pods(settings), SPARE_SESSIONS),
        }
        wrong_schema, revision = await schema_error(database), await read_revision(database)
        not_durable = await durability_warning(database)
        behind = None if wrong_schema else await behind_error(database)
        previous = None if wrong_schema else await previous_release_warning(database)
    except psycopg.Error as error:
        return [_row("database", False, f"ELS_DATABASE_URL: {one_line(error)}")]
    rows = [_row(check, False, error) for check, error in wrong.items() if error]
    if wrong_schema:
        return [*rows, _row("schema", False, wrong_schema)]
    rows.insert(0, _row("database", True, f"reachable, schema at {revision}"))
    rows += [_row("progress", False, behind)] if behind else []
    rows += [_row("progress", True, f"warning: {previous}")] if previous else []
    return rows + ([_row("durability", True, f"warning: {not_durable}")] if not_durable else [])


def _row(check: str, ok: bool, message: str) -> dict[str, Any]:
    return {"check": check, "ok": ok, "told": message}  # the JSON output is a contract: the field stays `told`
