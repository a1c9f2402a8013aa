-- Returns a page of content in one state (pending, expired or removed), the longest waiting first. `contains` is a part
-- of the file's name, in either case; ages are seconds since the content was stored. The next page starts after the
-- last row of this one.
-- Index: pending_content_due (pending content), pending_content_pkey (of one batch). Locks: none.
select
    batch_id, text_storage_id, state, left(original_file_name, 255) as original_file_name, file_size_bytes,
    correlation_id, stored_at, waiting_since, closed_at, arrival
from els.own_pending_content as pending_content
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
