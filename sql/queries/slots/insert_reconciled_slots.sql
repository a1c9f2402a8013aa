-- Inserts slots of batches that are registered in this transaction, each with content that waited for that: its row is
-- copied, with the time when it was stored and what became of it since. Where the row is missing, the insert fails.
-- `origin` says that only an output topic reports the content, which a recovery has stored so.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_pkey, slots_pkey, slots_content. Locks: the new rows; the caller holds the exclusive locks of
-- the batches.
insert into els.slots (
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at, origin, pending_at, history
)
select
    slot.batch_id, slot.essay_id, slot.position, 'assigned', waiting.text_storage_id, waiting.file_upload_id,
    waiting.original_file_name, waiting.raw_file_storage_id, waiting.file_size_bytes, waiting.content_md5_hash,
    waiting.correlation_id, waiting.traceparent, waiting.tracestate, transaction_timestamp(),
    case when waiting.raw_file_storage_id is null then 'output' end, waiting.stored_at,
    els.with_state(waiting.history, waiting.state, waiting.closed_at)
from unnest(:batch_ids::text[], :essay_ids::text[], :positions::bigint[], :text_storage_ids::text[])
    as slot (batch_id, essay_id, position, text_storage_id)
left join lateral (
    select *
    from els.pending_content
    where pending_content.batch_id = slot.batch_id
        and pending_content.text_storage_id = slot.text_storage_id
    limit 1
) as waiting on true
