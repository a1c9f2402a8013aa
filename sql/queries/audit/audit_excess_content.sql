-- Reads all excess content, for an audit.
-- Index: none, the whole table is read. Locks: none.
select
    batch_id,
    text_storage_id,
    reason,
    file_upload_id,
    original_file_name,
    json_build_array(raw_file_storage_id, file_size_bytes, content_md5_hash),
    json_build_array(correlation_id, traceparent, tracestate),
    declared_at,
    origin
from els.excess_content
