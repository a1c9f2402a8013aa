-- Finds the batches of other cells among the next rows in the order of batch ids, each with its number of slots, and
-- last a row that says how far these rows reach (no slots; nothing where no row is left). Slots, excess content and
-- rows of the search are left out: they exist only beside a registered batch.
-- Index: batches_pkey, pending_content_pkey, validation_failures_pkey, confirmations_pkey, incomplete_batches_pkey,
-- outbox_pages_batch, outbox_pkey, outbox_blocked_pkey, quarantine_batch, operator_actions_batch, slice_pkey.
-- Locks: none.
with page as materialized (
    select batch_id
    from (
        (select batch_id from els.batches where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.pending_content where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.validation_failures where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.confirmations where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.incomplete_batches where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.outbox_pages where batch_id > :after order by batch_id limit :page)
        union all
        (select aggregateid from els.outbox where aggregateid > :after order by aggregateid limit :page)
        union all
        (select batch_id from els.outbox_blocked where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.quarantine where batch_id > :after order by batch_id limit :page)
        union all
        (select batch_id from els.operator_actions where batch_id > :after order by batch_id limit :page)
    ) as next
    order by batch_id
    limit :page
)
select batch_id, expected
from (
    select others.batch_id, coalesce(batches.expected, 0) as expected, false as is_end
    from (select distinct batch_id from page) as others
    left join els.batches on others.batch_id = batches.batch_id
    where els.cell_of(others.batch_id, (select cells from els.slice)) <> (select cell from els.slice)
    union all
    select max(batch_id), 0, true
    from page
    having count(*) > 0
) as found
order by is_end, batch_id
