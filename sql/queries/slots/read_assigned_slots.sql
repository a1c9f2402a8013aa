-- Reads every assigned slot of complete batches in slot order, for their BatchEssaysReady. It runs after count_taken
-- and as a statement of its own, so that it sees all slots that earlier transactions have taken.
-- Index: slots_pkey. Locks: none.
select batch_id, essay_id, text_storage_id
from els.slots
where batch_id = any(:batch_ids::text[])
    and state = 'assigned'
order by batch_id, position
