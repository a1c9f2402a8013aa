-- Expires validation failures whose registration did not come. No event is published for them: a batch that was never
-- registered misses none of its failures.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: the rows; the caller holds the exclusive locks of their batches.
update els.validation_failures
set state = 'expired',
    closed_at = :now::timestamptz
from unnest(:batch_ids::text[], :identities::text[]) as due (batch_id, file_upload_id)
where validation_failures.batch_id = any(array[due.batch_id])
    and validation_failures.file_upload_id = any(array[due.file_upload_id])
    and case validation_failures.state when 'pending' then validation_failures.waiting_since <= :due::timestamptz end
returning validation_failures.batch_id, validation_failures.file_upload_id, validation_failures.correlation_id, validation_failures.traceparent
