-- A batch with all that is its own, if it is still what find_ended_batches looks for; tells how many slots it had.
-- Index: the primary keys. Locks: the batch's rows; the caller has the batch alone, and holds it and its slots.
with ended as materialized (
    select batch_id, expected
    from els.batches
    where batch_id = :batch_id
        and coalesce(completed_at, timed_out_at) <= :due::timestamptz
        and changed_at <= :due::timestamptz
        and not exists (
            select
            from els.outbox
            where outbox.aggregateid = batches.batch_id
        )
        and not exists (
            select
            from els.excess_content
            where excess_content.batch_id = batches.batch_id
                and excess_content.declared_at > :due::timestamptz
        )
        and not exists (
            select
            from els.validation_failures
            where validation_failures.batch_id = batches.batch_id
                and validation_failures.stored_at > :due::timestamptz
        )
),
slots as (
    delete from els.slots
    using ended
    where slots.batch_id = ended.batch_id
),
excess_content as (
    delete from els.excess_content
    using ended
    where excess_content.batch_id = ended.batch_id
),
pending_content as (
    delete from els.pending_content
    using ended
    where pending_content.batch_id = ended.batch_id
),
validation_failures as (
    delete from els.validation_failures
    using ended
    where validation_failures.batch_id = ended.batch_id
)
delete from els.batches
using ended
where batches.batch_id = ended.batch_id
returning ended.expected
