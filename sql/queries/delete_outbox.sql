-- Take rows that the broker has acknowledged out of the outbox, by their keys (three arrays in step).
-- The shard is there so that whichever index the planner takes is probed for one row: where it believes that the outbox
-- is empty, and has many pages, it had gone through all of outbox_order for each seq.
-- Gone already is as good. Returns this transaction's id: whoever drew a seq that was seen before
-- now has a lower one.
-- Index: outbox_pkey or outbox_order. Locks: the rows, which nobody else writes but a relay that overlaps with this
-- one; such deletes go in the same order, so they wait in the same order.
with published as (
    delete from els.outbox as o
    using (
        select acknowledged.batch_id, acknowledged.seq, acknowledged.shard::smallint as shard
        from unnest(:batch_ids::text[], :seqs::bigint[], :shards::bigint[]) as acknowledged (batch_id, seq, shard)
        order by acknowledged.batch_id, acknowledged.seq
        offset 0
    ) as acknowledged
    where o.aggregateid = acknowledged.batch_id
      and o.seq = acknowledged.seq
      and o.shard = acknowledged.shard
)
select pg_current_xact_id()::text::bigint
