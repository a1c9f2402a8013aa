-- Removes validation failures that wait for a batch, expired ones included, as remove_pending_content does with
-- content: all of them, or what matches the given ids, file names and ages.
-- Index: validation_failures_pkey, validation_failures_order. Locks: the rows; the caller holds the exclusive lock of
-- the batch and has read since then that it is not registered.
update els.validation_failures
set state = 'removed',
    closed_at = transaction_timestamp(),
    history = els.with_state(history, state, closed_at)
where batch_id = :batch_id
    and state in ('pending', 'expired')
    and (:ids::text[] is null or file_upload_id = any(:ids))
    and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
    and (:older_than::float8 is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
returning file_upload_id
