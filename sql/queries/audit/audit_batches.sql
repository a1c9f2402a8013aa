-- Reads all batches, for an audit.
-- Index: none, the whole table is read. Locks: none.
select batch_id, essay_set, expected, assigned, failed, state, registered_at, completed_at, timed_out_at
from els.batches
