-- Writes validation failures that were announced: as new rows, or as the new state of rows of the same failures.
-- Index: validation_failures_pkey. Locks: the rows.
insert into els.validation_failures as validation_failures (
    batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
    error_detail, file_size_bytes, failed_at, correlation_id, traceparent, tracestate, stored_at, waiting_since, origin
)
select
    batch_id, file_upload_id, nextval('els.arrivals'), state, original_file_name, raw_file_storage_id,
    validation_error_code, error_detail::json, file_size_bytes, failed_at, correlation_id, traceparent, tracestate,
    transaction_timestamp(), transaction_timestamp(), case when raw_file_storage_id is null then 'output' end
from unnest(
    :batch_ids::text[], :file_upload_ids::text[], :states::text[], :original_file_names::text[],
    :raw_file_storage_ids::text[], :codes::text[], :error_details::text[], :file_sizes_bytes::bigint[],
    :failed_at::timestamptz[], :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[]
) as failure (
    batch_id, file_upload_id, state, original_file_name, raw_file_storage_id, validation_error_code, error_detail,
    file_size_bytes, failed_at, correlation_id, traceparent, tracestate
)
on conflict (batch_id, file_upload_id) do update
set state = excluded.state,
    closed_at = null,
    history = els.with_state(validation_failures.history, validation_failures.state, validation_failures.closed_at)
