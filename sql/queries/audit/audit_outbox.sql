-- Reads all events that are not published yet, for an audit.
-- Index: none, the whole outbox is read. Locks: none.
select batch_id, topic, event, seq, created_at
from ops.outbox_events
