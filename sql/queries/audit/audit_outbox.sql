-- Reads all events that are not published yet, for an audit.
-- Index: none, the whole table is read. Locks: none.
select aggregateid, type, payload, seq, created_at
from els.outbox
