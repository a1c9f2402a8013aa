-- Reads the confirmations that wait for the registration of these batches, in the order in which they came.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: confirmations_pkey. Locks: none.
with known as materialized (
    select batch_id, class_id, state, associations, correlation_id, traceparent, tracestate, stored_at
    from els.confirmations
    where batch_id = any(:batch_ids::text[])
)
select batch_id, class_id, associations, correlation_id, traceparent, tracestate
from known
where state = 'pending'
order by stored_at, class_id
