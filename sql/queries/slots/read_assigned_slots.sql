-- Every assigned essay of complete batches in slot order, for their BatchEssaysReady; read after count_taken, in a
-- statement of its own, so that it sees what all the transactions before it have taken.
-- Index: slots_pkey. Locks: none.
select batch_id, essay_id, text_storage_id
from els.slots
where batch_id = any(:batch_ids::text[])
    and state = 'assigned'
order by batch_id, position
