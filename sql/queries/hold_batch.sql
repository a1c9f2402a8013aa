-- One batch with all its slots, if nobody else holds any of it. Whoever seats an upload holds a slot first and waits
-- for the batch's row later, so the slots are not waited for. What is true of the batch then is the next statement's.
-- Index: batches_pkey, slots_pkey. Locks: the batch's row and its slots, skipping those that others hold.
with batch as materialized (
    select batch_id, expected
    from els.batches
    where batch_id = :batch_id
    for update skip locked
),
held as materialized (
    select slots.batch_id
    from els.slots
    where slots.batch_id = (select batch.batch_id from batch)
    for update skip locked
)
select batch.expected
from batch
where batch.expected = (select count(*) from held)
