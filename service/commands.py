"""What the command line does. Each command returns its exit status, or raises Failed with the line to print."""

import base64
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson
import psycopg
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service import kafka, purge, quarantine
from service.database import EXPECTED_REVISION, Database
from service.health import one_line
from service.process import ROLES, NotReady, kafka_options, open_database, terms
from service.process import run as run_process
from service.settings import Settings, SettingsError
from service.telemetry import set_up_logging


class Failed(Exception):
    """The command did not do what it says; the message is one line that says why."""


async def run(settings: Settings, options: Namespace) -> int:
    """Until SIGTERM."""
    roles = [role.strip() for role in options.roles.split(",") if role.strip()] or list(ROLES)
    if unknown := [role for role in roles if role not in ROLES]:
        raise SettingsError(f"--roles: there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
    set_up_logging(settings.log_level, settings.log_format)
    try:
        await run_process(settings, roles)
    except (NotReady, OSError) as error:
        raise Failed(str(error)) from None
    return 0


async def migrate(settings: Settings, _: Namespace) -> int:
    """One migration at a time; a second one waits for the first, and finds nothing to do."""
    from service import migration  # noqa: PLC0415  alembic is for this command alone

    try:
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
        raise Failed(f"ELS_KAFKA_BOOTSTRAP_SERVERS: {one_line(error)}") from None
    rows = [{"topic": topic, "state": "created"} for topic in created]
    rows += [{"topic": topic, "state": "there already"} for topic in kafka.TOPICS if topic not in created]
    _tell(rows, options.json)
    for difference in differences:
        _warn(_difference(difference))
    # What the broker does not tell (the embedded one) is no fault that anybody could mend.
    return 1 if any(difference.found is not None for difference in differences) else 0


async def check(settings: Settings, options: Namespace) -> int:
    """Settings (they were read to come here), database, schema, broker and topics."""
    database = open_database(settings)
    try:
        rows = [await _check_database(database), *await _check_broker(settings), *await _check_retentions(settings)]
    finally:
        await database.close()
    _tell(rows, options.json)
    return 0 if all(row["ok"] for row in rows) else 1


async def _check_database(database: Database) -> dict[str, Any]:
    try:
        revision = await database.revision()
    except psycopg.Error as error:
        return _checked("database", False, f"ELS_DATABASE_URL: {one_line(error)}")
    if revision != EXPECTED_REVISION:
        return _checked("schema", False, f"at {revision or 'none'}, not {EXPECTED_REVISION}: run migrate")
    return _checked("database", True, f"reachable, schema at {revision}")


async def _check_broker(settings: Settings) -> list[dict[str, Any]]:
    try:
        missing, differences = await kafka.check_topics(kafka_options(settings))
    except (KafkaError, OSError) as error:
        return [_checked("broker", False, f"ELS_KAFKA_BOOTSTRAP_SERVERS: {one_line(error)}")]
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
    return [_checked("retention", False, told) for told in purge.too_short(terms(settings), kept)]


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
            report = await purge.count_due(database, terms(settings))
        else:
            report = await purge.purge_once(database, terms(settings))
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()
    if options.json:
        _print_json(asdict(report))
    else:
        _tell([{"what": name.replace("_", " "), "rows": count} for name, count in _counts(report).items()], False)
    if not report.whole:
        raise Failed("another pod is purging: this round did not come to its end")
    return 0


def _counts(report: purge.PurgeReport) -> dict[str, int]:
    return {name: count for name, count in asdict(report).items() if name != "whole"}


async def quarantine_list(settings: Settings, options: Namespace) -> int:
    """A page of refused inputs."""
    async with _transaction(settings) as conn:
        page = await quarantine.list_quarantine(
            conn, page=options.limit, topic=options.topic, state=options.state, before=options.before
        )
    _tell([row._asdict() for row in page], options.json)
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """One refused input: its value as text only where it is text, else in Base64."""
    async with _transaction(settings) as conn:
        row = await quarantine.read_quarantined(conn, options.id)
    if row is None:
        raise Failed(f"there is no quarantined input {options.id}")
    shown = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            text = _readable(value)
            shown[name if text is not None else f"{name}_base64"] = (
                base64.b64encode(value).decode() if text is None else text
            )
        else:
            shown[name] = value
    if options.json:
        _print_json(shown)
    else:
        for name, value in shown.items():
            print(f"{name}: {_cell(value)}")
    return 0


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Set a stopped topic going again."""
    if options.topic not in kafka.INCOMING:
        raise SettingsError(f"there is no topic {options.topic!r}; there are {', '.join(kafka.INCOMING)}")
    async with _transaction(settings) as conn:
        resumed = await quarantine.resume_topic(conn, options.topic)
    if not resumed:
        raise Failed(f"{options.topic} is not stopped")
    print(f"{options.topic} goes on within seconds.")
    return 0


@asynccontextmanager
async def _transaction(settings: Settings) -> AsyncIterator[AsyncConnection[Any]]:
    """One transaction of a command; an error of the database is a line, not a traceback."""
    database = open_database(settings)
    try:
        async with database.transaction() as conn:
            yield conn
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()


def _readable(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\t\n\r" for char in text) else None


def _tell(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        print("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text of others is shown as it is: it must not be able to style a terminal.
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    Console().print(table)


def _print_json(value: object) -> None:
    print(orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2).decode())


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "ok" if value else "NOT OK"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _warn(line: str) -> None:
    Console(stderr=True).print(Text(line))
