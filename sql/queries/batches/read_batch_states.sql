-- Reads what is committed about these batches: one row for each id, with nulls where the batch is not registered.
-- `has_erasures`: there are tombstones, with which to compare what is written.
-- A registered batch needs no lock: none is deleted while its topics may still deliver records of it.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: batches_pkey, erasures_pkey. Locks: none.
select
    asked.batch_id,
    transaction_timestamp(),
    known.expected,
    known.assigned,
    known.failed,
    known.essay_set,
    known.withdrawn,
    known.erased_at,
    exists (select from els.erasures) as has_erasures
from unnest(:batch_ids::text[]) as asked (batch_id)
left join lateral (
    select
        batches.expected, batches.assigned, batches.failed, batches.essay_set, batches.withdrawn, batches.erased_at
    from els.batches
    where batches.batch_id = asked.batch_id
    limit 1
) as known on true
