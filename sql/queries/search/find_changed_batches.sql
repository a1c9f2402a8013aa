-- Finds a page of batches that changed since a time, in the order of their ids: at most so many, of at most so many
-- slots together, but at least one.
-- Written so that only the indexes of times can be used, and no walk through the primary keys.
-- Index: batches_changed, excess_content_declared, validation_failures_stored, batches_pkey. Locks: none.
with changed as materialized (
    select batch_id || '' as batch_id
    from els.own_batches as batches
    where changed_at > :since::timestamptz
    union
    select batch_id || ''
    from els.own_excess_content as excess_content
    where declared_at > :since
    union
    select batch_id || ''
    from els.own_validation_failures as validation_failures
    where stored_at > :since
),
page as materialized (
    select changed.batch_id, batch.expected
    from changed
    cross join lateral (
        select expected
        from els.own_batches as batches
        where batches.batch_id = changed.batch_id
        limit 1
    ) as batch
    where changed.batch_id > :after
    order by changed.batch_id
    limit :most
)
select batch_id
from (select batch_id, sum(expected) over (order by batch_id) - expected as before from page) as counted
where before < :slots
order by batch_id
