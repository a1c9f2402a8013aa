-- Reads the validation failures of these batches, for a recovery, in the order in which they were stored.
-- Index: validation_failures_pkey. Locks: none.
select
    batch_id, state, file_upload_id, original_file_name, raw_file_storage_id, validation_error_code, error_detail,
    file_size_bytes, failed_at, correlation_id, traceparent, tracestate
from els.validation_failures
where batch_id = any(:batch_ids::text[])
order by batch_id, arrival
