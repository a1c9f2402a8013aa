"""Replays the recorded morning to a running service with empty tables and topics, and checks the result.

    ELS_DATABASE_URL=… ELS_KAFKA_BOOTSTRAP_SERVERS=… python -m tests.support.builders.morning

For a stack that the tests did not start: the compose file, a staging cluster. Reads the database as a superuser.
"""

import asyncio
import time

from deploy.servers.brokers import Broker
from service.settings import load_settings
from service.wiring import kafka_options
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.expected import all_done, check_tables, check_topics


async def main() -> None:
    """Replays, waits and checks. Raises AssertionError with the difference."""
    settings = load_settings()
    if kafka_options(settings)["security_protocol"] != "PLAINTEXT":
        raise SystemExit("ELS_KAFKA_SECURITY_PROTOCOL: the tests' clients speak PLAINTEXT only")
    url = settings.database_url.get_secret_value()
    broker = Broker("named", settings.kafka_bootstrap_servers, idempotence=settings.kafka_enable_idempotence)
    records = replay.morning()
    morning = Replay(broker, records)
    began = time.monotonic()
    await morning.run()
    sent = time.monotonic()
    await all_done(url, broker, settings.consumer_group, morning.ends)
    done = time.monotonic()
    await check_tables(url)
    published = await check_topics(url, broker, records)
    print(
        f"{len(records)} records sent in {sent - began:.1f} s, all dealt with and published {done - sent:.1f} s later; "
        f"tables and topics end as they must, {published.repeats} events were published twice."
    )


if __name__ == "__main__":
    asyncio.run(main())
