-- Expires pending content, and returns it in the order of arrival within each batch. Content that was restored or
-- reconciled since it was found is skipped.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_pkey. Locks: the rows; the caller holds the exclusive locks of their batches.
with expired as (
    update els.pending_content
    set state = 'expired',
        closed_at = :now::timestamptz
    from unnest(:batch_ids::text[], :identities::text[]) as due (batch_id, text_storage_id)
    where pending_content.batch_id = any(array[due.batch_id])
        and pending_content.text_storage_id = any(array[due.text_storage_id])
        and case pending_content.state when 'pending' then pending_content.waiting_since <= :due::timestamptz end
    returning
        pending_content.batch_id, pending_content.text_storage_id, pending_content.file_upload_id,
        pending_content.original_file_name, pending_content.stored_at, pending_content.correlation_id,
        pending_content.traceparent, pending_content.tracestate, pending_content.arrival
)
select
    batch_id, text_storage_id, file_upload_id, original_file_name, stored_at, correlation_id, traceparent, tracestate
from expired
order by batch_id, arrival
