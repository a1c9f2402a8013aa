-- Reads the essays that one batch still waits for, in slot order.
-- Index: slots_open. Locks: none; the caller holds the batch's counter row.
select essay_id
from els.slots
where batch_id = :batch_id
    and state = 'open'
order by position
