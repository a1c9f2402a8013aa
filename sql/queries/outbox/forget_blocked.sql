-- Deletes the blocked batches of some shards that have no row left (an operator deleted it): they are not blocked.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_pages_batch, outbox_pkey; the table of blocked batches is read whole, by its key (it is empty, or
-- short).
-- Locks: the deleted rows, skipping those that others hold.
delete from els.outbox_blocked
where batch_id = any(array(
    select blocked.batch_id
    from els.outbox_blocked as blocked
    where blocked.retry_at <= clock_timestamp()
      and (hashtextextended(blocked.batch_id, 0) & 63) = any (:shards::bigint[])
      and not exists (select from els.unpublished as o where o.batch_id = blocked.batch_id offset 0)
    order by blocked.batch_id
    for update skip locked))
