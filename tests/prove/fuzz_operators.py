"""Fuzzes the requests and commands of operators.

Each HTTP response must be one that the OpenAPI document describes. A command that fails must print one line, never a
traceback. The database is available all the time, so no response may say that it is not.
"""

import asyncio
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any
from unittest import mock
from urllib.parse import quote_from_bytes

from aiohttp import ClientSession
from yarl import URL

from service import __main__
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import CONTENT_PROVISIONED
from service.http import admin
from service.http.server import Http
from service.intake.intake import Intake
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.runtime.health import Health
from service.runtime.tokens import Tokens
from tests.prove.fuzz import WORDS, _nasty, corrupted
from tests.prove.report import Row, Task
from tests.support.builders.inputs import content, delivery, provisioned, registered
from tests.support.pods.applier import forget

TOKEN = "token"
ANSWERS = {200, *admin.PROBLEMS.keys(), 405, 415} - {401, 503}
FITTING: Mapping[str, Sequence[Any]] = {
    "batch": ("b", "ready", "open", "nobody"), "text": ("c0", "c1", "c2"), "texts": (["c1"], ["c1", "c2"], ["c0", "x"]),
    "state": ("pending", "open", "ready"), "limit": (1, 5, 1000), "id": (1, 2, 3), "ids": ([1], [2, 3], [99]),
    "all": (True, False), "after": ("2026-11-22T08:00:00Z/1", 1, "b"), "before": (1, 9), "older_than": ("1s", "2h"),
    "newer_than": ("90s", "1d"), "topic": (CONTENT_PROVISIONED,), "reason": ("not_json",), "user": ("teacher",),
    "dry_run": (True, False), "slots": (True, False), "excess": (True, False),
    "file": ("txt", "%"), "who": ("me",), "why": ("", "x'; --"), "wait": (1,),
}  # fmt: skip
"""Plausible values, by the name of the parameter."""

ANYTHING = tuple(each for some in FITTING.values() for each in some)

COMMANDS = (
    "pending list", "pending show b c1", "pending remove --yes b c1", "pending clear --yes b", "pending clear b",
    "pending restore b", "quarantine list", "quarantine show 1", "quarantine replay 1 2", "quarantine replay --all",
    "quarantine discard --yes 3", f"quarantine resume {CONTENT_PROVISIONED}", "batches list", "batches show ready",
    "batches republish ready", "pending restore --all", "batches close --yes open",
    "batches cancel --yes open --reason OTHER",
)  # fmt: skip
OPTIONS = ("json", "limit", "after", "before", "all", "slots", "excess", "why", "who", "older-than", "newer-than",
           "file", "state", "topic", "reason", "user", "batch", "dry-run")  # fmt: skip


async def something_there(database: Database) -> None:
    """Creates a ready batch, pending content and rows in quarantine."""
    some = [
        registered("ready", "e1"),
        registered("open", "e1"),
        provisioned("ready", "c0"),
        provisioned("b", "c1"),
        provisioned("b", "c2"),
    ]
    rejected = [delivery(CONTENT_PROVISIONED, value) for value in (b"{", b"\xff\0", content("b", "c" * 300), None)]
    await Intake(database, IntakeLimits(), Health("database"), forget).take([*some, *rejected])


def _said(dice: random.Random, name: str = "") -> Any:
    """Returns a random value for a parameter."""
    if name in FITTING and dice.random() < 0.8:
        return dice.choice(FITTING[name])
    known = dice.choice(ANYTHING)
    return known if dice.random() < 0.3 else _nasty(dice, known)


def _text(dice: random.Random, name: str = "") -> str:
    said = _said(dice, name)
    return said if isinstance(said, str) else dice.choice(WORDS) if dice.random() < 0.2 else str(said)[:500]


