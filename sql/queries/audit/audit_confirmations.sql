-- Reads all confirmations, for an audit.
-- Index: none, the whole table is read. Locks: none.
select batch_id, class_id, state, stored_at
from els.confirmations
