-- The row that decides: adds what this transaction has taken to its batches' counters and tells how they stand.
-- Every transaction that publishes for a registered batch passes here, after it has its slots and before its
-- outbox rows; so the last one to pass sees the batch complete, and outbox numbers follow the order of commits.
-- Index: batches_pkey. Locks: the batches' rows, in the order of their ids, until the transaction ends.
with held as materialized (
    select batches.batch_id, taken.assigned, taken.failed
    from unnest(:batch_ids::text[], :assigned::bigint[], :failed::bigint[]) as taken (batch_id, assigned, failed)
    inner join els.batches
        on batches.batch_id = taken.batch_id
    order by batches.batch_id
    for no key update of batches
)
update els.batches
set assigned = batches.assigned + held.assigned,
    failed = batches.failed + held.failed,
    state = case
        when batches.assigned + held.assigned + batches.failed + held.failed < batches.expected then 'registered'
        when batches.assigned + held.assigned > 0 then 'ready'
        else 'failed'
    end,
    completed_at = case
        when batches.assigned + held.assigned + batches.failed + held.failed < batches.expected then null
        else coalesce(batches.completed_at, transaction_timestamp())
    end,
    changed_at = transaction_timestamp()
from held
where batches.batch_id = held.batch_id
returning batches.batch_id, batches.expected, batches.assigned, batches.failed
