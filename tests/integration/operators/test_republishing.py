"""Publishes again what batches have announced, byte for byte."""

import tracemalloc

import pytest

from service.domain.delivery import IntakeLimits
from service.operators.batches import BatchActions
from service.store.operator_actions import Operator
from tests.support.builders.events import content, failure, registration
from tests.support.pods.applier import ApplyFixture

BY = Operator("a test", "a consumer lost them")
TRACED = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}


async def test_every_event_of_a_batch_is_built_again_as_it_was(applier: ApplyFixture) -> None:
    actions = BatchActions(applier.database, IntakeLimits())
    await applier.poll(content("c1", **TRACED), content("c2"))
    await applier.poll(registration(essays=5, **TRACED))
    await applier.poll(content("c3", **TRACED))
    await applier.poll(failure("f1"))
    await actions.close(BY, "b")
    await applier.poll(content("c4", **TRACED), content("c5"))
    before = applier.rows("select event_id, topic, event from ops.outbox_events order by seq")
    published = await actions.republish(BY, "b", slots=True, excess=True)
    assert (published.slots, published.excess, len(published.events)) == (3, 2, 3)
    again = applier.rows("select event_id, topic, event from ops.outbox_events order by seq")[len(before) :]
    assert sorted(again) == sorted(before)


async def test_slots_of_a_batch_that_is_not_full_are_published_again(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2), content("c1"))
    await BatchActions(applier.database, IntakeLimits()).republish(BY, "b", slots=True)
    first, again = applier.outbox()
    assert first == again


@pytest.mark.only_in_test_all("a hundred thousand slots")
async def test_a_hundred_thousand_slots_are_published_again_in_bounded_memory(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=100_000))
    applier.conn.execute(
        "update els.slots set state = 'assigned', text_storage_id = essay_id, file_upload_id = essay_id,"
        " taken_at = now(), original_file_name = 'a', raw_file_storage_id = 'r', file_size_bytes = 1,"
        " correlation_id = gen_random_uuid()"
    )
    tracemalloc.start()
    published = await BatchActions(applier.database, IntakeLimits()).republish(BY, "b", slots=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert published.slots == 100_000
    assert applier.rows("select count(distinct event_id) from ops.outbox_events") == [(100_000,)]
    assert peak < 64 * 1024 * 1024  # as of a tenth of them; the events have 70 MB
