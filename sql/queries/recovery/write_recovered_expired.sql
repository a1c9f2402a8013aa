-- Writes content whose expiry was announced: as a new row, or into the row of the same content, which keeps its place
-- in the order.
-- Index: pending_content_pkey. Locks: the rows.
insert into els.pending_content as pending_content (
    batch_id, text_storage_id, arrival, state, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, stored_at, waiting_since, closed_at,
    origin
)
select
    batch_id, text_storage_id, nextval('els.arrivals'), 'expired', file_upload_id, original_file_name,
    raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, stored_at,
    stored_at, closed_at, case when raw_file_storage_id is null then 'output' end
from unnest(
    :batch_ids::text[], :text_storage_ids::text[], :file_upload_ids::text[], :original_file_names::text[],
    :raw_file_storage_ids::text[], :file_sizes_bytes::bigint[], :content_md5_hashes::text[],
    :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[], :stored_at::timestamptz[],
    :times::timestamptz[]
) as expired (
    batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, stored_at, closed_at
)
on conflict (batch_id, text_storage_id) do update
set state = 'expired',
    stored_at = excluded.stored_at,
    closed_at = excluded.closed_at
