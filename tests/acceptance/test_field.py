"""The short form of `make prove ARGS=field`: some cells on one broker and one database, which they share.

The judge must be able to find against the service: it is shown what a faulty one would leave.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from confluent_kafka import Producer

from tests.prove.field.batches import Verdict
from tests.prove.field.cells import CELLS
from tests.prove.field.cells.pods import ONE
from tests.prove.field.environment import missing
from tests.prove.field.play import Cell, Play
from tests.prove.field.play import played as play_in
from tests.prove.field.run import Servers, play, servers
from tests.prove.field.topics import CONTENT, READY, SLOT, Seen

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

SHORT = [cell for cell in CELLS if cell.in_ci]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field_servers() -> AsyncIterator[Servers]:
    if why := missing():
        pytest.skip(why)
    async with servers() as kept:
        yield kept


@pytest.mark.parametrize("cell", SHORT, ids=[cell.what for cell in SHORT])
async def test_nothing_is_lost_or_contradicted(field_servers: Servers, cell: Cell) -> None:
    outcome = await play(cell, field_servers, seed=1)
    assert outcome.passed, (outcome.findings[:5], outcome.said)


async def test_a_fault_that_is_not_named_fails_its_cell(field_servers: Servers) -> None:
    async def no_fault(played: Play) -> None:
        await played.send(played.batches(30))

    cell = Cell("a fault", ONE, no_fault, names="what nobody says")
    outcome = await play_in(cell, await field_servers.of(ONE), seed=1)
    assert (outcome.lost, outcome.contradicted, outcome.errors) == ([], [], [])
    assert outcome.late == ["never reported: nothing said matches 'what nobody says'"]
    assert not outcome.passed


def records_of(played: Play, topic: str) -> list[Seen]:
    return [record for record in played.judge.records if record.topic == topic]


async def publish(played: Play, record: Seen, **changed: object) -> None:
    """Publishes a record of the service once more, with another value, partition or headers."""
    producer = Producer({"bootstrap.servers": played.world.kafka.servers})
    options: dict[str, object] = {"value": record.value, "headers": record.headers, "partition": record.place[0]}
    producer.produce(record.topic, key=record.key, **{**options, **changed})  # type: ignore[arg-type]
    assert await asyncio.to_thread(producer.flush, 30) == 0


async def repeat(played: Play) -> None:
    """The same event once more."""
    await publish(played, records_of(played, READY)[0])


async def announce_another_body(played: Play) -> None:
    ready = records_of(played, READY)[0]
    event = json.loads(ready.value)
    event["data"]["course_language"] = "sv"
    await publish(played, ready, value=json.dumps(event).encode())


async def announce_in_another_partition(played: Play) -> None:
    ready = records_of(played, READY)[0]
    await publish(played, ready, partition=(ready.place[0] + 1) % 3)


async def announce_what_nobody_sent(played: Play) -> None:
    slot = records_of(played, SLOT)[0]
    event = json.loads(slot.value)
    event["event_id"], event["data"]["text_storage_id"] = "other", "invented"
    await publish(played, slot, value=json.dumps(event).encode())


async def announce_too_early(played: Play) -> None:
    """Its number says that it was committed before its slots, as if it had been read so."""
    ready = records_of(played, READY)[0]
    ready.headers["seq"] = b"1"


async def change_a_slot(played: Play) -> None:
    played.world.sql(
        "update els.slots set text_storage_id = 'other' where (batch_id, essay_id) = (select batch_id, essay_id"
        f" from els.slots where batch_id like '{played.prefix}%' and state = 'assigned' limit 1)"
    )


async def lose_an_event(played: Play) -> None:
    played.judge.records.remove(records_of(played, SLOT)[0])


async def lose_an_input(played: Play) -> None:
    played.judge.acknowledged[CONTENT, b"acknowledged, and gone"] += 1


async def reject_a_valid_input(played: Play) -> None:
    """An input that the judge holds for valid is in quarantine: it is shown a valid one instead of an invalid one."""
    played.world.sql(f"""
        insert into els.quarantine
            (topic, fingerprint, "partition", "offset", key, value, reason, error, first_seen_at, last_seen_at)
        values
            ('{CONTENT}', sha256('{played.prefix}'), 0, 0, '{played.prefix}', '{{}}', 'invalid_field', '', now(), now())
    """)


def finds_nothing(verdict: Verdict) -> bool:
    return verdict.repeated == 1 and verdict.found_nothing


@pytest.mark.parametrize(
    ("tamper", "is_noticed"),
    [
        pytest.param(repeat, finds_nothing, id="an event is repeated: allowed"),
        pytest.param(announce_another_body, lambda found: found.contradicted, id="two bodies"),
        pytest.param(announce_in_another_partition, lambda found: found.split, id="another partition"),
        pytest.param(announce_what_nobody_sent, lambda found: found.contradicted, id="invented content"),
        pytest.param(announce_too_early, lambda found: found.contradicted, id="ready before its slots"),
        pytest.param(change_a_slot, lambda found: found.contradicted, id="a row that differs"),
        pytest.param(lose_an_event, lambda found: found.lost, id="an event is missing"),
        pytest.param(lose_an_input, lambda found: found.lost, id="an input is missing"),
        pytest.param(reject_a_valid_input, lambda found: found.contradicted, id="a valid input in quarantine"),
    ],
)
async def test_the_judge_notices(
    field_servers: Servers, tamper: Callable[[Play], Awaitable[None]], is_noticed: Callable[[Verdict], bool]
) -> None:
    played = Play(await field_servers.of(ONE), seed=1)
    await played.send(played.batches(10))
    before = await played.applied()
    assert before.found_nothing, before
    await tamper(played)
    verdict = played.judge.judge(played.world.url())
    assert is_noticed(verdict), verdict
