"""The command that brings a database up to date with its topics."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import orjson
import psycopg
from aiokafka.errors import KafkaError

from service.cli.operations import operator_of
from service.cli.output import CommandError, print_json, warn
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.recovery.blanking import Tombstone, import_tombstones, tombstone_of
from service.recovery.recovery import Recovered, RecoveryOptions
from service.recovery.recovery import recover as recover_database
from service.recovery.state import NotRecoverable, abandon, begin_fresh
from service.runtime.errors import one_line
from service.runtime.logging import set_up_logging
from service.settings import Settings
from service.wiring import broker_error, input_limits, intake_limits, kafka_options, open_database


async def recover(settings: Settings, options: Namespace) -> int:
    """Bring a database that is behind its topics, or empty, up to date with them."""
    set_up_logging(settings.log_level, settings.log_format, sys.stderr)
    by = operator_of(options)
    database = open_database(
        settings,
        Timeouts(idle_in_transaction_session_timeout=600_000, statement_timeout=600_000, transaction_timeout=600_000),
    )
    acts = None if options.acts is None else _acts(options.acts)
    tombstones = [] if options.erasures is None else _tombstones(options.erasures)
    try:
        kafka_ = kafka_options(settings)
        if options.abandon:
            await abandon(database, by)
            print("The recovery is abandoned: pods compare the database with its topics again.")
            return 0
        if tombstones and not options.dry_run:
            await _import(database, tombstones)
        if options.fresh:
            offsets = await begin_fresh(database, kafka_, settings.consumer_group, by, dry_run=options.dry_run)
            would = "would apply" if options.dry_run else "apply"
            print(f"Pods {would} all inputs of {len(offsets)} partitions as new ones.")
            return 0
        done = await recover_database(
            database,
            kafka_,
            RecoveryOptions(
                settings.consumer_group,
                intake_limits(settings),
                input_limits(settings),
                by,
                accept_unknown=options.accept_unknown,
                dry_run=options.dry_run,
                log=warn,
            ),
        )
    except NotRecoverable as error:
        raise CommandError(str(error)) from None
    except psycopg.Error as error:
        raise CommandError(f"ELS_DATABASE_URL: {one_line(error)}") from None
    except (KafkaError, TimeoutError, OSError) as error:
        raise CommandError(broker_error(error)) from None
    finally:
        await database.close()
    if options.json:
        print_json(done.as_json())
    else:
        _print_recovered(done, dry_run=options.dry_run)
    unfinished = done.contradictions or done.incomplete or done.paused
    return 1 if unfinished or (not options.dry_run and _is_left_to_repeat(acts)) else 0


def _acts(path: Path) -> list[dict[str, Any]]:
    """Read operator actions from a file: a JSON object for each, in a line. Raises CommandError."""
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, orjson.JSONDecodeError) as error:
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


def _is_left_to_repeat(acts: list[dict[str, Any]] | None) -> bool:
    """Name the operator actions of the lost time, which are in no topic. Returns whether there may be any."""
    if acts is None:
        warn("operator actions of the lost time are in no topic: repeat them (--acts FILE lists those of an export)")
        return True
    for act in acts:
        warn(f"repeat: {act.get('action')} {act.get('batch_id') or act.get('topic') or ''} {act.get('details') or ''}")
    return bool(acts)


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
