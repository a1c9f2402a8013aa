-- Writes content that was announced as excess, and is not stored.
-- Index: excess_content_pkey. Locks: the new rows.
insert into els.excess_content (
    batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, declared_at, origin
)
select
    batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, declared_at,
    case when raw_file_storage_id is null then 'output' end
from unnest(
    :batch_ids::text[], :text_storage_ids::text[], :reasons::text[], :file_upload_ids::text[],
    :original_file_names::text[], :raw_file_storage_ids::text[], :file_sizes_bytes::bigint[],
    :content_md5_hashes::text[], :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[],
    :times::timestamptz[]
) as excess (
    batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, declared_at
)
