"""Tests that effect records are returned completely and in order, whether they are stored as records or in columns."""

from uuid import UUID

from service.intake.outcome import EffectRecord, EffectRecords, ReconciledEffects
from tests.support.builders.events import content

REGISTERED = EffectRecord("batch_registered", "b", None, UUID(int=1))
READY = EffectRecord("batch_ready", "b", None, UUID(int=1), None, None, 3.0)


def test_records_in_columns_are_returned_as_they_were_added() -> None:
    c1, c2 = content("c1"), content("c2")
    reconciled = ReconciledEffects("content_assigned")
    reconciled.add("b", c1, "e1", 1.25)
    reconciled.add("b", c2, "e2", 0.5)
    records = EffectRecords(REGISTERED)
    records.extend(reconciled)
    records.extend(ReconciledEffects("content_excess"))
    records.append(READY)
    assert len(records) == 4
    assert list(records) == [
        REGISTERED,
        EffectRecord("content_assigned", "b", "c1", c1.correlation_id, None, "e1", 1.25),
        EffectRecord("content_assigned", "b", "c2", c2.correlation_id, None, "e2", 0.5),
        READY,
    ]
