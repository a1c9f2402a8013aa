-- Writes content that operators have removed, which a restored database has not stored yet. Content that has a slot, is
-- excess or waits stays as it is.
-- Index: pending_content_pkey, slots_content, excess_content_pkey. Locks: the new rows.
insert into els.pending_content (
    batch_id, text_storage_id, arrival, state, file_upload_id, original_file_name, raw_file_storage_id,
    file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, stored_at, waiting_since, closed_at
)
select
    batch_id, text_storage_id, nextval('els.arrivals'), 'removed', file_upload_id, original_file_name,
    raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, tracestate, stored_at,
    stored_at, closed_at
from unnest(
    :batch_ids::text[], :text_storage_ids::text[], :file_upload_ids::text[], :original_file_names::text[],
    :raw_file_storage_ids::text[], :file_sizes_bytes::bigint[], :content_md5_hashes::text[],
    :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[], :times::timestamptz[],
    :closed_at::timestamptz[]
) as removed (
    batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, stored_at, closed_at
)
where not exists (
        select
        from els.slots
        where slots.batch_id = removed.batch_id
            and slots.text_storage_id = removed.text_storage_id
    )
    and not exists (
        select
        from els.excess_content
        where excess_content.batch_id = removed.batch_id
            and excess_content.text_storage_id = removed.text_storage_id
    )
on conflict (batch_id, text_storage_id) do nothing
