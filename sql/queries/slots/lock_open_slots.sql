-- Locks all open slots of one batch in slot order, and waits for the transactions that hold them. Returns how many are
-- open then: no other transaction can take them. The counter row of the batch is locked after this, as by those who
-- take slots, who hold a slot while they wait for it.
-- Index: slots_open. Locks: the open slots, for update; waits as long as lock_timeout allows.
with open_slots as materialized (
    select essay_id
    from els.slots
    where batch_id = :batch_id
        and state = 'open'
    order by position
    for update
)
select count(*)
from open_slots
