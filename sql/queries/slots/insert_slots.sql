-- Inserts the slots of batches that are registered in this transaction: open, or filled at once with pending uploads.
-- `origin` says that only an output topic reports the content, which a recovery has stored so.
-- Index: slots_pkey, slots_open, slots_content. Locks: the new rows.
insert into els.slots (
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at, origin
)
select
    batch_id, essay_id, position, case when text_storage_id is null then 'open' else 'assigned' end,
    text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes, content_md5_hash,
    correlation_id, traceparent, tracestate, case when text_storage_id is not null then transaction_timestamp() end,
    case when text_storage_id is not null and raw_file_storage_id is null then 'output' end
from unnest(
    :batch_ids::text[], :essay_ids::text[], :positions::bigint[], :text_storage_ids::text[],
    :file_upload_ids::text[], :original_file_names::text[], :raw_file_storage_ids::text[],
    :file_sizes_bytes::bigint[], :content_md5_hashes::text[], :correlation_ids::uuid[], :traceparents::text[],
    :tracestates::text[]
) as slot (
    batch_id, essay_id, position, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate
)
