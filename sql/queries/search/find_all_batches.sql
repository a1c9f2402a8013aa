-- Finds a page of registered batches in the order of their ids: at most so many, of at most so many slots together, but
-- at least one.
-- Index: batches_pkey. Locks: none.
select batch_id
from (
    select batch_id, sum(expected) over (order by batch_id) - expected as before
    from (
        select batch_id, expected
        from els.own_batches as batches
        where batch_id > :after
        order by batch_id
        limit :most
    ) as page
) as counted
where before < :slots
order by batch_id
