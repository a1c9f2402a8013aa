"""Runs the service's audit in tests. Topics are new, so missing records are violations."""

from deploy.servers.brokers import Broker
from service.audit.audit import TIMEOUTS, Report, Scope, audit
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
        scope = Scope(group, InputLimits(), retention, whole=whole, clocks_apart=clocks_apart)
        return await audit(database, connection.client_options(broker.bootstrap_servers), scope)
    finally:
        await database.close()


async def check_audit(database_url: str, broker: Broker, group: str) -> Report:
    """Asserts that an audit finds no violation and nothing that it cannot check."""
    report = await audited(database_url, broker, group)
    assert report.clean, report.findings[:20]
    assert not report.unknown, report.examples
    return report
