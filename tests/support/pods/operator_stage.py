"""Applies polls to a database, runs commands in processes of their own, and reads what operators changed."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.processes import plain_environment
from service.domain.cells import ALL_BATCHES, Slice
from service.domain.delivery import Delivery, IntakeLimits
from service.intake.intake import Intake
from service.postgres.pool import Database
from service.runtime.health import Health
from tests.support.pods.applier import forget
from tests.support.pods.command_line import NOBODY, ROOT


class ApplyingPod:
    """The part of a pod that applies polls."""

    def __init__(self, url: str, of: Slice = ALL_BATCHES) -> None:
        self._url = url
        self._of = of

    def take(self, *deliveries: Delivery) -> None:
        """Apply records as the consumer would, in an event loop of its own like that of the command line."""
        asyncio.run(self._take(deliveries))

    async def _take(self, deliveries: tuple[Delivery, ...]) -> None:
        database = Database(self._url, pool_size=1, of=self._of)
        outcome = await Intake(database, IntakeLimits(), Health("database"), forget).take(deliveries)
        assert (outcome.deferred, outcome.not_admitted) == ([], [])
        await database.close()


def expire(conn: psycopg.Connection[Any], *texts: str) -> None:
    """Expire content as a purge round would."""
    conn.execute(
        "update els.pending_content set state = 'expired', closed_at = now(), waiting_since = now() - interval '2 days'"
        " where text_storage_id = any(%s)",
        [list(texts)],
    )


def expire_failures(conn: psycopg.Connection[Any], *uploads: str) -> None:
    """Expire waiting failures as a purge round would: those of these uploads, or all."""
    conn.execute(
        "update els.validation_failures set state = 'expired', closed_at = now()"
        " where state = 'pending' and (%(uploads)s::text[] = '{}' or file_upload_id = any(%(uploads)s))",
        {"uploads": list(uploads)},
    )


def states(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Returns the state of each content that waits or waited."""
    rows = conn.execute("select text_storage_id, state from els.pending_content order by arrival").fetchall()
    return dict(rows)


def written(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Returns the log of operator actions."""
    return conn.execute("select who, action, batch_id, topic, why, details from ops.operator_actions").fetchall()


def environment(app_url: str) -> dict[str, str]:
    """Returns the environment of a command in a process of its own."""
    return {
        **plain_environment(),
        "PYTHONPATH": str(ROOT),
        "ELS_DATABASE_URL": app_url,
        "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        "TERM": "xterm",
    }


def in_a_process(
    app_url: str, folder: Path, *arguments: str, stdin: int | None = None, stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment(app_url),
        cwd=folder,
        text=True,
        timeout=60,
        check=False,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
