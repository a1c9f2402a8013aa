"""Implements the commands that run and maintain the service.

Each returns its exit status, or raises CommandError (exit status 1) or SettingsError (exit status 2).
"""

import asyncio
from argparse import Namespace
from dataclasses import asdict

import psycopg
from aiokafka.errors import KafkaError

from service.application import ROLES, NotReady
from service.application import run as run_process
from service.audit import audit
from service.audit.report import AuditedCell, Scope
from service.cli.opening import opened_cells, opened_database
from service.cli.output import CommandError, print_json, print_rows, warn
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION
from service.postgres.server import server_error
from service.purge import policy, purge
from service.relay.relay import Relay
from service.runtime import tracing
from service.runtime.errors import one_line
from service.runtime.logging import set_up_logging
from service.settings import Settings, SettingsError
from service.store import outbox
from service.wiring import (
    broker_error,
    input_limits,
    kafka_options,
    relay_of,
    retention_policy,
    settings_of_cells,
)

IDLE_SECONDS = 8.0
"""`relay --once` gives up after so many seconds without progress. By then the lease of a relay that died has ended."""


async def run(settings: Settings, options: Namespace) -> int:
    """Run a pod until SIGTERM; with --replay, one that only reads all inputs once more."""
    roles = [role.strip() for role in options.roles.split(",") if role.strip()] or list(ROLES)
    if options.replay:
        if options.roles:
            raise SettingsError("--replay: it has no other role, leave out --roles")
        roles = ["consumer"]
    if unknown := [role for role in roles if role not in ROLES]:
        raise SettingsError(f"--roles: there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
    set_up_logging(settings.log_level, settings.log_format)
    try:
        tracing.set_up(settings.group)
    except tracing.NotInstalled as error:
        raise SettingsError(str(error)) from None
    try:
        await run_process(settings, roles, replay=options.replay)
    except (NotReady, OSError) as error:
        raise CommandError(str(error)) from None
    return 0


async def relay(settings: Settings, options: Namespace) -> int:
    """Run a pod with only this role; with --once, publish what is in the outbox and end."""
    if not options.once:
        return await run(settings, Namespace(roles="relay", replay=False))
    async with opened_database(settings) as database:
        try:
            left = await _publish(database, relay_of(settings, database))
        except (KafkaError, OSError) as error:
            raise CommandError(broker_error(error)) from None
    if left:
        raise CommandError(
            f"events left in the outbox: {left}; see ops.outbox_blocked; other relays may be publishing the rest"
        )
    print("The outbox is empty.")
    return 0


async def _publish(database: Database, publishing: Relay) -> int:
    """Publish until the outbox is empty, or `IDLE_SECONDS` pass without progress. Returns the number of events left."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + IDLE_SECONDS
    try:
        while True:
            if await publishing.publish_once():
                deadline = clock() + IDLE_SECONDS
                continue
            async with database.transaction() as conn:
                left = await outbox.count_outbox(conn)
            if not left or clock() > deadline:
                return left
            await asyncio.sleep(0.2)
    finally:
        await publishing.close()


async def migrate(settings: Settings, _: Namespace) -> int:
    """Migrate the database to the revision of this code. A concurrent `migrate` waits, and then finds nothing to do."""
    from service.postgres import migration  # noqa: PLC0415  only this command needs alembic

    try:
        if unsupported := await server_error(settings.migration_url):
            raise CommandError(f"ELS_MIGRATION_DATABASE_URL: {unsupported}")
        policy = {"pending_ttl": settings.pending_ttl_seconds, "batch_timeout": settings.batch_timeout_seconds}
        notes = migration.upgrade(settings.migration_url, policy=policy, of=settings.slice)
    except (migration.MigrationError, psycopg.Error) as error:
        raise CommandError(f"ELS_MIGRATION_DATABASE_URL: {one_line(error)}") from None
    for note in notes:
        print(note)
    print(f"The schema is at revision {EXPECTED_REVISION}.")
    return 0


async def purge_now(settings: Settings, options: Namespace) -> int:
    """Run one purge round; with --dry-run, only count what is due."""
    async with opened_database(settings) as database:
        if options.dry_run:
            report = await purge.count_due(database, retention_policy(settings))
        else:
            report = await purge.purge_once(database, retention_policy(settings))
    if report.held:
        warn("inputs are not known to be applied up to now: less expires, and is reported late (ops.progress)")
    if options.json:
        print_json(asdict(report))
    else:
        print_rows([{"what": name.replace("_", " "), "rows": count} for name, count in _counts(report).items()], False)
    if not report.whole:
        raise CommandError("another pod is purging: this round is not complete")
    return 0


def _counts(report: policy.PurgeReport) -> dict[str, int]:
    return {name: count for name, count in asdict(report).items() if name != "whole"}


async def audit_all(settings: Settings, options: Namespace) -> int:
    """Run the audit, of all cells where their databases are known.

    Violations, and cells that cannot be asked, mean exit status 1; facts that cannot be checked any more are only
    reported.
    """
    shortest = min(
        settings.expired_retention_seconds, settings.batch_retention_seconds, settings.closed_retention_seconds
    )
    scope = Scope(settings.numbers_of_cells, input_limits(settings), shortest, whole=options.whole)
    async with opened_cells(settings_of_cells(settings) or [settings], audit.TIMEOUTS) as (opened, failed):
        cells = [AuditedCell(database, each.group) for each, database in opened]
        try:
            report = await audit.audit(cells, kafka_options(settings), scope, most=options.limit, not_audited=failed)
        except (KafkaError, OSError, TimeoutError) as error:
            raise CommandError(broker_error(error)) from None
        except psycopg.Error as error:
            raise CommandError(f"ELS_DATABASE_URL: {one_line(error)}") from None
    if options.json:
        print_json(report.as_json())
    else:
        print_rows([{"what": what, "number": number} for what, number in report.counts.items()], False)
        print_rows([finding._asdict() for finding in report.findings], False)
    if report.unknown:
        warn(f"{report.unknown} facts cannot be checked any more, for example: {report.examples[0].detail}")
    for cell, why in sorted(report.not_audited.items()):
        warn(f"cell {cell} is not audited: {why}")
    if not report.clean:
        raise CommandError(f"{report.violations.total()} violations")
    return 0
