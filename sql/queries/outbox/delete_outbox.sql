-- Take rows that the broker has acknowledged out of the outbox, by their keys (three arrays in step).
-- Gone already is as good. Returns this transaction's id: whoever drew a seq that was seen before
-- now has a lower one.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md. With the shard either index has a
-- whole key, so whichever is taken is probed for one row.
-- Index: outbox_pkey or outbox_order. Locks: the rows, which nobody else writes but a relay that overlaps with this
-- one; such deletes go in the same order, so they wait in the same order.
with published as (
    delete from els.outbox
    using (
        select each.batch_id, each.seq, each.shard::smallint as shard
        from unnest(:batch_ids::text[], :seqs::bigint[], :shards::bigint[]) as each (batch_id, seq, shard)
        order by each.batch_id, each.seq
        offset 0
    ) as acknowledged
    where outbox.aggregateid = any(array[acknowledged.batch_id])
        and outbox.seq = any(array[acknowledged.seq])
        and outbox.shard = any(array[acknowledged.shard])
)
select pg_current_xact_id()::text::bigint
