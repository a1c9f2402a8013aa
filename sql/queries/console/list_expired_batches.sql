-- Returns the batches of what expired last and was neither restored nor removed, the latest first: among the 10,000
-- contents and the 10,000 validation failures that expired last.
-- Index: pending_content_expired, validation_failures_expired. Locks: none.
with expired as (
    (
        select batch_id, closed_at, false as is_failure
        from els.own_pending_content as pending_content
        where state = 'expired'
        order by closed_at desc
        limit 10000
    )
    union all
    (
        select batch_id, closed_at, true
        from els.own_validation_failures as validation_failures
        where state = 'expired'
        order by closed_at desc
        limit 10000
    )
)
select
    batch_id, count(*) filter (where not is_failure) as contents, count(*) filter (where is_failure) as failures,
    max(closed_at) as expired_at
from expired
group by batch_id
order by expired_at desc, batch_id
limit :page
