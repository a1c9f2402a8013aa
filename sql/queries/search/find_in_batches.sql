-- Finds batches, slots, excess content and settled failures by an id (`text`; as a UUID also `correlation_id`) or a
-- part of a file's name (`name`, as els.folded returns it), within times, those of the batches that changed last first.
-- What waited counts from the time when it was stored, a batch also until its last change or, while it is open, until
-- now. With `is_prefix`, `text` is the beginning of an id, of eight characters at least; no name is searched then.
-- The rows of the search say which batches to read: a hash of four bytes may also belong to another id, and what
-- changed since they were written (`known_until`) may match too. The batches themselves are then read until there are
-- enough rows. Of those that the rows of the search name, at most twenty times as many are read as rows are wanted.
-- Index: batches_changed, excess_content_declared, validation_failures_stored, the primary keys; all of els.search is
-- read. Locks: none.
with candidates as materialized (
    select batch_id, max(changed_at) as changed_at
    from (
        (
            select batch_id, changed_at
            from els.search
            where case
                    when :is_prefix then position(int4send(hashtext(left(:text, 8))) in prefixes) > 0
                    else position(int4send(hashtext(:text)) in ids) > 0 or position(:name in names) > 0
                end
                and (:until::timestamptz is null or coalesce(first_at, registered_at) <= :until)
            order by changed_at desc
            limit 20 * :page
        )
        union all
        select batch_id, changed_at
        from els.own_batches as batches
        where batch_id = :text
        union all
        select batch_id, changed_at
        from els.own_batches as batches
        where changed_at > :known_until::timestamptz
        union all
        select batch_id, declared_at
        from els.own_excess_content as excess_content
        where declared_at > :known_until
        union all
        select batch_id, stored_at
        from els.own_validation_failures as validation_failures
        where stored_at > :known_until
            and state in ('slot', 'surplus')
    ) as given
    group by batch_id
)
select
    found.matched, found.kind, found.state, candidates.batch_id, found.text_storage_id, found.file_upload_id,
    found.essay_id, left(found.original_file_name, 255) as original_file_name, found.at, found.details,
    found.correlation_id
from (select * from candidates order by changed_at desc, batch_id) as candidates
cross join lateral (
    select
        case
            when els.is_named(:text, :is_prefix, batch_id) then 'batch id'
            when els.is_named(:text, :is_prefix, user_id) then 'user id'
            when els.is_named(:text, :is_prefix, class_id) then 'class id'
            when els.is_named(:text, :is_prefix, org_id) then 'org id'
            else 'correlation id'
        end as matched,
        'batch' as kind, state, null as text_storage_id, null as file_upload_id, null as essay_id,
        null as original_file_name, registered_at as at, registered_at as first_at,
        concat(assigned, ' assigned, ', failed, ' failed, of ', expected) as details, correlation_id
    from els.own_batches as batches
    where batch_id = candidates.batch_id
        and (
            els.is_named(:text, :is_prefix, batch_id, user_id, class_id, org_id)
            or correlation_id = :correlation_id::uuid
            or :is_prefix and starts_with(correlation_id::text, :text)
        )
    union all
    select
        case
            when els.is_named(:text, :is_prefix, essay_id) then 'essay id'
            when els.is_named(:text, :is_prefix, text_storage_id) then 'text storage id'
            when els.is_named(:text, :is_prefix, file_upload_id) then 'upload id'
            when :is_prefix or correlation_id = :correlation_id then 'correlation id'
            else 'file name'
        end,
        'slot', state, text_storage_id, file_upload_id, essay_id, original_file_name, taken_at,
        coalesce(pending_at, taken_at),
        concat('slot ', position, els.pending_since(pending_at, history)), correlation_id
    from els.own_slots as slots
    where batch_id = candidates.batch_id
        and (
            els.is_named(:text, :is_prefix, essay_id)
            or state = 'assigned' and (
                els.is_named(:text, :is_prefix, text_storage_id, file_upload_id)
                or correlation_id = :correlation_id
                or :is_prefix and starts_with(correlation_id::text, :text)
                or position(:name in els.folded(original_file_name)) > 0
            )
        )
    union all
    select
        case
            when els.is_named(:text, :is_prefix, text_storage_id) then 'text storage id'
            when els.is_named(:text, :is_prefix, file_upload_id) then 'upload id'
            when :is_prefix or correlation_id = :correlation_id then 'correlation id'
            else 'file name'
        end,
        'excess', 'excess', text_storage_id, file_upload_id, null, original_file_name, declared_at,
        coalesce(pending_at, declared_at),
        concat(reason, els.pending_since(pending_at, history)), correlation_id
    from els.own_excess_content as excess_content
    where batch_id = candidates.batch_id
        and (
            els.is_named(:text, :is_prefix, text_storage_id, file_upload_id)
            or correlation_id = :correlation_id
            or :is_prefix and starts_with(correlation_id::text, :text)
            or position(:name in els.folded(original_file_name)) > 0
        )
    union all
    select
        case
            when els.is_named(:text, :is_prefix, file_upload_id) then 'upload id'
            when :is_prefix or correlation_id = :correlation_id then 'correlation id'
            else 'file name'
        end,
        'failure', state, null, file_upload_id, null, original_file_name, stored_at, stored_at,
        concat(validation_error_code, ': ', left(error_detail ->> 'message', 255)), correlation_id
    from els.own_validation_failures as validation_failures
    where batch_id = candidates.batch_id
        and state in ('slot', 'surplus')
        and (
            els.is_named(:text, :is_prefix, file_upload_id)
            or correlation_id = :correlation_id
            or :is_prefix and starts_with(correlation_id::text, :text)
            or position(:name in els.folded(original_file_name)) > 0
        )
) as found
where (
        :since::timestamptz is null or found.at is null or found.at >= :since
        or found.kind = 'batch' and (found.state in ('registered', 'complete') or candidates.changed_at >= :since)
    )
    and (:until is null or found.first_at is null or found.first_at <= :until)
limit :page
