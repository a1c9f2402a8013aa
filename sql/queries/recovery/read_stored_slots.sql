-- Reads all slots of these batches in slot order, for a recovery.
-- Index: slots_pkey. Locks: none.
select
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at
from els.slots
where batch_id = any(:batch_ids::text[])
order by batch_id, position
