-- Records that failures that waited have taken a slot, or found none.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: the rows; the caller holds the exclusive locks of their batches.
update els.validation_failures
set state = settled.state,
    closed_at = null,
    history = els.with_state(history, validation_failures.state, closed_at)
from unnest(:batch_ids::text[], :file_upload_ids::text[], :states::text[]) as settled (batch_id, file_upload_id, state)
where validation_failures.batch_id = any(array[settled.batch_id])
    and validation_failures.file_upload_id = any(array[settled.file_upload_id])
