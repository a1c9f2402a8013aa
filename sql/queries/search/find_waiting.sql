-- Finds content that is pending, expired or removed, validation failures that wait, expired or were removed, and
-- confirmations, by the same as find_in_batches; the newest first. Reads these tables; of failures, those in such a
-- state.
-- Index: none for content and confirmations; validation_failures_order, validation_failures_removed for failures.
-- Locks: none.
select
    matched, kind, state, batch_id, text_storage_id, file_upload_id, null as essay_id,
    left(original_file_name, 255) as original_file_name, at, details, correlation_id
from (
    select
        case
            when els.is_named(:text, :is_prefix, batch_id) then 'batch id'
            when els.is_named(:text, :is_prefix, text_storage_id) then 'text storage id'
            when els.is_named(:text, :is_prefix, file_upload_id) then 'upload id'
            when :is_prefix or correlation_id = :correlation_id::uuid then 'correlation id'
            else 'file name'
        end as matched,
        'content' as kind, state, batch_id, text_storage_id, file_upload_id, original_file_name,
        coalesce(closed_at, stored_at) as at, stored_at as first_at,
        case state
            when 'pending' then 'waits for the registration'
            when 'expired' then 'the registration did not come in time, and takes it if it comes'
            else 'removed by an operator'
        end as details,
        correlation_id
    from els.own_pending_content as pending_content
    where els.is_named(:text, :is_prefix, batch_id, text_storage_id, file_upload_id)
        or correlation_id = :correlation_id
        or :is_prefix and starts_with(correlation_id::text, :text)
        or position(:name in els.folded(original_file_name)) > 0
    union all
    select
        case
            when els.is_named(:text, :is_prefix, batch_id) then 'batch id'
            when els.is_named(:text, :is_prefix, file_upload_id) then 'upload id'
            when :is_prefix or correlation_id = :correlation_id then 'correlation id'
            else 'file name'
        end,
        'failure', state, batch_id, null, file_upload_id, original_file_name, coalesce(closed_at, stored_at),
        stored_at, concat(validation_error_code, ': ', left(error_detail ->> 'message', 255)), correlation_id
    from (
        select *
        from els.own_validation_failures as validation_failures
        where state in ('pending', 'expired')
        union all
        select *
        from els.own_validation_failures as validation_failures
        where state = 'removed'
    ) as waiting
    where els.is_named(:text, :is_prefix, batch_id, file_upload_id)
        or correlation_id = :correlation_id
        or :is_prefix and starts_with(correlation_id::text, :text)
        or position(:name in els.folded(original_file_name)) > 0
    union all
    select
        case
            when els.is_named(:text, :is_prefix, batch_id) then 'batch id'
            when els.is_named(:text, :is_prefix, class_id) then 'class id'
            else 'correlation id'
        end,
        'confirmation', state, batch_id, null, null, null, stored_at, stored_at, concat(associations, ' associations'),
        correlation_id
    from els.own_confirmations as confirmations
    where els.is_named(:text, :is_prefix, batch_id, class_id)
        or correlation_id = :correlation_id
        or :is_prefix and starts_with(correlation_id::text, :text)
) as found
where (:since::timestamptz is null or state = 'pending' or at >= :since)
    and (:until::timestamptz is null or first_at <= :until)
order by at desc
limit :page
