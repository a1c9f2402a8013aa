"""Migrates to the newest schema while pods of older code run, and replaces them one after the other.

Neither release may fail, and no event is lost, repeated or out of order. The older code comes from the history of this
repository; in a clone without it the test is skipped. In CI it fails if the history is there and the code is not.
"""

import asyncio
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from deploy.local.processes import plain_environment
from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import ROOT, pods, until
from service.postgres import migration
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.expected import all_done, check_tables, check_topics

PAGES = "select pages from els.outbox_format"
PAGES_SINCE = "0004"
PARTS = ("service", "sql", "migrations", "alembic.ini")


def unavailable(why: str) -> NoReturn:
    if os.environ.get("CI") and (ROOT / ".git").is_dir() and not (ROOT / ".git" / "shallow").exists():
        pytest.fail(why)
    pytest.skip(why)


def git(*arguments: str) -> bytes:
    ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if ended.returncode:
        unavailable(f"the code of older revisions is not available: {ended.stderr.decode().strip()}")
    return ended.stdout


def checked_out(revision: str, folder: Path) -> Path:
    """Checks out the newest code that expects this schema revision. Returns its folder."""
    for commit in git("log", "--format=%H").decode().split():
        # In whichever module declared it then.
        declared = git("grep", "-h", "^EXPECTED_REVISION: Final = ", commit, "--", "service")
        expects = re.search(rb'"(\d+)"', declared)
        if expects and expects[1].decode() == revision:
            with tarfile.open(fileobj=io.BytesIO(git("archive", commit, *PARTS))) as tree:
                tree.extractall(folder, filter="data")
            return folder
    unavailable(f"the history does not go back to the code of revision {revision}")


def migrated(tree: Path, folder: Path, settings: dict[str, str]) -> None:
    """Runs `migrate` of the code in `tree`."""
    environment = {**plain_environment(), **settings, "PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, "-m", "service", "migrate"], env=environment, cwd=folder, check=True)


HEAD = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_revision("head")
PREVIOUS, OLDEST = HEAD.down_revision, HEAD.module.oldest_code


async def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        return await (await conn.execute(statement.encode())).fetchall()


@pytest.mark.only_in_test_all("a migration under load")
@pytest.mark.parametrize("revision", [PREVIOUS, OLDEST])
async def test_a_release_replaces_an_older_one_under_load(
    tmp_path: Path, server_url: str, apache: Broker, group: str, revision: str
) -> None:
    old = checked_out(revision, tmp_path / "old")
    records = replay.morning()
    morning = Replay(apache, records, speed=40, holds_back=len(records) // 3)
    with databases.created(server_url, "template0") as url:
        settings = {
            "ELS_DATABASE_URL": databases.url_as(url, "els_app"),
            **apache.settings,
            "ELS_CONSUMER_GROUP": group,
        }
        await asyncio.to_thread(migrated, old, tmp_path, settings | {"ELS_DATABASE_URL": url})
        with pods(tmp_path, settings) as running:
            before = running.start(2, PYTHONPATH=str(old))
            await running.ready()
            published = asyncio.create_task(morning.run())
            await until(lambda: morning.published > len(records) // 3, 60, lambda: "nothing is published")
            await asyncio.to_thread(migration.upgrade, url)
            assert not published.done(), "the migration ran after the replay had ended"
            if revision < PAGES_SINCE:
                assert await query(url, PAGES) == [(False,)], "relays of the older release can not read pages"
            (new,) = running.start()
            await new.ready()  # the oldest code calls itself not ready on a newer schema, and works on
            for pod in before:
                pod.terminate()
                assert await pod.ended() == 0
            ((older_until,),) = await query(url, "select now()")
            assert not published.done(), "the pods were replaced after the replay had ended"

            async def writes_pages() -> bool:
                return await query(url, PAGES) == [(True,)]

            await until(writes_pages, 60, running.all[-1].last_lines)
            morning.may_end.set()
            await published
            await all_done(url, apache, group, morning.ends)
            assert await query(url, "select from els.outbox") == []
            await check_tables(url)
            assert (await check_topics(url, apache, records, older_until)).repeats == 0
            events = [entry["event"] for pod in running.all for entry in pod.logged()]
            # "trouble" was the name of background_task_failed in older code.
            assert not {"trouble", "background_task_failed", "part_failed", "transaction_failed"} & set(events)
            assert await query(url, "select from els.recovery union all select from els.lost_inputs") == []
            assert await query(url, "select from els.progress where previous_release") == []
            assert await running.stop() == [0, 0, 0]
