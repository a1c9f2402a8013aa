-- Stores content of batches that are not registered yet, and returns what was new. Rows are numbered in the order of
-- arrival, then written in the order of the key, so that two transactions with the same contents wait in one direction
-- only.
-- Index: pending_content_pkey. Locks: the new rows; waits for a transaction that is writing the same content.
with numbered as materialized (
    select nextval('els.arrivals') as arrival, arrived.*
    from (
        select *
        from unnest(
            :batch_ids::text[], :text_storage_ids::text[], :file_upload_ids::text[], :original_file_names::text[],
            :raw_file_storage_ids::text[], :file_sizes_bytes::bigint[], :content_md5_hashes::text[],
            :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[]
        ) with ordinality as content (
            batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
            content_md5_hash, correlation_id, traceparent, tracestate, ordinal
        )
        order by ordinal
    ) as arrived
)
insert into els.pending_content (
    batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, stored_at, waiting_since
)
select
    batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, transaction_timestamp(), transaction_timestamp()
from numbered
order by batch_id, text_storage_id
on conflict (batch_id, text_storage_id) do nothing
returning batch_id, text_storage_id
