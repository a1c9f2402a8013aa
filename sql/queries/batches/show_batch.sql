-- Returns one batch with its registration and its counters.
-- Index: batches_pkey. Locks: none.
select
    batch_id, state, expected, assigned, failed, expected - assigned - failed - withdrawn as open, course_code, user_id,
    essay_instructions, class_id, org_id, student_prompt_ref, correlation_id, traceparent, tracestate, registered_at,
    changed_at, completed_at, confirmed_at,
    case when state = 'ready' then coalesce(ready_announced_at, completed_at) end as ready_at, timed_out_at,
    withdrawn, cancelled_at, cancel_reason, erased_at
from els.own_batches as batches
where batch_id = :batch_id
