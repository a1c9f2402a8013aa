-- Writes slots as they were announced: new ones, or into slots that are open. `taken_at` is null for an open slot.
-- Where only a list announces a slot, its own announcement is not known: `origin` says so.
-- Index: slots_pkey, slots_open, slots_content, slots_failure. Locks: the rows.
insert into els.slots as slots (
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at, origin
)
select
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at,
    case when state = 'assigned' and (raw_file_storage_id is null or is_only_listed) then 'output' end
from unnest(
    :batch_ids::text[], :essay_ids::text[], :positions::bigint[], :states::text[], :text_storage_ids::text[],
    :file_upload_ids::text[], :original_file_names::text[], :raw_file_storage_ids::text[],
    :file_sizes_bytes::bigint[], :content_md5_hashes::text[], :correlation_ids::uuid[], :traceparents::text[],
    :tracestates::text[], :times::timestamptz[], :only_listed::boolean[]
) as slot (
    batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, taken_at, is_only_listed
)
on conflict (batch_id, essay_id) do update
set state = excluded.state,
    text_storage_id = excluded.text_storage_id,
    file_upload_id = excluded.file_upload_id,
    original_file_name = excluded.original_file_name,
    raw_file_storage_id = excluded.raw_file_storage_id,
    file_size_bytes = excluded.file_size_bytes,
    content_md5_hash = excluded.content_md5_hash,
    correlation_id = excluded.correlation_id,
    traceparent = excluded.traceparent,
    tracestate = excluded.tracestate,
    taken_at = excluded.taken_at,
    origin = excluded.origin
