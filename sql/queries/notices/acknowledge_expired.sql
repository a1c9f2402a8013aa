-- Marks as seen what has expired so far: what this transaction sees, not what expires while it runs. Returns up to
-- when, and how many contents and validation failures that are, of at most 50,000 each; nothing where there are none.
-- Index: expired_seen_pkey, pending_content_expired, validation_failures_expired. Locks: the row.
with unseen as (
    (
        select closed_at, false as is_failure
        from els.own_pending_content as pending_content
        where state = 'expired'
            and closed_at > (select until from els.expired_seen)
        order by closed_at desc
        limit 50000
    )
    union all
    (
        select closed_at, true
        from els.own_validation_failures as validation_failures
        where state = 'expired'
            and closed_at > (select until from els.expired_seen)
        order by closed_at desc
        limit 50000
    )
)
update els.expired_seen
set until = (select max(closed_at) from unseen)
where exists (select from unseen)
returning
    until,
    (select count(*) from unseen where not is_failure),
    (select count(*) from unseen where is_failure)
