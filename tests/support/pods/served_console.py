"""Runs a pod that serves the console, on a database with something on each page."""

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaProducer

from deploy.servers import brokers, databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod, pods
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.postgres.pool import Database
from service.runtime.health import Health
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.pods.applier import forget
from tests.support.servers.cells import set_slices, urls_of

OPERATOR = "a-token-of-operators"
VIEWER = "a-token-of-viewers"
SETTINGS = {"ELS_ADMIN_TOKEN": OPERATOR, "ELS_VIEWER_TOKEN": VIEWER, "ELS_PURGE_INTERVAL_SECONDS": "86400"}

HOSTILE = "'\"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\u2066gnihton{{7*7}}&amp;%00#?/\\å".ljust(
    255, "x"
)
"""An id of 255 characters that means something in HTML, CSS, addresses, templates, and to the eye."""


@dataclass(frozen=True, slots=True)
class ServedConsole:
    """A console that runs."""

    url: str
    database_url: str
    app_url: str
    broker: Broker
    pod: Pod

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Runs a statement as superuser. Returns its rows, if it has any."""
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            cursor = conn.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def take(self, *deliveries: Delivery) -> None:
        """Applies records, as a consumer would."""
        _apart(_take(self.app_url, *deliveries))

    def produce(self, topic: str, value: bytes) -> None:
        """Sends a record to partition 0, where nobody reads it."""
        _apart(_produce(self.broker.bootstrap_servers, topic, value))


def _apart(work: Coroutine[Any, Any, None]) -> None:
    """Runs it in a loop of another thread: a browser's loop may run in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _take(app_url: str, *deliveries: Delivery) -> None:
    database = Database(app_url)
    try:
        await Intake(database, IntakeLimits(), Health("database"), forget).take(deliveries)
    finally:
        await database.close()


async def _produce(servers: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(topic, value, partition=0)


@contextmanager
def served_console(
    server_url: str, template: str, *, roles: str = "console", other_cells: Sequence[str] = (), **settings: str
) -> Iterator[ServedConsole]:
    """Starts the pod, with roles of its own, so that nothing changes by itself.

    With the URLs of other cells' databases (as superuser), it is one of cell 0.
    """
    with (
        databases.cloned(server_url, template) as database_url,
        brokers.tansu() as broker,
        tempfile.TemporaryDirectory(prefix="els-console-") as folder,
    ):
        app_url = databases.url_as(database_url, "els_app")
        asyncio.run(broker.create_topics())
        given = {"ELS_DATABASE_URL": app_url, **broker.settings, **SETTINGS, **settings}
        if cells := [database_url, *other_cells] if other_cells else []:
            set_slices(cells)
            given |= {"ELS_CELLS": str(len(cells)), "ELS_CELL": "0", "ELS_CELL_DATABASE_URLS": urls_of(cells)}
        with pods(Path(folder), given) as running:
            (pod,) = running.start(1, arguments=["--roles", roles])
            asyncio.run(running.ready())
            port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
            yield ServedConsole(f"http://127.0.0.1:{port}/console/", database_url, app_url, broker, pod)


def plant(console: ServedConsole) -> None:
    """Gives each page something to show: with ordinary ids, and with a hostile one."""
    for name in ("b", HOSTILE):
        named = {"original_file_name": f"{name[:240]}.txt", "file_upload_id": name}
        console.take(
            provisioned(f"waiting-{name}"[:255], name, **named),
            failed(f"waiting-{name}"[:255], name, original_file_name=named["original_file_name"]),
            registered(f"open-{name}"[:255], name[:200], "e2"),
            provisioned(f"open-{name}"[:255], name, **named),
            registered(f"ready-{name}"[:255], name[:200]),
            provisioned(f"ready-{name}"[:255], name, **named),
            delivery(
                CONTENT_PROVISIONED, content(f"bad-{name}"[:255], name, file_size_bytes="many"), key=name.encode()
            ),
            delivery(BATCH_REGISTERED, b"no JSON \xff" + name.encode(), key=name.encode()),
        )
        console.take(provisioned(f"expired-{name}"[:255], name, **named))
    console.rows("update els.pending_content set state = 'expired', closed_at = now() where batch_id like 'expired-%%'")
    console.rows("update els.batches set timed_out_at = now() where batch_id like 'open-%%'")
    console.rows(
        "insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause)"
        " values ('huleedu.essay', 0, 1, 3, 'deleted')"
    )
    console.rows(
        "insert into els.outbox_blocked (batch_id, topic, seq, error, since, retry_at)"
        " select batch_id, 'huleedu.els.batch.essays.ready.v1', min(seq), batch_id, now(), now()"
        " from els.outbox_pages group by batch_id"
    )
