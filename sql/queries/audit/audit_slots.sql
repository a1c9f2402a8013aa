-- Reads all slots with their content or failure, for an audit. xmin is the transaction that wrote the row: two
-- transactions may begin in the same microsecond, so taken_at does not distinguish them.
-- Index: none, the whole table is read. Locks: none.
select
    batch_id,
    essay_id,
    position,
    state,
    text_storage_id,
    file_upload_id,
    original_file_name,
    json_build_array(raw_file_storage_id, file_size_bytes, content_md5_hash),
    json_build_array(correlation_id, traceparent, tracestate),
    taken_at,
    xmin::text::bigint,
    origin
from els.slots