def request(dice: random.Random) -> tuple[str, str, dict[str, str], bytes | None]:
    """Returns method, path with query, headers and body; mostly of an endpoint, with some errors."""
    endpoint = dice.choice(admin.ENDPOINTS)
    method = endpoint.method if dice.random() < 0.95 else dice.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS"))
    path = endpoint.path if dice.random() < 0.95 else f"/admin/{_quoted(dice, _text(dice))}"
    fields = endpoint.request.model_fields
    # Nothing publishes here, so that a request with the default of `wait` would take that long.
    always = {name for name, field in fields.items() if field.is_required() or name == "wait"}
    names = [name for name in fields if dice.random() < (0.97 if name in always else 0.3)]
    if dice.random() < 0.05:
        names.append(_text(dice))
    if endpoint.method == "GET":
        query = "&".join(f"{_quoted(dice, name)}={_quoted(dice, _text(dice, name))}" for name in names)
        return method, f"{path}?{query}", {}, None
    said = {name: _said(dice, name) for name in names} if dice.random() < 0.95 else _said(dice)
    body = json.dumps(said, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    if dice.random() < 0.05:
        body = corrupted(dice, body)
    kind = "application/json" if dice.random() < 0.97 else dice.choice(("text/plain", "application/json; charset=x"))
    return method, path, {"Content-Type": kind}, body


def _quoted(dice: random.Random, text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")[:3000]
    return quote_from_bytes(corrupted(dice, raw) if dice.random() < 0.03 else raw, safe="")


async def _asked(client: ClientSession, root: str, dice: random.Random, answers: Counter[str]) -> str | None:
    method, path, headers, body = request(dice)
    asked = f"{method} {path[:500]} {headers} {body[:500] if body else ''!r}"
    url = URL(root + path, encoded=True)
    async with client.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
        raw = await answer.read()
    answers[str(answer.status)] += 1
    if answer.status not in ANSWERS:
        return f"{asked}: answered with {answer.status} {raw[:500]!r}"
    kind = "application/json" if answer.status == 200 else "application/problem+json"
    if answer.content_type != kind and path.partition("?")[0] not in ("/admin/", "/admin/openapi.json"):
        return f"{asked}: {answer.status} answered as {answer.content_type}"
    if answer.content_type.endswith("json"):
        told = json.loads(raw)
        if answer.status != 200 and told.get("status") != answer.status:
            return f"{asked}: {answer.status} told as {told}"
    return None


async def _fuzz_admin(url: str, task: Task, times: int) -> Row:
    row = Row("fuzz", "/admin/", unit="requests")
    dice, answers, started = random.Random(task.seed), Counter[str](), time.monotonic()
    database = Database(url, pool_size=2)
    operations = Operations(database, IntakeLimits(), InputLimits())

    async def nothing() -> None:
        """Reads nothing."""

    http = Http("127.0.0.1", 0, Health(), nothing, {"/admin/": admin.application(operations, Tokens(TOKEN, None))})
    await http.start()
    try:
        async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            for number in range(times):
                if number % 500 == 0:
                    if task.is_over:
                        break
                    await something_there(database)
                    task.report(f"{number:,} requests")
                row.runs += 1
                if wrong := await _asked(client, f"http://127.0.0.1:{http.port}", dice, answers):
                    row.found.append(wrong)
    finally:
        await http.close()
        await database.close()
    row.seconds, row.more = time.monotonic() - started, {"answers": dict(sorted(answers.items()))}
    return row


def arguments(dice: random.Random) -> list[str]:
    """Returns an operator command with random arguments."""
    said = [each if dice.random() < 0.9 else _text(dice) for each in dice.choice(COMMANDS).split()]
    for name in dice.sample(OPTIONS, dice.choice((0, 0, 1, 1, 2))):
        said += [f"--{name}"] if name in ("json", "all") else [f"--{name}", _text(dice, name.replace("-", "_"))]
    if dice.random() < 0.1:
        said.insert(dice.randint(0, len(said)), dice.choice(WORDS))
    return said


def wrong_with_command(said: Sequence[str], answers: Counter[str]) -> str | None:
    """Returns a text that says what is wrong with the end of a command, or None."""
    out, err = TextIOWrapper(BytesIO(), "utf-8"), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), mock.patch("sys.stdin", StringIO("no\n")):
            status = __main__.main(said)
            out.flush()
    except SystemExit as ended:  # of argparse
        status = int(ended.code or 0)
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return f"{said!r}: {type(error).__name__}: {error}"
    answers[str(status)] += 1
    told = err.getvalue()
    if status not in (0, 1, 2) or "Traceback" in told or "ELS_DATABASE_URL" in told:
        return f"{said!r}: ended with {status}: {told[-500:]}"
    if status and not re.search(r"\S", told):
        return f"{said!r}: ended with {status}, and does not say why"
    return None


def _fuzz_commands(url: str, task: Task, times: int) -> Row:
    row = Row("fuzz", "commands of operators", unit="commands")
    dice, answers, started = random.Random(task.seed), Counter[str](), time.monotonic()
    settings: Mapping[str, str] = {
        "ELS_DATABASE_URL": url,
        "ELS_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "COLUMNS": "80",
    }
    with mock.patch.dict(os.environ, settings):
        while row.runs < times and not (row.runs % 50 == 0 and task.is_over):
            if row.runs % 500 == 0:
                asyncio.run(_prepare(url))
                task.report(f"{row.runs:,} commands")
            row.runs += 1
            if wrong := wrong_with_command(arguments(dice), answers):
                row.found.append(wrong)
    row.seconds, row.more = time.monotonic() - started, {"statuses": dict(sorted(answers.items()))}
    return row


async def _prepare(url: str) -> None:
    database = Database(url, pool_size=1)
    await something_there(database)
    await database.close()


def fuzz_operators(url: str, task: Task, times: int) -> list[Row]:
    """Tries at most `times` requests and a fifth as many commands on the database at `url`."""
    return [asyncio.run(_fuzz_admin(url, task, times)), _fuzz_commands(url, task, times // 5)]
