-- Deletes validation failures that an operator removed, as delete_removed_content does with content.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_removed, validation_failures_pkey. Locks: the rows, skipping those that others hold.
with old as materialized (
    select batch_id, file_upload_id
    from els.validation_failures
    where state = 'removed'
        and closed_at <= :due::timestamptz
        and (els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)) is not false
    order by closed_at
    limit :page
    for update skip locked
)
delete from els.validation_failures
using old
where validation_failures.batch_id = any(array[old.batch_id])
    and validation_failures.file_upload_id = any(array[old.file_upload_id])
returning
    validation_failures.batch_id, validation_failures.file_upload_id, validation_failures.correlation_id,
    validation_failures.traceparent
