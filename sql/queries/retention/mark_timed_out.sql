-- These batches were reported as late, once and for all.
-- Index: batches_pkey. Locks: the rows, held since find_late_batches.
update els.batches
set timed_out_at = :now::timestamptz
where batch_id = any(:batch_ids::text[])
