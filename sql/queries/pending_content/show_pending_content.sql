-- Returns all columns of one content that is pending, expired or removed.
-- Index: pending_content_pkey. Locks: none.
select
    batch_id, text_storage_id, state, original_file_name, file_upload_id, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, stored_at, waiting_since, closed_at, arrival
from els.own_pending_content as pending_content
where batch_id = :batch_id
    and text_storage_id = :text_storage_id
