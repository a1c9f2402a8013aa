-- Reads the batches whose registration is in no topic, with their announcements.
-- Index: none, the whole table is read. Locks: none.
select batch_id, announcements
from els.incomplete_batches
