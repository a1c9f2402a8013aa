-- Deletes batches with all rows that belong to them, and returns which. Skips batches that changed since
-- find_ended_batches found them.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: the primary keys. Locks: the batches' rows; the caller holds the exclusive locks of the batches, and their
-- rows and slots.
with ended as materialized (
    select batch_id
    from els.ended_batches
    where batch_id = any(:batch_ids::text[])
        and case when ended_at <= :due::timestamptz then unchanged_since <= :due::timestamptz end
),
slots as (
    delete from els.slots
    where batch_id = any(array(select ended.batch_id from ended))
),
excess_content as (
    delete from els.excess_content
    where batch_id = any(array(select ended.batch_id from ended))
),
confirmations as (
    delete from els.confirmations
    where batch_id = any(array(select ended.batch_id from ended))
),
pending_content as (
    delete from els.pending_content
    where batch_id = any(array(select ended.batch_id from ended))
),
validation_failures as (
    delete from els.validation_failures
    where batch_id = any(array(select ended.batch_id from ended))
),
search as (
    delete from els.search
    where batch_id = any(array(select ended.batch_id from ended))
)
delete from els.batches
where batch_id = any(array(select ended.batch_id from ended))
returning batch_id, correlation_id, traceparent
