-- Finds the batches of a user.
-- Index: none, the whole table is read. Locks: none.
select batch_id
from els.batches
where user_id = :user_id
order by batch_id
