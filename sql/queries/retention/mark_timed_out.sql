-- Marks batches as reported late; each is reported once only.
-- Index: batches_pkey. Locks: the rows, held since find_late_batches.
update els.batches
set timed_out_at = :now::timestamptz
where batch_id = any(:batch_ids::text[])
