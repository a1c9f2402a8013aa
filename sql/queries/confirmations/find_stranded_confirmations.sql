-- Finds confirmations that wait although their batch is registered, and locks the counter rows of these batches: a pod
-- of a release that knows no confirmations has registered them.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: confirmations_waiting, batches_pkey. Locks: the batches' rows, for no key update, skipping those that others
-- hold.
with waiting as materialized (
    select batch_id, class_id, associations, correlation_id, traceparent, tracestate, stored_at
    from els.own_confirmations as confirmations
    where state = 'pending'
        and exists (
            select
            from els.batches
            where batches.batch_id = confirmations.batch_id
            offset 0
        )
    order by stored_at
    limit :page
),
registered as materialized (
    select batches.batch_id, batches.state, batches.class_id, batches.confirmed_at
    from els.batches
    where batches.batch_id = any(array(select waiting.batch_id from waiting))
    for no key update skip locked
)
select
    waiting.batch_id, waiting.class_id, waiting.associations, waiting.correlation_id, waiting.traceparent,
    waiting.tracestate, registered.state, registered.class_id, registered.confirmed_at is not null
from waiting
inner join registered
    on waiting.batch_id = registered.batch_id
order by waiting.stored_at, waiting.class_id
