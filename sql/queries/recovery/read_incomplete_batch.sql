-- Reads the announcements of a batch whose registration is in no topic.
-- Index: incomplete_batches_pkey. Locks: none.
select announcements
from els.incomplete_batches
where batch_id = :batch_id
