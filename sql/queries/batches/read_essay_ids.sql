-- Reads the essays of these batches in slot order, which is the order in their first registrations.
-- Index: slots_pkey. Locks: none.
select batch_id, essay_id
from els.slots
where batch_id = any(:batch_ids::text[])
order by batch_id, position
