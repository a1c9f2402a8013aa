"""The commands of the process and its surroundings. Each returns its exit status, or raises Failed."""

import asyncio
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import psycopg
from aiokafka.errors import KafkaError

from service.application import ROLES, NotReady
from service.application import run as run_process
from service.audit import audit
from service.cli.output import Failed, print_json, tell, warn
from service.kafka import topics as kafka
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION, planner_error, read_revision, schema_error, server_error
from service.purge import policy, purge
from service.relay.relay import Relay
from service.runtime import tracing
from service.runtime.errors import one_line
from service.runtime.logging import set_up_logging
from service.settings import Settings, SettingsError
from service.store import outbox
from service.wiring import broker_error, kafka_options, max_bytes, open_database, relay_of, retention_policy

IDLE_SECONDS = 8.0
"""`relay --once` waits as long for more: until then the lease of a relay that died has run out."""


async def run(settings: Settings, options: Namespace) -> int:
    """Until SIGTERM."""
    roles = [role.strip() for role in options.roles.split(",") if role.strip()] or list(ROLES)
    if unknown := [role for role in roles if role not in ROLES]:
        raise SettingsError(f"--roles: there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
    set_up_logging(settings.log_level, settings.log_format)
    try:
        tracing.set_up()
    except tracing.NotInstalled as error:
        raise SettingsError(str(error)) from None
    try:
        await run_process(settings, roles)
    except (NotReady, OSError) as error:
        raise Failed(str(error)) from None
    return 0


async def relay(settings: Settings, options: Namespace) -> int:
    """A pod that has this role alone; with --once, what is in the outbox and no more."""
    if not options.once:
        return await run(settings, Namespace(roles="relay"))
    database = open_database(settings)
    try:
        left = await _publish(database, relay_of(settings, database))
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    except (KafkaError, OSError) as error:
        raise Failed(broker_error(error)) from None
    finally:
        await database.close()
    if left:
        raise Failed(f"rows left in the outbox: {left}; ops.outbox_blocked says why, or other relays have them in hand")
    print("The outbox is empty.")
    return 0


async def _publish(database: Database, publishing: Relay) -> int:
    """Publish until the outbox is empty, or nothing came of it for longer than a relay that died keeps its rows."""
    clock = asyncio.get_running_loop().time
    patience = clock() + IDLE_SECONDS
    try:
        while True:
            if await publishing.publish_once():
                patience = clock() + IDLE_SECONDS
                continue
            async with database.transaction() as conn:
                left = await outbox.count_outbox(conn)
            if not left or clock() > patience:
                return left
            await asyncio.sleep(0.2)
    finally:
        await publishing.close()


async def migrate(settings: Settings, _: Namespace) -> int:
    """One migration at a time; a second one waits for the first, and finds nothing to do."""
    from service.postgres import migration  # noqa: PLC0415  alembic is for this command alone

    try:
        if wrong := await server_error(settings.migration_url):
            raise Failed(f"ELS_MIGRATION_DATABASE_URL: {wrong}")
        notes = migration.upgrade(settings.migration_url, pending_ttl_seconds=settings.pending_ttl_seconds)
    except (migration.MigrationError, psycopg.Error) as error:
        raise Failed(f"ELS_MIGRATION_DATABASE_URL: {one_line(error)}") from None
    for note in notes:
        print(note)
    print(f"The schema is at revision {EXPECTED_REVISION}.")
    return 0


async def topics_create(settings: Settings, options: Namespace) -> int:
    """What is there is left as it is; where that differs from what it needs, it is said, and the status is 1."""
    try:
        created, differences = await kafka.create_topics(
            kafka_options(settings),
            partitions=settings.kafka_topic_partitions,
            replication=settings.kafka_topic_replication,
        )
    except (KafkaError, OSError, TimeoutError) as error:
        raise Failed(broker_error(error)) from None
    rows = [{"topic": topic, "state": "created"} for topic in created]
    rows += [{"topic": topic, "state": "there already"} for topic in kafka.TOPICS if topic not in created]
    tell(rows, options.json)
    for difference in differences:
        warn(_difference(difference))
    # What the broker does not tell (the embedded one) is no fault that anybody could mend.
    return 1 if any(difference.found is not None for difference in differences) else 0


async def check(settings: Settings, options: Namespace) -> int:
    """Settings (they were read to come here), server, schema, planner, broker, topics and retentions."""
    database = open_database(settings)
    try:
        rows = await _check_database(settings, database)
        rows += [*await _check_broker(settings), *await _check_retentions(settings)]
    finally:
        await database.close()
    tell(rows, options.json)
    return 0 if all(row["ok"] for row in rows) else 1


async def _check_database(settings: Settings, database: Database) -> list[dict[str, Any]]:
    try:
        if wrong := await server_error(settings.database_url.get_secret_value()):
            return [_checked("database", False, f"ELS_DATABASE_URL: {wrong}")]
        trouble, revision = await schema_error(database), await read_revision(database)
        misplanned = await planner_error(database)
    except psycopg.Error as error:
        return [_checked("database", False, f"ELS_DATABASE_URL: {one_line(error)}")]
    if trouble:
        return [_checked("schema", False, trouble)]
    reachable = _checked("database", True, f"reachable, schema at {revision}")
    return [reachable] if misplanned is None else [reachable, _checked("planner", False, misplanned)]


async def _check_broker(settings: Settings) -> list[dict[str, Any]]:
    try:
        missing, differences = await kafka.check_topics(kafka_options(settings))
    except (KafkaError, OSError) as error:
        return [_checked("broker", False, broker_error(error))]
    rows = [_checked("broker", True, "reachable")]
    rows += [_checked("topic", False, f"{topic} is missing: run topics create") for topic in missing]
    # A setting that the broker does not tell (the embedded one) is no fault that anybody could mend.
    rows += [_checked("topic", each.found is None, _difference(each)) for each in differences]
    return rows


async def _check_retentions(settings: Settings) -> list[dict[str, Any]]:
    """What a purge deletes must not be delivered once more: it would rise from the dead."""
    try:
        kept = await kafka.retentions(kafka_options(settings))
    except (KafkaError, OSError):
        return []  # the broker is away, which has been said
    return [_checked("retention", False, told) for told in policy.too_short(retention_policy(settings), kept)]


def _checked(what: str, ok: bool, told: str) -> dict[str, Any]:
    return {"check": what, "ok": ok, "told": told}


def _difference(difference: kafka.Difference) -> str:
    found = difference.found or "not told by the broker"
    return f"{difference.topic}: {difference.name} is {found}, wanted {difference.wanted} or more"


async def purge_now(settings: Settings, options: Namespace) -> int:
    """One round; with --dry-run only what it would find to do."""
    database = open_database(settings)
    try:
        if options.dry_run:
            report = await purge.count_due(database, retention_policy(settings))
        else:
            report = await purge.purge_once(database, retention_policy(settings))
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()
    if options.json:
        print_json(asdict(report))
    else:
        tell([{"what": name.replace("_", " "), "rows": count} for name, count in _counts(report).items()], False)
    if not report.whole:
        raise Failed("another pod is purging: this round did not come to its end")
    return 0


def _counts(report: policy.PurgeReport) -> dict[str, int]:
    return {name: count for name, count in asdict(report).items() if name != "whole"}


async def audit_all(settings: Settings, options: Namespace) -> int:
    """Status 1 where something is wrong; what can't be known any more is only told."""
    retentions = (
        settings.expired_retention_seconds,
        settings.batch_retention_seconds,
        settings.closed_retention_seconds,
    )
    shortest = min(seconds for seconds in retentions if seconds is not None)
    scope = audit.Scope(settings.consumer_group, max_bytes(settings), shortest, whole=options.whole)
    database = open_database(settings, audit.TIMEOUTS)
    try:
        report = await audit.audit(database, kafka_options(settings), scope, most=options.limit)
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    except (KafkaError, OSError, TimeoutError) as error:
        raise Failed(broker_error(error)) from None
    finally:
        await database.close()
    if options.json:
        print_json(report.as_json())
    else:
        tell([{"what": what, "number": number} for what, number in report.counts.items()], False)
        tell([finding._asdict() for finding in report.findings], False)
    if report.unknown:
        warn(f"{report.unknown} can't be known any more, like: {report.examples[0].detail}")
    if not report.clean:
        raise Failed(f"{report.violations.total()} violations")
    return 0
