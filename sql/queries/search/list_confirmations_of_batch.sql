-- Returns the confirmations of a batch.
-- Index: confirmations_pkey. Locks: none.
select left(class_id, 255) as class_id, state, associations, stored_at
from els.own_confirmations as confirmations
where batch_id = :batch_id
order by stored_at
limit :page
