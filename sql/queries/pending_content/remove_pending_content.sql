-- Removes content that waits for a batch, expired content included, for an operator: all of it, or what matches the
-- given ids, file names and ages. The rows stay in state `removed`, so that a redelivery does not store them again.
-- Index: pending_content_pkey. Locks: the rows; the caller holds the exclusive lock of the batch and has read since
-- then that it is not registered.
update els.pending_content
set state = 'removed',
    closed_at = transaction_timestamp(),
    history = els.with_state(history, state, closed_at)
where batch_id = :batch_id
    and state <> 'removed'
    and (:ids::text[] is null or text_storage_id = any(:ids))
    and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
    and (:older_than::float8 is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
returning text_storage_id
