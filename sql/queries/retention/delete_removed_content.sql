-- Deletes content that an operator removed, at the end of its retention: until then its row keeps a redelivery from
-- being stored again. Rows that another transaction holds are skipped.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_removed, pending_content_pkey. Locks: the rows, skipping those that others hold.
with old as materialized (
    select batch_id, text_storage_id
    from els.pending_content
    where state = 'removed'
        and closed_at <= :due::timestamptz
        and (els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)) is not false
    order by closed_at
    limit :page
    for update skip locked
)
delete from els.pending_content
using old
where pending_content.batch_id = any(array[old.batch_id])
    and pending_content.text_storage_id = any(array[old.text_storage_id])
returning
    pending_content.batch_id, pending_content.text_storage_id, pending_content.correlation_id, pending_content.traceparent
