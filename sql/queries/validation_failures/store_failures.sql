-- Stores validation failures with their state (pending, slot, surplus), and returns what was new. They are numbered and
-- written as pending content is.
-- Index: validation_failures_pkey. Locks: the new rows; waits for a transaction that is writing the same failure.
with numbered as materialized (
    select nextval('els.arrivals') as arrival, arrived.*
    from (
        select *
        from unnest(
            :batch_ids::text[], :file_upload_ids::text[], :states::text[], :original_file_names::text[],
            :raw_file_storage_ids::text[], :validation_error_codes::text[], :error_details::text[],
            :file_sizes_bytes::bigint[], :failed_at::timestamptz[], :correlation_ids::uuid[],
            :traceparents::text[], :tracestates::text[]
        ) with ordinality as failure (
            batch_id, file_upload_id, state, original_file_name, raw_file_storage_id, validation_error_code,
            error_detail, file_size_bytes, failed_at, correlation_id, traceparent, tracestate, ordinal
        )
        order by ordinal
    ) as arrived
)
insert into els.validation_failures (
    batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
    error_detail, file_size_bytes, failed_at, correlation_id, traceparent, tracestate, stored_at, waiting_since
)
select
    batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
    error_detail::json, file_size_bytes, failed_at, correlation_id, traceparent, tracestate,
    transaction_timestamp(), transaction_timestamp()
from numbered
order by batch_id, file_upload_id
on conflict (batch_id, file_upload_id) do nothing
returning batch_id, file_upload_id
