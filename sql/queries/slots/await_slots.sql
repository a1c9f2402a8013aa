-- Locks the first open slots of one batch, and waits for the transactions that hold them. Slots that it does not return
-- are taken by committed transactions. All who wait here lock in slot order, and hold nothing that the others wait for.
-- Index: slots_open. Locks: the rows it returns, for update; waits as long as lock_timeout allows.
select essay_id
from els.slots
where batch_id = :batch_id
    and state = 'open'
order by position
limit :count
for update
