-- Sets the counters, the state and the times of these batches to what their slots and their announcements state. A batch
-- that is full and was not announced is complete from now on.
-- Index: batches_pkey, slots_pkey. Locks: the rows.
update els.batches
set assigned = counted.assigned,
    failed = counted.failed,
    state = case
        when counted.assigned + counted.failed < batches.expected then 'registered'
        when counted.assigned > 0 then 'ready'
        else 'failed'
    end,
    completed_at = case
        when counted.assigned + counted.failed = batches.expected
            then coalesce(announced.completed_at, batches.completed_at, transaction_timestamp())
    end,
    timed_out_at = coalesce(announced.timed_out_at, batches.timed_out_at),
    changed_at = transaction_timestamp()
from unnest(:batch_ids::text[], :completed_at::timestamptz[], :timed_out_at::timestamptz[])
    as announced (batch_id, completed_at, timed_out_at)
cross join lateral (
    select
        count(*) filter (where slots.state = 'assigned') as assigned,
        count(*) filter (where slots.state = 'failed') as failed
    from els.slots
    where slots.batch_id = announced.batch_id
) as counted
where batches.batch_id = announced.batch_id
returning batches.batch_id, batches.completed_at
