"""The programs that docs/events.md gives an integrator keep a table of the batches that they register."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.domain.topics import CONTENT_PROVISIONED
from tests.support.builders.inputs import content
from tests.support.builders.replay import Record, Replay

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def rows(file: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as table:
        return table.execute("select batch_id, state, essays from batches").fetchall()


async def test_the_programs_of_the_docs_keep_a_table_of_what_they_register(
    tmp_path: Path, settings: dict[str, str], kafka: Broker
) -> None:
    for name, text in re.findall(r'(?s)```python\n("""(\w+\.py): .+?)```', PAGE.read_text()):
        (tmp_path / text).write_text(name)
    environment = os.environ | kafka.settings
    with pods(tmp_path, settings) as running:
        running.start(1)
        await running.ready()
        keeper = await asyncio.create_subprocess_exec(sys.executable, "keep_batches.py", cwd=tmp_path, env=environment)
        try:
            register = await asyncio.create_subprocess_exec(
                *(sys.executable, "register_batch.py"), cwd=tmp_path, env=environment, stdout=subprocess.PIPE
            )
            batch_id = (await register.communicate())[0].decode().strip()
            texts = [Record(0, CONTENT_PROVISIONED, each.encode(), content(batch_id, each)) for each in ("t1", "t2")]
            await Replay(kafka, texts).run()
            file = tmp_path / "batches.db"
            await until(
                lambda: file.exists() and [state for _, state, _ in rows(file)] == ["ready"], 90, lambda: str(file)
            )
            [(kept, _, essays)] = rows(file)
            assert kept == batch_id
            assert all(each in essays for each in ("t1", "t2"))
            assert keeper.returncode is None
        finally:
            keeper.kill()
            await keeper.wait()
        assert await running.stop() == [0]
