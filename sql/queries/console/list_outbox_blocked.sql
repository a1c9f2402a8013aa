-- Returns batches whose next event could not be published, the longest blocked first.
-- Index: outbox_pages_batch, outbox_pkey. Locks: none.
select batch_id, topic, rows as events, left(error, 500) as error, since, retry_at
from ops.outbox_blocked
order by since, batch_id
limit :page
