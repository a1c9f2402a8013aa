-- Returns one batch with its registration, its counters, its excess content and its unpublished events.
-- Index: batches_pkey, excess_content_pkey, outbox_pages_batch, outbox_pkey. Locks: none.
select
    batch_id, state, expected, assigned, failed, expected - assigned - failed - withdrawn as open, course_code, user_id,
    essay_instructions, class_id, org_id, student_prompt_ref, correlation_id, traceparent, tracestate, registered_at,
    changed_at, completed_at, confirmed_at,
    case when state = 'ready' then coalesce(ready_announced_at, completed_at) end as ready_at, timed_out_at,
    withdrawn, cancelled_at, cancel_reason,
    (select count(*) from els.excess_content where excess_content.batch_id = batches.batch_id) as excess,
    (
        select count(*)
        from ops.outbox_events
        where outbox_events.batch_id = batches.batch_id
    ) as to_be_published
from els.batches
where batch_id = :batch_id
