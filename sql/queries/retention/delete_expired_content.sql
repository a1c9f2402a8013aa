-- Deletes expired content at the end of its retention. Content that was restored since it was found stays.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_pkey. Locks: the rows; the caller holds the exclusive locks of their batches.
delete from els.pending_content
using unnest(:batch_ids::text[], :identities::text[]) as old (batch_id, text_storage_id)
where pending_content.batch_id = any(array[old.batch_id])
    and pending_content.text_storage_id = any(array[old.text_storage_id])
    and case pending_content.state when 'expired' then pending_content.closed_at <= :due::timestamptz end
returning
    pending_content.batch_id, pending_content.text_storage_id, pending_content.correlation_id, pending_content.traceparent
