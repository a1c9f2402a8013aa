-- Assigns content (or a failure, which has no text) to slots that this transaction has claimed.
-- Content that a concurrent transaction has put into another slot violates slots_content: roll back and read again.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: slots_pkey. Locks: the rows, held since claim_slots.
update els.slots
set state = case when filled.text_storage_id is null then 'failed' else 'assigned' end,
    text_storage_id = filled.text_storage_id,
    file_upload_id = filled.file_upload_id,
    original_file_name = filled.original_file_name,
    raw_file_storage_id = filled.raw_file_storage_id,
    file_size_bytes = filled.file_size_bytes,
    content_md5_hash = filled.content_md5_hash,
    correlation_id = filled.correlation_id,
    traceparent = filled.traceparent,
    tracestate = filled.tracestate,
    taken_at = transaction_timestamp(),
    origin = case when filled.text_storage_id is not null and filled.raw_file_storage_id is null then 'output' end
from unnest(
    :batch_ids::text[], :essay_ids::text[], :text_storage_ids::text[], :file_upload_ids::text[],
    :original_file_names::text[], :raw_file_storage_ids::text[], :file_sizes_bytes::bigint[],
    :content_md5_hashes::text[], :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[]
) as filled (
    batch_id, essay_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate
)
where slots.batch_id = any(array[filled.batch_id])
    and slots.essay_id = any(array[filled.essay_id])
