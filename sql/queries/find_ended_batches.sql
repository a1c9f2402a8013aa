-- Batches that were complete, or reported as late, long ago, where nothing has happened since and nothing is left to
-- be published; the oldest first. A look only.
-- Index: batches_ended, outbox_pkey. Locks: none.
select batch_id
from els.batches
where coalesce(completed_at, timed_out_at) <= :due::timestamptz
    and changed_at <= :due::timestamptz
    and batch_id <> all(:passed::text[])
    and not exists (
        select
        from els.outbox
        where outbox.aggregateid = batches.batch_id
    )
order by coalesce(completed_at, timed_out_at)
limit :page
