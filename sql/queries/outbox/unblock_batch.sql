-- Unblocks batches whose blocked row was published after all: the relay reads them with the others again. Only of
-- shards that this relay still holds: a relay that took the shard since may have a watermark above the rows of the
-- batch.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_blocked_pkey, relay_shards_pkey. Locks: the rows of these batches, in the order of their ids.
delete from els.outbox_blocked as blocked
using (
    select unblocked.batch_id
    from unnest(:batch_ids::text[]) as unblocked (batch_id)
    order by unblocked.batch_id
) as unblocked
where blocked.batch_id = any(array[unblocked.batch_id])
    and :relay::uuid = (
        select owned.relay
        from els.relay_shards as owned
        where owned.shard = (hashtextextended(blocked.batch_id, 0) & 63)::smallint)
