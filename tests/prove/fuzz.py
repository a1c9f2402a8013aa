"""Fuzzes the decoder, the reader of record batches and the command line.

Only the intended results are allowed: an event that can be stored or a rejection that can be displayed; records; or an
exit of the command line. With `python -m tests.prove.fuzz RUNS`, atheris chooses the mutations by code coverage.
"""

import asyncio
import inspect
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from functools import lru_cache
from io import StringIO
from typing import Any

import orjson
from aiokafka import TopicPartition

from service.cli import parser as commandline
from service.domain import incoming as events
from service.domain import json_limits
from service.domain.events import LONGEST_ERROR, Incoming, Rejection
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.scanning import scanned_batch_id
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS, VALIDATION_FAILED
from service.kafka.deliveries import open_batch
from service.kafka.record_batches import RecordBatch, Records
from tests.prove.report import Row, Task
from tests.support.builders.batches import CODECS, HEADER_BYTES, record_batch, signed
from tests.support.builders.inputs import CONTRACT

MAX_BYTES = 64 * 1024
SLOWEST = 1.0
"""Seconds that a record of at most `MAX_BYTES` may take, with a wide margin for a busy machine."""
LARGEST = 512 * 1024 * 1024
"""Bytes by which the process may grow."""

NASTY: Sequence[Any] = (
    None, True, False, 0, -1, 1, 1.5, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1e308, float("inf"),
    float("nan"), "", " ", "\0", "a\0b", "\ud800", "x\udfffy", "é" * 255, "x" * 255, "x" * 256, "5", "true", "null",
    "2026-01-15T09:00:00", "2026-01-15T09:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
    "1768469400", "00000000-0000-0000-0000-000000000000", "not-a-uuid", [], {}, [[]], [None], {"": None}, {"\0": 1},
    ["e1", "e1"], [1, 2], "ENG5", "eng5", BATCH_REGISTERED, CONTENT_PROVISIONED,
)  # fmt: skip
SPLICES = (
    b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"\\udc00", b"\\u0000", b"NaN", b"-Infinity",
    b"1e999", b"-0", b"01", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"[" * 80, b'{"a":' * 80, b"null",
    b'"batch_id":"b"', b'"batch_id":"b",', b',"entity_id":null', b'"data":', b"\\u0062", b'\\"', b"\\\\",
)  # fmt: skip


@lru_cache
def samples() -> list[tuple[str, bytes]]:
    """Returns every sample of the contract; those of our own events stand for records on a wrong topic."""
    found = [path.read_bytes() for path in sorted(CONTRACT.glob("*.json"))]
    return [(str(json.loads(value)["event_type"]), value) for value in found]


