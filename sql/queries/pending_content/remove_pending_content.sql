-- An operator takes back what waits for a batch, expired content included: all of it, or the contents, the file
-- names and the ages that were chosen. The rows stay, closed, so that a redelivery does not bring them back.
-- Index: pending_content_pkey. Locks: the rows; the caller has the batch alone and has seen that it is not
-- registered.
update els.pending_content
set state = 'removed',
    closed_at = transaction_timestamp()
where batch_id = :batch_id
    and state <> 'removed'
    and (:text_storage_ids::text[] is null or text_storage_id = any(:text_storage_ids))
    and (:contains::text is null or position(lower(:contains) in lower(original_file_name)) > 0)
    and (:older_than::float8 is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
returning text_storage_id
