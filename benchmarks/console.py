"""Measures the console's pages on a database that has stored much: the time of each page and search on the server.

A pod with the role `console` alone serves them, so nothing else changes the tables. Each page is opened once before it
is measured.
"""

import argparse
import asyncio
import time
from collections.abc import Mapping

import psycopg
from aiohttp import ClientSession, CookieJar

from benchmarks import servers, stored
from benchmarks.report import Report

LIMIT_MS = 300

TOKEN = "a-token-of-operators"  # noqa: S105
"""Of the console of a pod that is measured."""

SOME = """
    select
        batches.batch_id, batches.correlation_id::text, batches.user_id, essay_id, text_storage_id, file_upload_id,
        original_file_name
    from els.batches
    inner join els.slots on slots.batch_id = batches.batch_id and slots.state = 'assigned'
    where batches.batch_id = md5('batch ' || %s::int)::uuid::text
    order by position
    limit 1
"""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("console")
    with server.database() as url, servers.broker() as kafka:
        begun = time.monotonic()
        stored.fill(url, options.slots, options.pending, options.quarantined)
        report.notes.append(
            f"{options.slots} slots, {options.pending} pending, {options.quarantined} quarantined;"
            f" filled in {time.monotonic() - begun:.0f} s"
        )
        settings = {"ELS_ADMIN_TOKEN": TOKEN, "ELS_HTTP_PORT": "0"}
        with servers.service(url, kafka, **settings) as pods:
            (pod,) = pods.start(1, arguments=["--roles", "console"])
            asyncio.run(pods.ready())
            port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
            found = asyncio.run(timed(f"http://127.0.0.1:{port}", addresses(url, options.slots), options.repeat))
            report.add("pod memory, peak", "MiB RSS", servers.memory_mib(pod.pid)[1], better="less", watermark=150)
    for name, seconds in found.items():
        report.add(name, "ms", [each * 1000 for each in seconds], better="less", watermark=LIMIT_MS)
    worst = max(max(seconds) for seconds in found.values()) * 1000
    report.add("the slowest time of all pages", "ms", worst, better="less", watermark=LIMIT_MS)
    return report


def addresses(url: str, slots: int) -> Mapping[str, tuple[str, dict[str, str]]]:
    """Returns each page, and what can be searched on it: its address below /console/, and the parameters."""
    middle = slots // stored.EACH // 2 + 7
    with psycopg.connect(url) as conn:
        row = conn.execute(SOME, [middle]).fetchone()
        waiting = conn.execute(
            "select batch_id, original_file_name from els.pending_content where state = 'pending'"
            " order by waiting_since offset 1000 limit 1"
        ).fetchone()
        rejected = conn.execute("select id, batch_id from els.quarantine where batch_id is not null limit 1").fetchone()
    assert row
    assert waiting
    assert rejected
    batch, correlation, user, essay, text, upload, name = row
    topic = "huleedu.file.essay.content.provisioned.v1"
    found: dict[str, tuple[str, dict[str, str]]] = {
        each or "overview": (each, {})
        for each in ("", "find", "waiting", "late", "quarantine", "topics", "outbox", "actions", "system")
    }
    for about, given in (
        ("batch", batch), ("batch that waits", waiting[0]), ("correlation id", correlation), ("user", user),
        ("essay", essay), ("text", text), ("upload", upload), ("file name", name),
        ("half a file name", name.rpartition(" uppsats")[0]), ("a name in nearly every batch", "uppsats"),
        ("a person", name.split()[0]), ("nothing that exists", "no such name"),
    ):  # fmt: skip
        found[f"find: {about}"] = "find", {"text": given}
    found |= {
        "batch": ("batch", {"id": batch}),
        "batch that waits": ("batch", {"id": waiting[0]}),
        "waiting: batch": ("waiting", {"batch": waiting[0]}),
        "waiting: half a file name": ("waiting", {"file": waiting[1].rpartition(" uppsats")[0]}),
        "waiting: a name in nearly every file": ("waiting", {"file": "uppsats"}),
        "waiting: nothing that exists": ("waiting", {"file": "no such name"}),
        "quarantine: topic and reason": ("quarantine", {"topic": topic, "reason": "missing_field"}),
        "quarantine: a reason that is rare": ("quarantine", {"topic": topic, "reason": "not_utf8"}),
        "quarantine: a day": ("quarantine", {"since": "21d", "until": "20d"}),
        "quarantine: batch": ("quarantine", {"batch": rejected[1]}),
        "quarantine: contains": ("quarantine", {"contains": "lorem ipsum"}),
        "quarantine: contains nothing that exists": ("quarantine", {"contains": "no such text"}),
        "quarantine: an input": ("quarantine/input", {"id": str(rejected[0])}),
        "actions: of a person": ("actions", {"who": "person 7"}),
        "actions: of nobody": ("actions", {"who": "nobody"}),
        "actions: of a batch": ("actions", {"batch": batch}),
        "actions: of a day": ("actions", {"since": "2020-01-01", "until": "2020-01-02"}),
    }
    return found


async def timed(origin: str, pages: Mapping[str, tuple[str, dict[str, str]]], repeat: int) -> dict[str, list[float]]:
    """Opens each page `repeat` times, all of them in turn. Returns the seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in pages}
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
        await log_in(client, origin)
        for number in range(repeat + 1):
            for name, (path, parameters) in pages.items():
                begun = time.perf_counter()
                async with client.get(f"{origin}/console/{path}", params=parameters) as response:
                    text = await response.text()
                if response.status != 200 or 'id="main"' not in text:
                    raise RuntimeError(f"{name}: status {response.status}: {text[-800:]}")
                if number:  # the first round warms up
                    found[name].append(time.perf_counter() - begun)
    return found


async def log_in(client: ClientSession, origin: str) -> None:
    """Begins a session of the console, which the client keeps. Its cookie jar must accept those of IP addresses."""
    form = {"who": "bench", "token": TOKEN, "next": "/console/"}
    async with client.post(f"{origin}/console/login", data=form, headers={"Origin": origin}) as response:
        response.raise_for_status()
