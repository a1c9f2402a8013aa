-- Reads the content of these batches that is in no slot, for a recovery: in the order in which it was stored, then the
-- excess. `state` is that of pending content, or excess.
-- Index: pending_content_pkey, excess_content_pkey. Locks: none.
select
    batch_id, state, null as reason, stored_at, closed_at, waiting_since, text_storage_id, file_upload_id, original_file_name,
    raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, arrival
from els.pending_content
where batch_id = any(:batch_ids::text[])
union all
select
    batch_id, 'excess', reason, declared_at, null, null, text_storage_id, file_upload_id, original_file_name,
    raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, null
from els.excess_content
where batch_id = any(:batch_ids::text[])
order by batch_id, arrival nulls last
