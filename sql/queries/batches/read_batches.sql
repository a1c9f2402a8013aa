-- Reads what the registrations of these batches contain, for the events about the batches.
-- Index: batches_pkey. Locks: none.
select
    batch_id, state, expected, assigned, failed, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref, correlation_id, traceparent, tracestate, registered_at, completed_at,
    confirmed_at, ready_announced_at, withdrawn, cancelled_at, cancel_reason, erased_at
from els.batches
where batch_id = any(:batch_ids::text[])
