"""Runs a steady load until the time is over, with purge, relay, autovacuum and regular rebalances.

Samples and draws what must not grow: memory of the pods, sessions, sizes of tables and indexes, lag, latency.
"""

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
from aiokafka.errors import KafkaError

from service.domain.topics import CONTENT_PROVISIONED
from tests.prove.faults import GROUP, World, _idle, world_of
from tests.prove.load import Load
from tests.prove.report import Row, Task
from tests.support.checks.audited import audited

EVERY = 5.0
REBALANCE_EVERY = 60.0

SAMPLES = """
    select
        (select count(*) from pg_stat_activity where application_name = 'essay-lifecycle-service'),
        (select count(*) from els.outbox_pages),
        (select count(*) from els.pending_content),
        pg_total_relation_size('els.outbox_pages') / 1048576.0,
        pg_total_relation_size('els.pending_content') / 1048576.0,
        pg_total_relation_size('els.slots') / 1048576.0 / greatest(1, (select sum(assigned) from els.batches)) * 1000
"""
NAMES = (
    "sessions", "rows in the outbox", "pending rows", "outbox MiB", "pending MiB", "slots MiB per 1,000 contents"
)  # fmt: skip

Series = dict[str, list[tuple[float, float]]]


async def soak(task: Task, *, apache: bool, rate: float, plots: Path) -> list[Row]:
    """Runs the load until the time is over, then the audit. Writes the plots to the folder `plots`."""
    with TemporaryDirectory(prefix="els-soak-", ignore_cleanup_errors=True) as folder:
        async with world_of(Path(folder), random.Random(task.seed), apache=apache, count=2, fillable=False) as world:
            return [await _soak(world, task, rate, plots)]


async def _soak(world: World, task: Task, rate: float, plots: Path) -> Row:
    row = Row("soak", f"{rate:.0f} records/s on {world.broker.name}", unit="records")
    stop, loaded = asyncio.Event(), Load(world.broker, task.seed, ahead=20_000, rate=rate)
    beside = [
        asyncio.create_task(each) for each in (loaded.run(stop), world.supervise(stop), world.follow(loaded, stop))
    ]
    series: Series = defaultdict(list)
    started = rebalanced = time.monotonic()
    try:
        while not task.is_over:
            now = time.monotonic()
            await _sample(world, loaded, series, now - started)
            task.report(f"{loaded.sent.total():,} records")
            if now - rebalanced > REBALANCE_EVERY:
                rebalanced = now
                world.dice.choice(world.pods.all).terminate()
            await asyncio.sleep(EVERY)
        stop.set()
        await asyncio.gather(*beside)
        await _idle(world)
        report = await audited(world.postgres.url(), world.broker, GROUP)
        row.found = [str(finding) for finding in report.findings]
        row.more["content events"] = report.counts[f"records of {CONTENT_PROVISIONED}"]
    except (AssertionError, psycopg.Error, KafkaError, OSError) as error:
        row.found.append(f"{type(error).__name__}: {error}")
    finally:
        stop.set()
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    row.runs, row.seconds = loaded.sent.total(), time.monotonic() - started
    _draw(row, series, plots)
    return row


def _draw(row: Row, series: Series, plots: Path) -> None:
    plots.mkdir(parents=True, exist_ok=True)
    for name, points in series.items():
        values = [value for _, value in points]
        row.more[name] = f"{values[len(values) // 3]:.1f} → {values[-1]:.1f}, most {max(values):.1f}"
        (plots / f"{name.replace(' ', '-').replace(',', '')}.svg").write_text(drawn(name, points))


async def _sample(world: World, loaded: Load, series: Series, at: float) -> None:
    with suppress(psycopg.Error, psutil.Error):
        found = (await asyncio.to_thread(world.sql, SAMPLES))[0]
        for name, value in zip(NAMES, found, strict=True):
            series[name].append((at, float(value or 0)))
        processes = [psutil.Process(pod._process.pid) for pod in world.pods.all if pod._process]
        series["largest pod MiB"].append((at, max(each.memory_info().rss for each in processes) / 2**20))
    series["lag in records"].append((at, loaded.sent.total() + world.probed - loaded.done))
    series["seconds to be announced"].append((at, await world.recovered()))


WIDTH, HEIGHT, LEFT, BOTTOM = 640, 200, 60, 24


def drawn(name: str, points: list[tuple[float, float]]) -> str:
    """Returns an SVG with one line over time."""
    longest = max([at for at, _ in points] + [1.0])
    most = max([value for _, value in points] + [1e-9]) * 1.1
    across, up = (WIDTH - LEFT - 10) / longest, (HEIGHT - BOTTOM - 24) / most
    line = " ".join(f"{LEFT + at * across:.1f},{HEIGHT - BOTTOM - value * up:.1f}" for at, value in points)
    words = 'font-family="sans-serif" font-size="11" fill="#555"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="14" {words}>{name}</text>'
        f'<path d="M{LEFT},20 V{HEIGHT - BOTTOM} H{WIDTH - 10}" fill="none" stroke="#999"/>'
        f'<text x="{LEFT - 6}" y="32" text-anchor="end" {words}>{most:,.1f}</text>'
        f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end" {words}>0</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 8}" text-anchor="end" {words}>{longest:.0f} s</text>'
        f'<polyline points="{line}" fill="none" stroke="#1667a8" stroke-width="1.5"/></svg>\n'
    )
