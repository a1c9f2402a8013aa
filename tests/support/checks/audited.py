"""Runs the service's audit in tests. Topics are new, so missing records are violations."""

import asyncio
from collections.abc import Sequence

from deploy.servers.brokers import Broker
from service.audit.audit import TIMEOUTS, audit
from service.audit.report import AuditedCell, Report, Scope
from service.domain.cells import numbers_at, slices_at
from service.domain.input_limits import InputLimits
from service.kafka import connection
from service.postgres.pool import Database

MEBIBYTE = 1024 * 1024


async def audited(
    database_url: str,
    broker: Broker,
    group: str,
    *,
    whole: bool = True,
    retention: float = 86_400,
    clocks_apart: float = 0,
) -> Report:
    """Returns the report of an audit; by default, all pods have the same clock."""
    database = Database(database_url, pool_size=1, timeouts=TIMEOUTS)
    try:
        scope = Scope([0], InputLimits(), retention, whole=whole, clocks_apart=clocks_apart)
        kafka = connection.client_options(broker.bootstrap_servers)
        return await audit([AuditedCell(database, group)], kafka, scope)
    finally:
        await database.close()


async def audited_cells(urls: Sequence[str], broker: Broker, group: str) -> Report:
    """Returns the report of an audit of all cells; their pods have the same clock."""
    databases = [Database(url, pool_size=1, timeouts=TIMEOUTS, of=of) for of, url in slices_at(urls)]
    try:
        numbers = numbers_at([each.slice for each in databases])
        scope = Scope(numbers, InputLimits(), 86_400, whole=True, clocks_apart=0)
        audited = [AuditedCell(each, group + each.slice.suffix) for each in databases]
        return await audit(audited, connection.client_options(broker.bootstrap_servers), scope)
    finally:
        await asyncio.gather(*(database.close() for database in databases))


async def check_audit(database_url: str, broker: Broker, group: str) -> Report:
    """Asserts that an audit finds no violation and nothing that it cannot check."""
    report = await audited(database_url, broker, group)
    assert report.clean, report.findings[:20]
    assert not report.unknown, report.examples
    return report
