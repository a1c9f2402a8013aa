-- Registers batches, with no slot taken yet. The caller holds the exclusive lock of each batch, and has read since then
-- that none of them is registered. The registration of a batch that was announced already is an error of its data: only
-- a recovery knows which slots are taken.
-- Index: batches_pkey, incomplete_batches_pkey. Locks: the new rows.
insert into els.batches (
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref, correlation_id, traceparent, tracestate, registered_at, changed_at
)
select
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref::json, correlation_id, traceparent, tracestate, transaction_timestamp(), transaction_timestamp()
from unnest(
    :batch_ids::text[], :expected::bigint[], :essay_sets::bytea[], :course_codes::text[], :user_ids::text[],
    :essay_instructions::text[], :class_ids::text[], :org_ids::text[], :student_prompt_refs::text[],
    :correlation_ids::uuid[], :traceparents::text[], :tracestates::text[]
) as registered (
    batch_id, expected, essay_set, course_code, user_id, essay_instructions, class_id, org_id,
    student_prompt_ref, correlation_id, traceparent, tracestate
)
where not exists (
        select
        from els.incomplete_batches
        where incomplete_batches.batch_id = registered.batch_id
        offset 0
    )
    or els.refuse('22000', concat('batch ', batch_id, ' was announced before its registration was lost: run recover'))
