-- Returns the newest things that happened to a batch, in their order.
-- Index: the primary keys, quarantine_batch, operator_actions_batch. Locks: none.
select *
from (
    select
        at, step, what, text_storage_id, file_upload_id, essay_id, left(original_file_name, 255) as original_file_name,
        left(details, 1000) as details, who, correlation_id, trace_id, source
    from ops.timeline
    where batch_id = :batch_id
    order by at desc, step desc
    limit :page
) as newest
order by at, step
