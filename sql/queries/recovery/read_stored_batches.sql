-- Reads these batches, for a recovery.
-- Index: batches_pkey. Locks: none.
select
    batch_id, essay_set, completed_at, timed_out_at, assigned, failed, expected, state, ready_announced_at,
    cancelled_at, cancel_reason
from els.batches
where batch_id = any(:batch_ids::text[])
