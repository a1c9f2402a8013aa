-- Inserts content that waited for batches that are registered in this transaction, and found no slot: its row is
-- copied, as by insert_reconciled_slots.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_pkey, excess_content_pkey. Locks: the new rows; the caller holds the exclusive locks of the
-- batches.
insert into els.excess_content (
    batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, declared_at, origin, pending_at, history
)
select
    excess.batch_id, waiting.text_storage_id, excess.reason, waiting.file_upload_id, waiting.original_file_name,
    waiting.raw_file_storage_id, waiting.file_size_bytes, waiting.content_md5_hash, waiting.correlation_id,
    waiting.traceparent, waiting.tracestate, transaction_timestamp(),
    case when waiting.raw_file_storage_id is null then 'output' end, waiting.stored_at,
    els.with_state(waiting.history, waiting.state, waiting.closed_at)
from unnest(:batch_ids::text[], :text_storage_ids::text[], :reasons::text[])
    as excess (batch_id, text_storage_id, reason)
left join lateral (
    select *
    from els.pending_content
    where pending_content.batch_id = excess.batch_id
        and pending_content.text_storage_id = excess.text_storage_id
    limit 1
) as waiting on true
