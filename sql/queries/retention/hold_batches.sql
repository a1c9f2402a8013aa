-- Locks those of these batches of which no other transaction holds anything, each with all its slots. A transaction
-- that assigns an upload locks a slot first and waits for the batch's row later, so waiting for slots here could
-- deadlock. The next statement reads what is true of the batches then.
-- Index: batches_pkey, slots_pkey. Locks: the batches' rows and their slots, skipping those that others hold.
with held_batches as materialized (
    select batch_id, expected
    from els.batches
    where batch_id = any(:batch_ids::text[])
    for update skip locked
),
held_slots as materialized (
    select batch_id
    from els.slots
    where batch_id = any(array(select held_batches.batch_id from held_batches))
    for update skip locked
)
select held_batches.batch_id
from held_batches
inner join (select batch_id, count(*) as slots from held_slots group by batch_id) as counted
    on held_batches.batch_id = counted.batch_id
        and held_batches.expected = counted.slots
