-- Stores confirmations with their state (pending, applied, unused), and gives it to those that were pending. Returns
-- what was new or pending. Rows are written in the order of the key, as pending content is.
-- Index: confirmations_pkey. Locks: the rows; waits for a transaction that is writing the same confirmation.
insert into els.confirmations (
    batch_id, class_id, state, associations, correlation_id, traceparent, tracestate, stored_at
)
select batch_id, class_id, state, associations, correlation_id, traceparent, tracestate, transaction_timestamp()
from unnest(
    :batch_ids::text[], :class_ids::text[], :states::text[], :associations::bigint[], :correlation_ids::uuid[],
    :traceparents::text[], :tracestates::text[]
) as confirmation (
    batch_id, class_id, state, associations, correlation_id, traceparent, tracestate
)
order by batch_id, class_id
on conflict (batch_id, class_id) do update
set state = excluded.state
where confirmations.state = 'pending'
    and excluded.state <> 'pending'
returning batch_id, class_id
