-- Reads one page of the failures that wait for these batches, in the order in which they were stored.
-- Index: validation_failures_order. Locks: none; the caller holds the exclusive locks of the batches.
select batch_id, file_upload_id, original_file_name, correlation_id, traceparent
from els.validation_failures
where batch_id = any(:batch_ids::text[])
    and state in ('pending', 'expired')
order by batch_id, arrival
limit :page
