-- What is committed about each of these batches; one row for each id, nulls where it is not registered.
-- A row that is there needs no lock: nothing unregisters a batch while its topics may still deliver it.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: batches_pkey. Locks: none.
select
    asked.batch_id,
    transaction_timestamp(),
    known.expected,
    known.assigned,
    known.failed,
    known.essay_set
from unnest(:batch_ids::text[]) as asked (batch_id)
left join lateral (
    select batches.expected, batches.assigned, batches.failed, batches.essay_set
    from els.batches
    where batches.batch_id = asked.batch_id
    limit 1
) as known on true
