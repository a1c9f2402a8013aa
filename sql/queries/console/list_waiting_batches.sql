-- Returns the batches whose content or failures have waited longest for their registration, with how many of each wait:
-- among the 10,000 of each that have waited longest, so that the cost does not depend on how many wait.
-- Index: pending_content_due, validation_failures_due. Locks: none.
with waiting as (
    (
        select batch_id, waiting_since, true as is_content
        from els.own_pending_content as pending_content
        where state = 'pending'
        order by waiting_since
        limit 10000
    )
    union all
    (
        select batch_id, waiting_since, false
        from els.own_validation_failures as validation_failures
        where state = 'pending'
        order by waiting_since
        limit 10000
    )
)
select
    batch_id,
    count(*) filter (where is_content) as contents,
    count(*) filter (where not is_content) as failures,
    min(waiting_since) as since
from waiting
group by batch_id
order by since, batch_id
limit :page
