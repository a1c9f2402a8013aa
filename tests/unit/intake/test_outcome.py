"""What became of a poll's inputs is told in order, and completely, whatever form it is kept in."""

from uuid import UUID

from service.intake.outcome import EffectRecord, EffectRecords, ReconciledEffects
from tests.support.interleaving.interleaving import content

ALONE = EffectRecord("batch_registered", "b", None, UUID(int=1))
READY = EffectRecord("batch_ready", "b", None, UUID(int=1), None, None, 3.0)


def test_what_is_kept_in_columns_is_told_as_it_was_decided() -> None:
    c1, c2 = content("c1"), content("c2")
    reconciled = ReconciledEffects("content_assigned")
    reconciled.add("b", c1, "e1", 1.25)
    reconciled.add("b", c2, "e2", 0.5)
    decisions = EffectRecords(ALONE)
    decisions.extend(reconciled)
    decisions.extend(ReconciledEffects("content_excess"))
    decisions.append(READY)
    assert len(decisions) == 4
    assert list(decisions) == [
        ALONE,
        EffectRecord("content_assigned", "b", "c1", c1.correlation_id, None, "e1", 1.25),
        EffectRecord("content_assigned", "b", "c2", c2.correlation_id, None, "e2", 0.5),
        READY,
    ]
