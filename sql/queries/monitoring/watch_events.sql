-- Returns what happened last, the newest first: at most so many rows, of at most so many of each kind.
-- Index: batches_ended, pending_content_due, pending_content_expired, quarantine_pkey, operator_actions_pkey.
-- Locks: none.
select at, what, about, told
from (
    (
        select
            case
                when completed_at is null then timed_out_at
                else coalesce(cancelled_at, ready_at, completed_at)
            end as at,
            case when completed_at is null then 'batch is late' else 'batch ' || state end as what,
            batch_id as about,
            assigned || ' of ' || expected || ' assigned, ' || failed || ' failed' as told
        from ops.batches
        where coalesce(completed_at, timed_out_at) is not null
        order by coalesce(completed_at, timed_out_at) desc
        limit :page
    )
    union all
    (
        select waiting_since, 'content waits', batch_id, text_storage_id
        from ops.pending_content
        order by waiting_since desc
        limit :page
    )
    union all
    (
        select expired_at, 'content expired', batch_id, text_storage_id
        from ops.expired_content
        order by expired_at desc
        limit :page
    )
    union all
    (
        select first_seen_at, 'input rejected', topic, reason || ', ' || state
        from ops.quarantine
        order by id desc
        limit :page
    )
    union all
    (
        select at, action, coalesce(batch_id, topic, ''), who || coalesce(': ' || nullif(why, ''), '')
        from ops.operator_actions
        order by id desc
        limit :page
    )
) as latest
order by at desc
limit :page
