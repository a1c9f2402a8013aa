-- Counts the expired content and failures that match, for a dry run of a restore. Ages are seconds since the expiry.
-- An id names the text and the failed upload that have it.
-- Index: pending_content_expired, validation_failures_expired, or the primary keys (of one batch). Locks: none.
select
    (
        select count(*)
        from els.own_pending_content as pending_content
        where state = 'expired'
            and (:batch_id::text is null or batch_id = :batch_id)
            and (:ids::text[] is null or text_storage_id = any(:ids))
            and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (
                :older_than::float8 is null
                or closed_at < transaction_timestamp() - make_interval(secs => :older_than)
            )
            and (
                :newer_than::float8 is null
                or closed_at > transaction_timestamp() - make_interval(secs => :newer_than)
            )
    ),
    (
        select count(*)
        from els.own_validation_failures as validation_failures
        where state = 'expired'
            and (:batch_id is null or batch_id = :batch_id)
            and (:ids is null or file_upload_id = any(:ids))
            and (:contains is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (:older_than is null or closed_at < transaction_timestamp() - make_interval(secs => :older_than))
            and (:newer_than is null or closed_at > transaction_timestamp() - make_interval(secs => :newer_than))
    )
