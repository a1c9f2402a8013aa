-- Finds batches that became ready or failed, or were reported as late, long ago, the oldest first: those where nothing
-- has happened since, not even an upload that found no slot, and all events are published. One that waits for a
-- confirmation has not ended. Only a read, as find_due_content.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: batches_ended, outbox_pages_batch, outbox_pkey, excess_content_pkey, confirmations_pkey,
-- validation_failures_pkey. Locks: none.
select batch_id, expected
from els.batches
where coalesce(completed_at, timed_out_at) <= :due::timestamptz
    and changed_at <= :due::timestamptz
    and state <> 'complete'
    and batch_id <> all(:skipped::text[])
    and not exists (
        select
        from els.unpublished
        where unpublished.batch_id = batches.batch_id
        offset 0
    )
    and not exists (
        select
        from els.excess_content
        where excess_content.batch_id = batches.batch_id
            and excess_content.declared_at > :due::timestamptz
        offset 0
    )
    and not exists (
        select
        from els.confirmations
        where confirmations.batch_id = batches.batch_id
            and confirmations.stored_at > :due::timestamptz
        offset 0
    )
    and not exists (
        select
        from els.validation_failures
        where validation_failures.batch_id = batches.batch_id
            and validation_failures.stored_at > :due::timestamptz
        offset 0
    )
order by coalesce(completed_at, timed_out_at)
limit :page
