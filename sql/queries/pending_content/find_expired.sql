-- Finds a page of expired content and failures that match, without those of skipped batches, what expired first before
-- the rest. Ages are seconds from the expiry to `at` (null: now); what expired after `at` is left out. Only a read: the
-- statements that restore what was found check it again, under the locks of its batches.
-- Index: pending_content_expired, validation_failures_expired. Locks: none.
select batch_id, is_failure, upload
from (
    (
        select batch_id, false as is_failure, text_storage_id as upload, closed_at
        from els.own_pending_content as pending_content
        where state = 'expired'
            and closed_at <= coalesce(:at::timestamptz, transaction_timestamp())
            and batch_id <> all(:skipped::text[])
            and (:batch_id::text is null or batch_id = :batch_id)
            and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (
                :older_than::float8 is null
                or closed_at < coalesce(:at, transaction_timestamp()) - make_interval(secs => :older_than)
            )
            and (
                :newer_than::float8 is null
                or closed_at > coalesce(:at, transaction_timestamp()) - make_interval(secs => :newer_than)
            )
        order by closed_at
        limit :page
    )
    union all
    (
        select batch_id, true, file_upload_id, closed_at
        from els.own_validation_failures as validation_failures
        where state = 'expired'
            and closed_at <= coalesce(:at, transaction_timestamp())
            and batch_id <> all(:skipped)
            and (:batch_id is null or batch_id = :batch_id)
            and (:contains is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
            and (
                :older_than is null
                or closed_at < coalesce(:at, transaction_timestamp()) - make_interval(secs => :older_than)
            )
            and (
                :newer_than is null
                or closed_at > coalesce(:at, transaction_timestamp()) - make_interval(secs => :newer_than)
            )
        order by closed_at
        limit :page
    )
) as expired
order by closed_at
limit :page
