-- Returns those of these batches whose counter row another transaction holds: a poll whose wait ended at lock_timeout
-- defers them. Free rows are locked only for this short transaction.
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
