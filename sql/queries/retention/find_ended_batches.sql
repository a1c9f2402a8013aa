-- Finds batches that became ready or failed, or were reported as late, long ago, the oldest first: those where nothing
-- has happened since, not even an upload that found no slot, and all events are published. One that waits for a
-- confirmation has not ended. Only a read, as find_due_content.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: batches_ended, outbox_pages_batch, outbox_pkey, excess_content_pkey, confirmations_pkey,
-- validation_failures_pkey. Locks: none.
select batch_id, expected
from els.own_ended_batches as ended_batches
where ended_at <= :due::timestamptz
    and unchanged_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by ended_at
limit :page
