-- What is committed about each of these batches; one row for each id, nulls where it is not registered.
-- A row that is there needs no lock: nothing unregisters a batch while its topics may still deliver it.
-- Index: batches_pkey. Locks: none.
select
    asked.batch_id,
    transaction_timestamp(),
    batches.expected,
    batches.assigned,
    batches.failed,
    batches.essay_set
from unnest(:batch_ids::text[]) as asked (batch_id)
left join els.batches
    on batches.batch_id = asked.batch_id
