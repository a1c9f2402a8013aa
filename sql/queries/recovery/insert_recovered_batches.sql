-- Inserts batches whose registration the database has lost. Their slots and counters are written with them.
-- Index: batches_pkey. Locks: the new rows.
insert into els.batches (
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref, correlation_id, traceparent, tracestate, registered_at, changed_at
)
select
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref::json, correlation_id, traceparent, tracestate, least(registered_at, transaction_timestamp()),
    transaction_timestamp()
from unnest(
    :batch_ids::text[], :expected::bigint[], :essay_sets::bytea[], :course_codes::text[], :user_ids::text[],
    :essay_instructions::text[], :class_ids::text[], :org_ids::text[], :student_prompt_refs::text[],
    :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[], :registered_at::timestamptz[]
) as registered (
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref, correlation_id, traceparent, tracestate, registered_at
)
