-- Returns all columns of one validation failure, in whatever state.
-- Index: validation_failures_pkey. Locks: none.
select
    batch_id, file_upload_id, state, original_file_name, raw_file_storage_id, file_size_bytes, validation_error_code,
    error_detail ->> 'message' as message, error_detail, failed_at, correlation_id, traceparent, tracestate, stored_at,
    waiting_since, closed_at, arrival
from els.own_validation_failures as validation_failures
where batch_id = :batch_id
    and file_upload_id = :file_upload_id
