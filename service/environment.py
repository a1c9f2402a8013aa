"""Checks whether the environment suits the service: server, schema, broker, topics, rights and retentions."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from service.consumer.foreign_group import group_error
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.kafka import rights
from service.kafka import topics as kafka
from service.kafka.cluster import ClusterState, Operation, read_cluster
from service.kafka.connection import admin_client
from service.kafka.group import REPLAY_SUFFIX
from service.postgres.fence import slice_error
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
from service.purge import policy
from service.recovery import reading
from service.runtime.errors import one_line
from service.settings import Settings, misspelt_settings
from service.store.progress import behind_error, previous_release_warning
from service.wiring import (
    CELL_SECONDS,
    SPARE_SESSIONS,
    broker_error,
    cells_on_server,
    kafka_options,
    open_database,
    retention_policy,
    sessions_of_pods,
    settings_of_cells,
)

_BROKER_DOWN = (KafkaError, OSError, TimeoutError)


class Check(NamedTuple):
    """A row of `check`. It is good where the message is only a warning."""

    about: str
    is_good: bool
    message: str
    cell: int | None = None
    """The cell that it is about, where several are checked."""


async def check_environment(settings: Settings) -> Sequence[Check]:
    """Check everything but the settings, which were checked when they were read. Raises SettingsError.

    Checks the databases and groups of all cells, where they are known.
    """
    cells = settings_of_cells(settings)
    if cells:
        found = await asyncio.gather(*map(_check_cell, cells))
        rows = [row for of_cell in found for row in of_cell]
    else:
        rows = await _check_own_database(settings)
    rows += await _check_broker(settings, cells or [settings])
    return rows + [Check("settings", True, f"warning: {line}") for line in misspelt_settings()]


async def _check_cell(settings: Settings) -> list[Check]:
    """Check the database of one of several cells, for a limited time."""
    try:
        async with asyncio.timeout(CELL_SECONDS):
            rows = await _check_own_database(settings)
    except TimeoutError:
        rows = [Check("database", False, f"it has not answered within {CELL_SECONDS:.0f} s")]
    return [each._replace(cell=settings.cell) for each in rows]


async def _check_own_database(settings: Settings) -> list[Check]:
    database = open_database(settings)
    try:
        return await _check_database(settings, database)
    finally:
        await database.close()


async def _check_database(settings: Settings, database: Database) -> list[Check]:
    url = settings.database_url.get_secret_value()
    try:
        if unsupported := await server_error(url):
            return [Check("database", False, f"ELS_DATABASE_URL: {unsupported}")]
        if wrong_pooler := await pooler_error(url, settings.database_pooler):
            return [Check("pooler", False, wrong_pooler)]
        wrong = {
            "timeouts": await timeouts_error(database),
            "planner": await planner_error(database),
            "connections": await connections_error(
                database, sessions_of_pods(settings), SPARE_SESSIONS, cells_on_server(settings)
            ),
        }
        wrong_schema, revision = await schema_error(database), await read_revision(database)
        not_durable = await durability_warning(database)
        wrong_slice = None if wrong_schema else await slice_error(database)
        behind = None if wrong_schema or wrong_slice else await behind_error(database)
        previous = None if wrong_schema else await previous_release_warning(database)
    except psycopg.Error as error:
        return [Check("database", False, f"ELS_DATABASE_URL: {one_line(error)}")]
    rows = [Check(check, False, error) for check, error in wrong.items() if error]
    if wrong_schema:
        return [*rows, Check("schema", False, wrong_schema)]
    of = "" if settings.slice.is_all else f", {settings.slice}"
    rows.insert(0, Check("database", True, f"reachable, schema at {revision}{of}"))
    rows += [Check("cell", False, wrong_slice)] if wrong_slice else []
    rows += [Check("progress", False, behind)] if behind else []
    rows += [Check("progress", True, f"warning: {previous}")] if previous else []
    return rows + ([Check("durability", True, f"warning: {not_durable}")] if not_durable else [])


async def _check_broker(settings: Settings, cells: Sequence[Settings]) -> list[Check]:
    """Check the connection, our rights, the topics and their retentions, and the groups of these cells."""
    options = kafka_options(settings)
    try:
        async with admin_client(options) as admin:
            cluster = await read_cluster(admin, kafka.TOPICS)
            rows = [Check("broker", True, "reachable"), *await _check_rights(settings, admin, cluster, cells)]
    except _BROKER_DOWN as error:
        return [Check("broker", False, broker_error(error))]
    rows += await _check_groups(cells)
    rows += [Check("topic", False, f"{topic} is missing: run topics create") for topic in cluster.missing]
    rows += [Check("topic", True, f"warning: {line}") for line in unreadable_lines(cluster, options)]
    # The embedded broker does not report some settings: nobody can fix that, so it is not an error.
    rows += [
        Check("topic", each.found is None, difference_line(each))
        for each in kafka.differences(cluster, replication=settings.kafka_topic_replication)
    ]
    for fault in [*kafka.faults(cluster), *_few_partitions(cluster, settings.kafka_topic_partitions)]:
        warning = "" if fault.is_error else "warning: "
        rows.append(Check("topic", not fault.is_error, f"{warning}{fault.topic}: {fault.message}"))
    return rows + _check_retentions(settings, cluster)


async def _check_rights(
    settings: Settings, admin: AIOKafkaAdminClient, cluster: ClusterState, cells: Sequence[Settings]
) -> list[Check]:
    missing, rows = rights.missing_on_topics(cluster), []
    try:
        groups = [name for each in cells for name in (each.group, each.group + REPLAY_SUFFIX)]
        missing += await rights.missing_on_groups(admin, groups)
        missing += await rights.missing_on_cluster(admin, cluster, idempotent=settings.kafka_enable_idempotence)
    except _BROKER_DOWN as error:
        rows = [Check("right", False, broker_error(error))]
    options = kafka_options(settings)
    return rows + [Check("right", False, broker_error(rights.NotAllowed(right, options))) for right in missing]


async def _check_groups(cells: Sequence[Settings]) -> list[Check]:
    """Check that no other cell uses the group of a cell."""
    options, rows = kafka_options(cells[0]), []
    try:
        for each in cells:
            error = await group_error(options, each.group, each.slice)
            rows += [Check("group", False, error, each.cell)] if error else []
    except _BROKER_DOWN:
        return []  # the checks of topics and rights say why
    return rows


def _check_retentions(settings: Settings, cluster: ClusterState) -> list[Check]:
    """Check that data is kept longer than the input topics keep their records, and backups less long.

    A record that is delivered again after its data was purged would be handled as a new one.
    """
    kept, outputs = kafka.retentions(cluster), kafka.retentions(cluster, OUTGOING_TOPICS)
    errors = policy.too_short(retention_policy(settings), kept)
    errors += reading.too_short(kept, outputs, settings.oldest_backup_seconds)
    return [Check("retention", False, message) for message in errors]


def _few_partitions(cluster: ClusterState, wanted: int) -> Iterable[kafka.Fault]:
    for topic in INCOMING_TOPICS:
        count = len(cluster.topics[topic].partitions) if topic in cluster.topics else wanted
        if count < wanted:
            yield kafka.Fault(
                topic,
                f"it has {count} partitions, and ELS_KAFKA_TOPIC_PARTITIONS is {wanted}: at most {count} pods share "
                "its records",
                is_error=False,
            )


def difference_line(difference: kafka.Difference) -> str:
    """Describe a property of a topic that is too small."""
    found = difference.found or "not reported by the broker"
    line = f"{difference.topic}: {difference.name} is {found}; it should be {difference.wanted} or more"
    return line if difference.found is None else f"{line}: run topics alter"


def unreadable_lines(cluster: ClusterState, options: Mapping[str, Any]) -> list[str]:
    """Name the topics whose configurations can't be compared. The running service does not need that right."""
    return [
        "its configuration can't be compared: "
        + broker_error(rights.NotAllowed(rights.MissingRight("topic", topic, (Operation.DESCRIBE_CONFIGS,)), options))
        for topic, state in cluster.topics.items()
        if state.configs is None
    ]
