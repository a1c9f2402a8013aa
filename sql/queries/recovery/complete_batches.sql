-- Forgets that batches were incomplete: their registration has come.
-- Index: incomplete_batches_pkey. Locks: the rows.
delete from els.incomplete_batches
where batch_id = any(:batch_ids::text[])
