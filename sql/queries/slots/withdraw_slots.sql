-- Withdraws the open slots of one batch. Returns the first of their essays, in slot order.
-- Index: slots_open. Locks: the rows, held since lock_open_slots.
with withdrawn as (
    update els.slots
    set state = 'withdrawn'
    where batch_id = :batch_id
        and state = 'open'
    returning essay_id, position
)
select essay_id
from withdrawn
order by position
limit :most
