"""Implements the commands that create the topics and check the environment.

Each returns its exit status, or raises CommandError (exit status 1) or SettingsError (exit status 2).
"""

from argparse import Namespace
from typing import Any

import psycopg
from aiokafka.errors import KafkaError

from service.cli.output import CommandError, print_rows, warn
from service.domain.topics import OUTGOING_TOPICS
from service.kafka import topics as kafka
from service.postgres.pool import Database
from service.postgres.schema import (
    durability_warning,
    planner_error,
    read_revision,
    schema_error,
    server_error,
)
from service.purge import policy
from service.recovery import reading
from service.runtime.errors import one_line
from service.settings import Settings
from service.store.progress import behind_error, previous_release_warning
from service.wiring import broker_error, kafka_options, open_database, retention_policy


async def topics_create(settings: Settings, options: Namespace) -> int:
    """Create missing topics. Existing topics stay as they are; a setting that is too small means exit status 1."""
    try:
        created, differences = await kafka.create_topics(
            kafka_options(settings),
            partitions=settings.kafka_topic_partitions,
            replication=settings.kafka_topic_replication,
        )
    except (KafkaError, OSError, TimeoutError) as error:
        raise CommandError(broker_error(error)) from None
    rows = [{"topic": topic, "state": "created"} for topic in created]
    rows += [{"topic": topic, "state": "there already"} for topic in kafka.TOPICS if topic not in created]
    print_rows(rows, options.json)
    for difference in differences:
        warn(_difference(difference))
    # The embedded broker does not report some settings: nobody can fix that, so it is not an error.
    return 1 if any(difference.found is not None for difference in differences) else 0


async def check(settings: Settings, options: Namespace) -> int:
    """Check server, schema, planner, broker, topics and retentions. The settings were checked when they were read."""
    database = open_database(settings)
    try:
        rows = await _check_database(settings, database)
        rows += [*await _check_broker(settings), *await _check_retentions(settings)]
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


async def _check_broker(settings: Settings) -> list[dict[str, Any]]:
    try:
        missing, differences = await kafka.check_topics(kafka_options(settings))
    except (KafkaError, OSError) as error:
        return [_row("broker", False, broker_error(error))]
    rows = [_row("broker", True, "reachable")]
    rows += [_row("topic", False, f"{topic} is missing: run topics create") for topic in missing]
    # The embedded broker does not report some settings: nobody can fix that, so it is not an error.
    rows += [_row("topic", each.found is None, _difference(each)) for each in differences]
    return rows


async def _check_retentions(settings: Settings) -> list[dict[str, Any]]:
    """Check that data is kept longer than the input topics keep their records, and backups less long.

    A record that is delivered again after its data was purged would be handled as a new one.
    """
    try:
        kept = await kafka.retentions(kafka_options(settings))
        outputs = await kafka.retentions(kafka_options(settings), OUTGOING_TOPICS)
    except (KafkaError, OSError):
        return []  # `_check_broker` reports it
    errors = policy.too_short(retention_policy(settings), kept)
    errors += reading.too_short(kept, outputs, settings.oldest_backup_seconds)
    return [_row("retention", False, message) for message in errors]


def _row(check: str, ok: bool, message: str) -> dict[str, Any]:
    return {"check": check, "ok": ok, "told": message}  # the JSON output is a contract: the field stays `told`


def _difference(difference: kafka.Difference) -> str:
    found = difference.found or "not reported by the broker"
    return f"{difference.topic}: {difference.name} is {found}; it should be {difference.wanted} or more"
