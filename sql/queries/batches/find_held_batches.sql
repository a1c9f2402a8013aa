-- Which of these batches somebody else holds by their deciding row: what a poll that ran into lock_timeout sets
-- aside. What is free is held only for this short transaction.
-- Index: batches_pkey. Locks: the free rows, for no key update, skipping the others.
with free as materialized (
    select batches.batch_id
    from els.batches
    where batches.batch_id = any(:batch_ids::text[])
    for no key update skip locked
)
select batches.batch_id
from els.batches
where batches.batch_id = any(:batch_ids::text[])
    and not exists (
        select
        from free
        where free.batch_id = batches.batch_id
    )
