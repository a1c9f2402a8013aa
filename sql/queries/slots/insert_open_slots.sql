-- Inserts open slots of batches that are registered in this transaction.
-- Index: slots_pkey, slots_open. Locks: the new rows.
insert into els.slots (batch_id, essay_id, position)
select batch_id, essay_id, position
from unnest(:batch_ids::text[], :essay_ids::text[], :positions::bigint[]) as slot (batch_id, essay_id, position)