def mutated(dice: random.Random, value: bytes) -> bytes:
    """Returns a sample with errors in its structure, in its bytes or in both."""
    if dice.random() < 0.75:
        tree = json.loads(value)
        for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
            tree = _bent(dice, tree)
        value = json.dumps(tree, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    if dice.random() < 0.4:
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = corrupted(dice, value)
    return value


def _bent(dice: random.Random, tree: Any) -> Any:
    """Returns the tree with one node changed."""
    if not isinstance(tree, dict | list) or not tree or dice.random() < 0.03:
        return _nasty(dice, tree)
    key = dice.choice(list(tree)) if isinstance(tree, dict) else dice.randrange(len(tree))
    what = dice.random()
    if what < 0.1:
        del tree[key]
    elif what < 0.15 and isinstance(tree, dict):
        tree[dice.choice(("batch_id", "entity_id", "x", "metadata", str(key).upper()))] = _nasty(dice, tree[key])
    elif what < 0.2:
        other = dice.choice(list(tree)) if isinstance(tree, dict) else dice.randrange(len(tree))
        tree[key], tree[other] = tree[other], tree[key]
    else:
        tree[key] = _bent(dice, tree[key])
    return tree


def _nasty(dice: random.Random, value: Any) -> Any:
    if dice.random() < 0.1:
        for _ in range(dice.choice((1, 5, 63, 70))):
            value = [value] if dice.random() < 0.5 else {"a": value}
        return value
    if isinstance(value, str) and dice.random() < 0.3:
        at = dice.randint(0, len(value))
        return value[:at] + dice.choice([each for each in NASTY if isinstance(each, str)]) + value[at:]
    return deepcopy(dice.choice(NASTY))


def corrupted(dice: random.Random, value: bytes) -> bytes:
    """Returns the bytes with some inserted, removed, repeated or cut off."""
    start, end = sorted(dice.randint(0, len(value)) for _ in range(2))
    match dice.randrange(5):
        case 0:
            return value[:start] + dice.choice(SPLICES) + value[start:]
        case 1:
            return value[:start] + value[min(end, start + 40) :]
        case 2:
            return value[:start] + value[start : min(end, start + 200)] * 2 + value[start:]
        case 3:
            return value[:start] + dice.randbytes(dice.randint(1, 8)) + value[start:]
        case _:
            return value[:start]


def wrong_with(topic: str, value: bytes) -> str | None:
    """Returns a text that says what is wrong with the result of the decoder, or None."""
    try:
        event = events.decode(topic, value, max_bytes=MAX_BYTES)
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return f"{type(error).__name__}: {error}"
    if isinstance(event, Rejection):
        return _unshowable(event)
    if (scanned := scanned_batch_id(value)) not in (None, event.batch_id):
        return f"a scan takes batch {event.batch_id!r} for {scanned!r}"
    return _unkeepable(event)


def _unshowable(rejection: Rejection) -> str | None:
    try:
        rejection.error.encode()
    except UnicodeEncodeError:
        return f"a rejection of {rejection.reason} can't be shown"
    if len(rejection.error) > LONGEST_ERROR or "\0" in rejection.error:
        return f"a rejection of {rejection.reason} can't be kept: {rejection.error[:80]!r}"
    return None


def _unkeepable(event: Incoming) -> str | None:
    """Checks, independently of the decoder, what JSON and PostgreSQL accept."""
    kept = event._asdict()
    try:
        text = orjson.dumps(kept).decode()
    except (orjson.JSONEncodeError, UnicodeDecodeError) as error:
        return f"accepted, and can't be written: {error}"
    if "\\u0000" in text.replace("\\\\", ""):
        return "accepted with a NUL"
    for name in ("batch_id", "text_storage_id", "file_upload_id", "raw_file_storage_id"):
        if not 1 <= len(kept.get(name, "x")) <= 255:
            return f"accepted with a {name} of {len(kept[name])} characters"
    if not 0 <= kept.get("file_size_bytes", 0) < 2**63:
        return "accepted with an impossible size"
    essays = kept.get("essay_ids", ("e",))
    return None if essays and len(set(essays)) == len(essays) else "accepted with essays that are none or not distinct"


def wrong_with_batch(raw: bytes) -> str | None:
    """Returns a text that says what is wrong with reading a record batch, or None."""
    try:
        reading = Records(raw)
        while reading.has_next():
            asyncio.run(_unpacked(reading.next_batch()))
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


async def _unpacked(batch: RecordBatch) -> None:
    opened = await open_batch(TopicPartition(CONTENT_PROVISIONED, 0), batch, DEFAULT_LIMITS)
    while not opened.is_done:
        for record in (await opened.take(100, DEFAULT_LIMITS.poll_bytes))[0]:
            record.value, record.key, record.headers  # noqa: B018


WORDS = (
    "run", "check", "migrate", "purge", "audit", "topics", "create", "quarantine", "list", "show", "resume", "replay",
    "discard", "batches", "republish", "pending", "remove", "clear", "restore", "--json", "--limit", "--after",
    "--before", "--all", "--why", "--older-than", "--help", "0", "-1", "1", "99999999999999999999", "1e9", "5m", "x",
    "\0", "\udcff", "x" * 300, "2026-01-01T00:00:00Z/1", "/", "", "²",
)  # fmt: skip


def wrong_with_arguments(arguments: Sequence[str]) -> str | None:
    """Returns a text that says what is wrong with parsing the arguments, or None."""
    try:
        with suppress(SystemExit), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            commandline.parser().parse_args(list(arguments))
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return f"{arguments!r}: {type(error).__name__}: {error}"
    return None


def fuzz(task: Task, most: int) -> list[Row]:
    """Tries mutated samples until the time is over or `most` were tried, then the other inputs."""
    dice = random.Random(task.seed)
    decoder = Row("fuzz", "decoder, mutated samples", unit="records")
    answers: Counter[str] = Counter()
    slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    while decoder.runs < most and not (decoder.runs % 1000 == 0 and task.is_over):
        topic, sample = dice.choice(samples())
        if topic not in INCOMING_TOPICS or dice.random() < 0.02:
            topic = dice.choice(INCOMING_TOPICS)
        value = mutated(dice, sample)
        begun = time.perf_counter()
        wrong = wrong_with(topic, value)
        slowest = max(slowest, time.perf_counter() - begun)
        decoder.runs += 1
        if wrong:
            decoder.found.append(f"{topic} {value[:2000]!r}: {wrong}")
        if decoder.runs % 5000 == 0:
            task.report(f"{decoder.runs:,} records")
        if not wrong and decoder.runs % 100 == 0:  # counts some results: they must not all be of one kind
            answer = events.decode(topic, value, max_bytes=MAX_BYTES)
            answers[answer.reason if isinstance(answer, Rejection) else "accepted"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if slowest > SLOWEST:
        decoder.found.append(f"one record took {slowest:.1f} s")
    if grown > LARGEST:
        decoder.found.append(f"the process has grown by {grown} bytes")
    decoder.seconds = time.monotonic() - started
    decoder.more = {
        "slowest ms": slowest * 1000,
        "grown MiB": grown / 2**20,
        "of every 100th": dict(answers.most_common()),
    }
    return [
        decoder,
        _tried("reader of record batches", most // 10, lambda: wrong_with_batch(_broken_batch(dice))),
        _tried(
            "command line",
            most // 200,
            lambda: wrong_with_arguments([dice.choice(WORDS) for _ in range(dice.randint(0, 6))]),
        ),
    ]


def _broken_batch(dice: random.Random) -> bytes:
    """Returns a record batch with an error in it, mostly with a correct checksum."""
    codec = dice.choice(list(CODECS))
    whole = record_batch([b"one", None, b"three" * 50], compression=codec)
    if dice.random() < 0.2:
        return corrupted(dice, whole)
    header, body = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
    return signed(header, corrupted(dice, body), CODECS[codec][0])


def _tried(what: str, times: int, once: Callable[[], str | None]) -> Row:
    started = time.monotonic()
    row = Row("fuzz", what, runs=times)
    row.found = [wrong for _ in range(times) if (wrong := once())]
    row.seconds = time.monotonic() - started
    return row


# -- guided by code coverage


def guided(runs: int) -> Row:
    """Tries `runs` records that atheris chooses, in a separate process, which atheris ends itself."""
    row = Row("fuzz", "decoder, guided by coverage (atheris)", unit="records")
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "tests.prove.fuzz", str(runs)], capture_output=True, text=True, check=False
    )
    row.seconds = time.monotonic() - started
    if ended.returncode == NOT_HERE:
        row.more["left out"] = "atheris is not installed"
        return row
    row.runs = runs
    if ended.returncode:
        row.found.append(ended.stderr[-2000:])
    return row


NOT_HERE = 77


def _guide(runs: int) -> None:
    try:
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        sys.exit(NOT_HERE)
    topics = (CONTENT_PROVISIONED, BATCH_REGISTERED, VALIDATION_FAILED)

    def once(data: bytes) -> None:
        wrong = wrong_with(topics[data[0] % 3], data[1:]) if data else None
        if wrong:
            raise AssertionError(wrong)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if len(data) < 2 or dice.random() < 0.3:
            topic, sample = dice.choice([each for each in samples() if each[0] in topics])
            return (bytes([topics.index(topic)]) + mutated(dice, sample))[:most]
        if dice.random() < 0.5:
            return (data[:1] + corrupted(dice, data[1:]))[:most]
        return bytes(atheris.Mutate(data, most))

    for module in (events, json_limits):
        for name, each in inspect.getmembers(module, inspect.isfunction):
            if each.__module__ in (events.__name__, json_limits.__name__):
                setattr(module, name, atheris.instrument_func(each))
    atheris.Setup([sys.argv[0], f"-runs={runs}", "-max_len=20000", "-verbosity=0"], once, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    _guide(int(sys.argv[1]))
