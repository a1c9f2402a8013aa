-- Reads all batches, for an audit.
-- Index: none, the whole table is read. Locks: none.
select
    batch_id, essay_set, expected, assigned, failed, state, coalesce(class_id, '') as class_id, withdrawn,
    coalesce(cancel_reason, '') as cancel_reason, registered_at, completed_at, timed_out_at, confirmed_at,
    ready_announced_at, cancelled_at
from els.batches
