-- The second look: the first open slots of one batch, waiting for whoever holds them. What it does not find is
-- taken, committed. In slot order, as everybody who waits here, and holding nothing that they wait for.
-- Index: slots_open. Locks: the rows it returns, for update; waits as long as lock_timeout allows.
select essay_id
from els.slots
where batch_id = :batch_id
    and state = 'open'
order by position
limit :count
for update
