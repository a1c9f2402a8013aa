-- Finds a page of batches that changed since a time (null: of all), in the order of their ids: at most so many, of at most
-- so many slots together, but at least one.
-- Index: batches_changed, excess_content_declared, validation_failures_stored, or the primary keys. Locks: none.
with changed as materialized (
    (
        select batch_id
        from els.batches
        where batch_id > :after
            and changed_at > coalesce(:since::timestamptz, '-infinity')
        order by batch_id
        limit :most
    )
    union
    (
        select batch_id
        from els.excess_content
        where batch_id > :after
            and declared_at > :since
        order by batch_id
        limit :most
    )
    union
    (
        select batch_id
        from els.validation_failures
        where batch_id > :after
            and stored_at > :since
        order by batch_id
        limit :most
    )
)
select batch_id
from (
    select batches.batch_id, sum(batches.expected) over (order by batches.batch_id) - batches.expected as before
    from changed
    inner join els.batches using (batch_id)
    order by batches.batch_id
    limit :most
) as counted
where before < :slots
order by batch_id
