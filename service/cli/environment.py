"""Implements the command that checks the environment: `topics` has its part that is about the broker."""

from argparse import Namespace
from typing import Any

import psycopg

from service.cli.output import print_rows
from service.cli.topics import check_broker
from service.postgres.pool import Database
from service.postgres.schema import (
    durability_warning,
    planner_error,
    read_revision,
    schema_error,
    server_error,
)
from service.runtime.errors import one_line
from service.settings import Settings
from service.store.progress import behind_error, previous_release_warning
from service.wiring import open_database


async def check(settings: Settings, options: Namespace) -> int:
    """Check server, schema, planner, broker, topics and retentions. The settings were checked when they were read."""
    database = open_database(settings)
    try:
        rows = await _check_database(settings, database)
        rows += [_row(*each) for each in await check_broker(settings)]
    finally:
        await database.close()
    print_rows(rows, options.json)
    return 0 if all(row["ok"] for row in rows) else 1


async def _check_database(settings: Settings, database: Database) -> list[dict[str, Any]]:
    try:
        if unsupported := await server_error(settings.database_url.get_secret_value()):
            return [_row("database", False, f"ELS_DATABASE_URL: {unsupported}")]
        wrong_schema, revision = await schema_error(database), await read_revision(database)
        wrong_plan, not_durable = await planner_error(database), await durability_warning(database)
        behind = None if wrong_schema else await behind_error(database)
        previous = None if wrong_schema else await previous_release_warning(database)
    except psycopg.Error as error:
        return [_row("database", False, f"ELS_DATABASE_URL: {one_line(error)}")]
    if wrong_schema:
        return [_row("schema", False, wrong_schema)]
    rows = [_row("database", True, f"reachable, schema at {revision}")]
    rows += [_row("planner", False, wrong_plan)] if wrong_plan else []
    rows += [_row("progress", False, behind)] if behind else []
    rows += [_row("progress", True, f"warning: {previous}")] if previous else []
    return rows + ([_row("durability", True, f"warning: {not_durable}")] if not_durable else [])


def _row(check: str, ok: bool, message: str) -> dict[str, Any]:
    return {"check": check, "ok": ok, "told": message}  # the JSON output is a contract: the field stays `told`
