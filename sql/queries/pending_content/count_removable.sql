-- Counts the contents and failures that remove_pending_content and remove_failures would remove, for the confirmation
-- that comes before it.
-- Index: pending_content_pkey, validation_failures_pkey, validation_failures_order. Locks: none.
select
    (
        select count(*)
        from els.own_pending_content as pending_content
        where batch_id = :batch_id
            and state <> 'removed'
            and (:ids::text[] is null or text_storage_id = any(:ids))
            and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (
                :older_than::float8 is null
                or stored_at < transaction_timestamp() - make_interval(secs => :older_than)
            )
            and (
                :newer_than::float8 is null
                or stored_at > transaction_timestamp() - make_interval(secs => :newer_than)
            )
    ),
    (
        select count(*)
        from els.own_validation_failures as validation_failures
        where batch_id = :batch_id
            and state in ('pending', 'expired')
            and (:ids is null or file_upload_id = any(:ids))
            and (:contains is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (:older_than is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
            and (:newer_than is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
    )
