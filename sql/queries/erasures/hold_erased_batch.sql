-- Locks the counter row of a batch, if it is registered: a transaction that takes a slot of it then sees that data was
-- erased since it read the batch, and begins again.
-- Index: batches_pkey. Locks: the row, for no key update; waits as long as lock_timeout allows.
select
from els.batches
where batch_id = :batch_id
for no key update
