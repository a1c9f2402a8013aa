"""The command that brings a database up to date with its topics."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiokafka.errors import KafkaError

from service.cli.opening import opened_database
from service.cli.operations import operator_of
from service.cli.output import CommandError, print_json, warn
from service.operators.errors import Unavailable
from service.operators.repetition import Repetition
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.recovery.acts import Act, read_acts
from service.recovery.blanking import Tombstone, import_tombstones, tombstone_of
from service.recovery.recovery import Recovered, RecoveryOptions
from service.recovery.recovery import recover as recover_database
from service.recovery.state import NotRecoverable, abandon, begin_fresh
from service.runtime.errors import one_line
from service.runtime.logging import set_up_logging
from service.settings import Settings
from service.store.operator_actions import Operator
from service.wiring import broker_error, input_limits, intake_limits, kafka_options, operations_of

LONG_TIMEOUTS: Final = Timeouts(
    # A process that is frozen keeps the next recovery waiting for so long.
    idle_in_transaction_session_timeout=60_000,
    statement_timeout=600_000,
    transaction_timeout=600_000,
)


async def recover(settings: Settings, options: Namespace) -> int:
    """Bring a database that is behind its topics, or empty, up to date with them."""
    set_up_logging(settings.log_level, settings.log_format, sys.stderr)
    by = operator_of(options)
    acts = None if options.acts is None else _acts(options.acts)
    tombstones = [] if options.erasures is None else _tombstones(options.erasures)
    try:
        async with opened_database(settings, LONG_TIMEOUTS) as database:
            kafka_ = kafka_options(settings)
            if options.abandon:
                await abandon(database, by)
                print("The recovery is abandoned: pods compare the database with its topics again.")
                return 0
            if tombstones and not options.dry_run:
                await _import(database, tombstones)
            if options.fresh:
                offsets = await begin_fresh(database, kafka_, settings.group, by, dry_run=options.dry_run)
                would = "would apply" if options.dry_run else "apply"
                print(f"Pods {would} all inputs of {len(offsets)} partitions as new ones.")
                return 0
            done, left = await _recover(settings, options, database, by, acts)
    except NotRecoverable as error:
        raise CommandError(str(error)) from None
    except (KafkaError, TimeoutError, OSError) as error:
        raise CommandError(broker_error(error)) from None
    if options.json:
        print_json(done.as_json() | {"not_repeated": [{"action": str(act), "why": why} for act, why in left]})
    else:
        _print_recovered(done, dry_run=options.dry_run)
    for act, why in left:
        warn(f"not repeated: {act}: {why}")
    if acts is None and not options.dry_run:
        warn("operator actions of the lost time are in no topic: recover again with --acts FILE, or repeat them")
        return 1
    return 1 if done.contradictions or done.incomplete or done.paused or left else 0


async def _recover(
    settings: Settings, options: Namespace, database: Database, by: Operator, acts: Sequence[Act] | None
) -> tuple[Recovered, list[tuple[Act, str]]]:
    """Recover, and repeat what operators did. Returns also what cannot be repeated, each with the reason."""
    done = await recover_database(
        database,
        kafka_options(settings),
        RecoveryOptions(
            settings.group,
            intake_limits(settings),
            input_limits(settings),
            by,
            accept_unknown=options.accept_unknown,
            acts=acts or (),
            dry_run=options.dry_run,
            log=warn,
        ),
    )
    if not acts or options.dry_run:
        return done, []
    warn("repeating what operators did")
    try:
        return done, await Repetition(database, operations_of(settings, database), by.who).repeat(acts)
    except Unavailable as error:
        raise CommandError(f"ELS_DATABASE_URL: {error}; recover again") from None


def _acts(path: Path) -> list[Act]:
    """Read operator actions from a file. Raises CommandError."""
    try:
        return read_acts(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandError(f"--acts {path}: {one_line(error)}") from None


def _tombstones(path: Path) -> list[Tombstone]:
    """Read the tombstones of what was erased. Raises CommandError."""
    try:
        return [tombstone_of(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CommandError(f"--erasures {path}: {one_line(error)}") from None


async def _import(database: Database, tombstones: list[Tombstone]) -> None:
    async with database.transaction() as conn:
        if missing := await import_tombstones(conn, tombstones):
            raise NotRecoverable(
                f"--erasures: this database lacks the keys {', '.join(sorted(missing))}: give the output of"
                " `els privacy export`, which has them"
            )


def _print_recovered(done: Recovered, *, dry_run: bool) -> None:
    print(f"The database was behind: {done.why}." + (" Nothing is changed." if dry_run else ""))
    for what, count in done.counts.items():
        print(f"{what}: {count}")
    for batch_id, what in done.contradictions:
        warn(f"batch {batch_id}: {what}")
    for batch_id in done.incomplete:
        warn(f"batch {batch_id}: it was announced, and its registration is in no topic")
    for topic in sorted(done.paused):
        warn(f"{topic} is paused: its records wait until it is resumed")
