-- Deletes all rows of batches that belong to other cells, in every table that has rows of batches, and publishes
-- nothing: the other half of the split has them, too. A batch that belongs to this database is left alone.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: the primary keys, outbox_pages_batch, quarantine_batch, operator_actions_batch. Locks: the rows; the caller
-- holds the exclusive locks of the batches.
with others as materialized (
    select given.batch_id
    from unnest(:batch_ids::text[]) as given (batch_id)
    where els.cell_of(given.batch_id, (select cells from els.slice)) <> (select cell from els.slice)
),
slots as (
    delete from els.slots
    where batch_id = any(array(select others.batch_id from others))
),
excess_content as (
    delete from els.excess_content
    where batch_id = any(array(select others.batch_id from others))
),
pending_content as (
    delete from els.pending_content
    where batch_id = any(array(select others.batch_id from others))
),
validation_failures as (
    delete from els.validation_failures
    where batch_id = any(array(select others.batch_id from others))
),
confirmations as (
    delete from els.confirmations
    where batch_id = any(array(select others.batch_id from others))
),
incomplete_batches as (
    delete from els.incomplete_batches
    where batch_id = any(array(select others.batch_id from others))
),
outbox_pages as (
    delete from els.outbox_pages
    where batch_id = any(array(select others.batch_id from others))
),
outbox as (
    delete from els.outbox
    where aggregateid = any(array(select others.batch_id from others))
),
outbox_blocked as (
    delete from els.outbox_blocked
    where batch_id = any(array(select others.batch_id from others))
),
quarantine as (
    delete from els.quarantine
    where batch_id = any(array(select others.batch_id from others))
),
operator_actions as (
    delete from els.operator_actions
    where batch_id = any(array(select others.batch_id from others))
),
search as (
    delete from els.search
    where batch_id = any(array(select others.batch_id from others))
)
delete from els.batches
where batch_id = any(array(select others.batch_id from others))
