-- Sets the counters, the state and the times of these batches to what their slots and their announcements state. A batch
-- that is full and was not announced is complete from now on. `is_ready` says that BatchEssaysReady was announced;
-- `ready_at` is null then where a release has announced it that announced nothing else of a completion.
-- Index: batches_pkey, slots_pkey. Locks: the rows.
update els.batches
set assigned = counted.assigned,
    failed = counted.failed,
    state = case
        when counted.assigned + counted.failed < counted.expected then 'registered'
        when counted.assigned = 0 then 'failed'
        when counted.waits then 'complete'
        else 'ready'
    end,
    completed_at = case when counted.assigned + counted.failed = counted.expected then counted.completed_at end,
    ready_announced_at = case
        when counted.assigned + counted.failed < counted.expected or counted.assigned = 0 or counted.waits then null
        when counted.is_ready then coalesce(counted.ready_at, counted.ready_announced_at)
        else greatest(counted.completed_at, batches.confirmed_at)
    end,
    timed_out_at = coalesce(counted.timed_out_at, batches.timed_out_at),
    changed_at = transaction_timestamp()
from (
    select
        before.batch_id,
        before.expected,
        before.ready_announced_at,
        announced.timed_out_at,
        announced.ready_at,
        announced.is_ready or before.state = 'ready' as is_ready,
        coalesce(announced.completed_at, before.completed_at, transaction_timestamp()) as completed_at,
        :waits::boolean
            and not announced.is_ready
            and before.state <> 'ready'
            and coalesce(before.class_id, '') <> ''
            and before.confirmed_at is null as waits,
        slots.*
    from unnest(
        :batch_ids::text[], :completed_at::timestamptz[], :timed_out_at::timestamptz[], :ready_at::timestamptz[],
        :is_ready::boolean[]
    ) as announced (batch_id, completed_at, timed_out_at, ready_at, is_ready)
    inner join els.batches as before
        on before.batch_id = any(array[announced.batch_id])
    cross join lateral (
        select
            count(*) filter (where slots.state = 'assigned') as assigned,
            count(*) filter (where slots.state = 'failed') as failed
        from els.slots
        where slots.batch_id = announced.batch_id
    ) as slots
) as counted
where batches.batch_id = counted.batch_id
returning batches.batch_id, batches.completed_at
