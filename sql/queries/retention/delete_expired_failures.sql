-- Deletes expired failures at the end of their retention.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: the rows; the caller holds the exclusive locks of their batches.
delete from els.validation_failures
using unnest(:batch_ids::text[], :identities::text[]) as old (batch_id, file_upload_id)
where validation_failures.batch_id = any(array[old.batch_id])
    and validation_failures.file_upload_id = any(array[old.file_upload_id])
    and case validation_failures.state when 'expired' then validation_failures.closed_at <= :due::timestamptz end
returning validation_failures.batch_id, validation_failures.file_upload_id, validation_failures.correlation_id, validation_failures.traceparent
