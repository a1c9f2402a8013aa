-- Locks the first open slots of each batch: as many as wanted, of those that no other transaction holds. Fewer does not
-- mean that the batch is full: a slot that another transaction holds may be open again when it ends (await_slots).
-- Index: slots_open. Locks: the claimed rows, for update, skipping what is locked.
select slot.batch_id, slot.essay_id, slot.position
from unnest(:batch_ids::text[], :counts::bigint[]) as wanted (batch_id, slots)
cross join lateral (
    select slots.batch_id, slots.essay_id, slots.position
    from els.slots
    where slots.batch_id = wanted.batch_id
        and slots.state = 'open'
    order by slots.position
    limit wanted.slots
    for update skip locked
) as slot
