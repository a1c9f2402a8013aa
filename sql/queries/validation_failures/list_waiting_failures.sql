-- Returns a page of validation failures in one state (pending, expired, removed), the longest waiting first, as
-- list_pending_content does with content.
-- Index: validation_failures_due, validation_failures_expired, validation_failures_removed, validation_failures_pkey
-- (of one batch). Locks: none.
select
    batch_id, file_upload_id, state, left(original_file_name, 255) as original_file_name, validation_error_code,
    left(error_detail ->> 'message', 1000) as message, correlation_id, stored_at, waiting_since, closed_at, arrival
from els.own_validation_failures as validation_failures
where state = :state
    and (:batch_id::text is null or batch_id = :batch_id)
    and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
    and (:older_than::float8 is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (
        :after_time::timestamptz is null
        or (waiting_since, arrival) > (:after_time, :after_arrival::bigint)
    )
order by waiting_since, arrival
limit :page
