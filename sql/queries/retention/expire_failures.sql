-- Failures that waited in vain. Nobody is told: a batch that never came misses none of its failures.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: the rows; the caller has their batches alone.
update els.validation_failures
set state = 'expired',
    closed_at = :now::timestamptz
from unnest(:batch_ids::text[], :identities::text[]) as due (batch_id, file_upload_id)
where validation_failures.batch_id = any(array[due.batch_id])
    and validation_failures.file_upload_id = any(array[due.file_upload_id])
    and case validation_failures.state when 'pending' then validation_failures.waiting_since <= :due::timestamptz end
returning validation_failures.batch_id, validation_failures.file_upload_id
