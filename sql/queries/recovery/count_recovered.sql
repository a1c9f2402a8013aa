-- Sets the counters, the state and the times of these batches to what their slots and their announcements state. A
-- batch that is full and was not announced is complete from now on. `is_ready` says that BatchEssaysReady was
-- announced; `ready_at` is null then where a release has announced it that announced nothing else of a completion.
-- `cancelled_at` is null for a batch that is not cancelled.
-- Index: batches_pkey, slots_pkey. Locks: the rows.
update els.batches
set assigned = counted.assigned,
    failed = counted.failed,
    withdrawn = counted.withdrawn,
    state = case
        when not counted.is_full then 'registered'
        when counted.cancelled_at is not null then 'cancelled'
        when counted.assigned = 0 then 'failed'
        when counted.waits then 'complete'
        else 'ready'
    end,
    completed_at = case when counted.is_full then counted.completed_at end,
    ready_announced_at = case
        when not counted.is_full or counted.assigned = 0 or counted.waits or counted.cancelled_at is not null then null
        when counted.is_ready then coalesce(counted.ready_at, counted.ready_announced_at)
        else greatest(counted.completed_at, batches.confirmed_at)
    end,
    timed_out_at = coalesce(counted.timed_out_at, batches.timed_out_at),
    cancelled_at = case when counted.is_full then counted.cancelled_at end,
    cancel_reason = case when counted.is_full then counted.cancel_reason end,
    changed_at = transaction_timestamp()
from (
    select
        before.batch_id,
        before.ready_announced_at,
        announced.timed_out_at,
        announced.ready_at,
        announced.cancelled_at,
        announced.cancel_reason,
        announced.is_ready or before.state = 'ready' as is_ready,
        coalesce(
            announced.completed_at, before.completed_at, announced.cancelled_at, transaction_timestamp()
        ) as completed_at,
        :waits::boolean
            and not announced.is_ready
            and before.state <> 'ready'
            and coalesce(before.class_id, '') <> ''
            and before.confirmed_at is null as waits,
        slots.assigned,
        slots.failed,
        slots.withdrawn,
        slots.assigned + slots.failed + slots.withdrawn = before.expected as is_full
    from unnest(
        :batch_ids::text[], :completed_at::timestamptz[], :timed_out_at::timestamptz[], :ready_at::timestamptz[],
        :is_ready::boolean[], :cancelled_at::timestamptz[], :cancel_reasons::text[]
    ) as announced (batch_id, completed_at, timed_out_at, ready_at, is_ready, cancelled_at, cancel_reason)
    inner join els.batches as before
        on before.batch_id = any(array[announced.batch_id])
    cross join lateral (
        select
            count(*) filter (where slots.state = 'assigned') as assigned,
            count(*) filter (where slots.state = 'failed') as failed,
            count(*) filter (where slots.state = 'withdrawn') as withdrawn
        from els.slots
        where slots.batch_id = announced.batch_id
    ) as slots
) as counted
where batches.batch_id = counted.batch_id
returning batches.batch_id, batches.completed_at
