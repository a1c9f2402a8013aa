-- Finds content that is pending, expired or removed, validation failures that wait, expired or were removed, and
-- confirmations, by the same as find_in_batches; the newest first. Reads these tables; of failures, those in such a state.
-- Index: none for content and confirmations; validation_failures_order, validation_failures_removed for failures. Locks:
-- none.
select
    matched, kind, state, batch_id, text_storage_id, file_upload_id, null as essay_id,
    left(original_file_name, 255) as original_file_name, at, details, correlation_id
from (
    select
        case
            when batch_id = :text then 'batch id'
            when text_storage_id = :text then 'text storage id'
            when file_upload_id = :text then 'upload id'
            when correlation_id = :correlation_id::uuid then 'correlation id'
            else 'file name'
        end as matched,
        'content' as kind, state, batch_id, text_storage_id, file_upload_id, original_file_name,
        coalesce(closed_at, stored_at) as at,
        case state
            when 'pending' then 'waits for the registration'
            when 'expired' then 'the registration did not come in time, and takes it if it comes'
            else 'removed by an operator'
        end as details,
        correlation_id
    from els.pending_content
    where :text in (batch_id, text_storage_id, file_upload_id)
        or correlation_id = :correlation_id
        or position(:name in els.folded(original_file_name)) > 0
    union all
    select
        case
            when batch_id = :text then 'batch id'
            when file_upload_id = :text then 'upload id'
            when correlation_id = :correlation_id then 'correlation id'
            else 'file name'
        end,
        'failure', state, batch_id, null, file_upload_id, original_file_name, coalesce(closed_at, stored_at),
        concat(validation_error_code, ': ', left(error_detail ->> 'message', 255)), correlation_id
    from (
        select *
        from els.validation_failures
        where state in ('pending', 'expired')
        union all
        select *
        from els.validation_failures
        where state = 'removed'
    ) as waiting
    where :text in (batch_id, file_upload_id)
        or correlation_id = :correlation_id
        or position(:name in els.folded(original_file_name)) > 0
    union all
    select
        case when batch_id = :text then 'batch id' when class_id = :text then 'class id' else 'correlation id' end,
        'confirmation', state, batch_id, null, null, null, stored_at, concat(associations, ' associations'),
        correlation_id
    from els.confirmations
    where :text in (batch_id, class_id)
        or correlation_id = :correlation_id
) as found
where (:since::timestamptz is null or at >= :since)
    and (:until::timestamptz is null or at <= :until)
order by at desc
limit :page
