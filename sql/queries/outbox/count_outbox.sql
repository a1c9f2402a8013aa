-- Counts the rows that wait to be published. Reads the whole outbox, which holds nothing else.
-- Index: none. Locks: none.
select count(*)
from els.outbox
