-- Reads one page of the content that waits for these batches, expired content included, in the order in which it was
-- stored. A page has at most so many rows and so many bytes of file names, since only these may be long; it has at
-- least one row. The next page starts after the last row of this one.
-- Index: pending_content_order. Locks: none; the caller holds the exclusive locks of the batches.
select
    batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
    content_md5_hash, correlation_id, traceparent, tracestate, arrival, stored_at
from (
    select
        waiting.*,
        sum(octet_length(original_file_name)) over (order by batch_id, arrival) as weight,
        row_number() over (order by batch_id, arrival) as number
    from (
        select
            batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
            content_md5_hash, correlation_id, traceparent, tracestate, arrival, stored_at
        from els.pending_content
        where batch_id = any(:batch_ids::text[])
            and state <> 'removed'
            and (batch_id, arrival) > (:after_batch_id, :after_arrival)
        order by batch_id, arrival
        limit :page
    ) as waiting
) as weighed
where weight <= :bytes
    or number = 1
order by batch_id, arrival
