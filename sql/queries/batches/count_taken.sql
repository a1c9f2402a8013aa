-- Adds the slots that this transaction has taken to the counters of their batches, and returns the new counters. Each
-- transaction that publishes for a registered batch runs this after it has its slots and before it inserts its outbox
-- rows. The lock on the counter row makes them run one after the other, so the last one sees the batch complete, and
-- outbox numbers follow the order of commits. A row that was waited for is read in its newest version. A row to which
-- nothing is added is locked, but not written. One that an operator has closed or cancelled has no slot to take. With
-- `waits`, a batch with a class is ready only when it is confirmed.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: batches_pkey. Locks: the batches' rows, in the order of their ids, until the transaction ends.
with held as materialized (
    select
        batches.batch_id,
        batches.expected,
        batches.assigned + taken.assigned as assigned,
        batches.failed + taken.failed as failed,
        batches.withdrawn,
        taken.assigned + taken.failed as newly,
        batches.erased_at,
        :waits::boolean and coalesce(batches.class_id, '') <> '' and batches.confirmed_at is null as waits
    from unnest(:batch_ids::text[], :assigned::bigint[], :failed::bigint[]) as taken (batch_id, assigned, failed)
    inner join els.batches
        on batches.batch_id = any(array[taken.batch_id])
    order by taken.batch_id  -- not the table's own column, which would invite a walk through all of its index
    for no key update of batches
),
counted as (
    update els.batches
    set assigned = held.assigned,
        failed = held.failed,
        state = case
            when held.assigned + held.failed + held.withdrawn < held.expected then 'registered'
            when held.assigned = 0 then 'failed'
            when held.waits then 'complete'
            else 'ready'
        end,
        completed_at = case
            when held.assigned + held.failed + held.withdrawn = held.expected then transaction_timestamp()
        end,
        ready_announced_at = case
            when held.assigned + held.failed + held.withdrawn = held.expected
                and held.assigned > 0
                and not held.waits
                then transaction_timestamp()
        end,
        changed_at = transaction_timestamp()
    from held
    where batches.batch_id = any(array[held.batch_id])
        and held.newly > 0
)
select batch_id, expected, assigned, failed, withdrawn, erased_at
from held
