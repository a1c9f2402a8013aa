-- Finds rejected inputs by the same as find_in_batches: by what is in columns of their own, and among the newest also
-- by what their decoded key, value or error contains, where these are short. The older ones are read only where the
-- newest that match are no whole page, and then in any order (id + 0), so that several processes can share them.
-- Index: quarantine_pkey for the newest; else none. Locks: none.
with newest as materialized (
    select id
    from els.own_quarantine
    where id >= (select min(id) from (select id from els.own_quarantine order by id desc limit :searched) as searched)
        and (:since::timestamptz is null or first_seen_at >= :since)
        and (:until::timestamptz is null or first_seen_at <= :until)
        and (
            els.is_named(:text, :is_prefix, batch_id)
            or correlation_id = :correlation_id::uuid
            or :is_prefix and starts_with(correlation_id::text, :text)
            or position(:name in els.folded(original_file_name)) > 0
            or not :is_prefix
            and case when coalesce(octet_length(value), 0) <= :bytes then els.mentions(key, value, error, :text) end
        )
    order by id desc
    limit :page
),
older as materialized (
    select id
    from els.own_quarantine
    where (select count(*) from newest) < :page
        and id + 0 < (select min(id) from (select id from els.own_quarantine order by id desc limit :searched) as searched)
        and (:since is null or first_seen_at >= :since)
        and (:until is null or first_seen_at <= :until)
        and (
            els.is_named(:text, :is_prefix, batch_id)
            or correlation_id = :correlation_id
            or :is_prefix and starts_with(correlation_id::text, :text)
            or position(:name in els.folded(original_file_name)) > 0
        )
    order by id + 0 desc
    limit :page
)
select
    case
        when els.is_named(:text, :is_prefix, batch_id) then 'batch id'
        when :is_prefix or correlation_id = :correlation_id then 'correlation id'
        when position(:name in els.folded(original_file_name)) > 0 then 'file name'
        else 'content'
    end as matched,
    'rejected' as kind, state, batch_id, null as text_storage_id, null as file_upload_id, null as essay_id,
    left(original_file_name, 255) as original_file_name, first_seen_at as at,
    concat('quarantine ', id, ': ', reason, ', ', left(error, 255)) as details, correlation_id
from els.own_quarantine
where id = any(array(select id from newest union all select id from older))
order by id desc
limit :page
