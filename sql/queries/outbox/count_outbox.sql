-- How many rows wait to be published. Reads the whole outbox, which holds nothing else. Locks: none.
select count(*)
from els.outbox
