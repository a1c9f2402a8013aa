-- A batch with all that is its own.
-- Index: the primary keys. Locks: the batch's rows; the caller has the batch alone, and holds it and its slots.
with slots as (
    delete from els.slots
    where batch_id = :batch_id
),
excess_content as (
    delete from els.excess_content
    where batch_id = :batch_id
),
pending_content as (
    delete from els.pending_content
    where batch_id = :batch_id
),
validation_failures as (
    delete from els.validation_failures
    where batch_id = :batch_id
)
delete from els.batches
where batch_id = :batch_id
