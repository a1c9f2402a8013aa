"""ops.invariant_violations finds each contradiction between rows, and nothing else."""

from typing import Any

import pytest
from psycopg import Connection

from tests.support.builders.rows import plant, row, rows

READY = "huleedu.els.batch.essays.ready.v1"


SOUND = (
    "batch('open', 3, 1, 1)",
    "batch('ready', 2, 1, 1)",
    "batch('failed', 1, 0, 1)",
    "batch('full', 1, 1)",
    "excess('full', 'more')",
    "failure('full', 'more', 'surplus')",
    f"event('ready', '{READY}')",
    "pending('unknown', 't')",
    "pending('unknown', 'gone', 'expired')",
    "pending('open', 'taken away', 'removed')",
    "failure('unknown', 'u', 'pending')",
)


def test_no_violation_is_seen_where_there_is_none(database: Connection[dict[str, Any]]) -> None:
    plant(database, *SOUND)
    assert rows(database, "select * from ops.invariant_violations") == []


VIOLATIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a content in a slot and excess": (
        "I1",
        "content t1 is in slot e1 and excess",
        ("excess('full', 't1')",),
    ),
    "a content in a slot and removed": (
        "I1",
        "content t1 is in slot e1 and removed",
        ("pending('full', 't1', 'removed')",),
    ),
    "a content that is excess and removed": (
        "I1",
        "content more is excess and removed",
        ("pending('full', 'more', 'removed')",),
    ),
    "a pending content that is excess, of a batch that is not registered": (
        "I1",
        "content t is excess and pending",
        ("excess('unknown', 't')",),
    ),
    "a content in two slots": (
        "I2",
        "content t1 is in 2 slots",
        (
            "drop index els.slots_content",
            "batch('two', 2, 2)",
            "fill('two', 'e2', 't1')",
        ),
    ),
    "a failure that took two slots": (
        "I2",
        "failure u1 took 2 slots",
        (
            "drop index els.slots_failure",
            "batch('two', 2, 0, 2)",
            "delete from els.validation_failures where batch_id = 'two' and file_upload_id = 'u2'",
            "update els.slots set file_upload_id = 'u1' where batch_id = 'two'",
        ),
    ),
    "a failed slot that holds a content": (
        "I2",
        "slot e1 is failed and holds content t",
        (
            "alter table els.slots drop constraint slots_state_check",
            "update els.slots set text_storage_id = 't' where batch_id = 'failed'",
        ),
    ),
    "excess while a slot is open": (
        "I3",
        "1 of its slots are open and content more is excess",
        ("excess('open', 'more')",),
    ),
    "content that is pending although its batch is registered": (
        "I4",
        "content late is pending",
        ("pending('open', 'late')",),
    ),
    "content that is pending although its batch was registered long ago": (
        "I4",
        "content late is pending",
        ("update els.batches set changed_at = now() - interval '1 day'", "pending('open', 'late')"),
    ),
    "content that expired although its batch is registered": (
        "I4",
        "content late is expired",
        ("pending('open', 'late', 'expired')",),
    ),
    "a failure that waits although its batch is registered": (
        "I4",
        "failure late is pending",
        ("failure('open', 'late', 'pending')",),
    ),
    "a failure that expired although its batch is registered": (
        "I4",
        "failure late is expired",
        ("failure('open', 'late', 'expired')",),
    ),
    "a failure that took a slot and is recorded as surplus": (
        "I5",
        "failure u1 took slot e1 and is surplus",
        ("update els.validation_failures set state = 'surplus' where batch_id = 'failed'",),
    ),
    "a failure that took a slot and is not recorded": (
        "I5",
        "slot e1 was taken by failure u1, which is not recorded",
        ("delete from els.validation_failures where batch_id = 'failed'",),
    ),
    "a failure that took a slot that is not there": (
        "I5",
        "failure more took a slot that is not there",
        ("update els.validation_failures set state = 'slot' where batch_id = 'full' and state = 'surplus'",),
    ),
    "counters that do not fit the slots": (
        "I5",
        "counts 2 assigned, 0 failed and 0 withdrawn of 3, has slots: 1 assigned, 1 failed, 0 withdrawn, 1 open",
        ("update els.batches set assigned = 2, failed = 0 where batch_id = 'open'",),
    ),
    "slots that share a position": (
        "I5",
        "its slots take 2 of 3 positions",
        ("update els.slots set position = 2 where batch_id = 'open' and position = 1",),
    ),
    "a state that does not fit the slots": (
        "I5",
        "is ready with 1 slots assigned, 1 failed, 0 withdrawn, 1 open",
        (
            "alter table els.batches drop constraint batches_state_check",
            "update els.batches set state = 'ready', completed_at = now() where batch_id = 'open'",
        ),
    ),
    "a batch that is announced twice": (
        "I5",
        "is ready and is announced as ready by 2 events",
        (f"event('ready', '{READY}')",),
    ),
    "a batch that is announced and not ready": (
        "I5",
        "is registered and is announced as ready by 1 events",
        (f"event('open', '{READY}')",),
    ),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_a_violation_is_seen(database: Connection[dict[str, Any]], kind: str) -> None:
    invariant, detail, planted = VIOLATIONS[kind]
    plant(database, *SOUND, *planted)
    found = row(database, "select invariant, detail from ops.invariant_violations")
    assert found["invariant"] == invariant
    assert found["detail"].startswith(detail)
