-- Deletes rows that the broker has acknowledged, by their keys (three arrays in step). A row that is missing already is
-- no error. Returns this transaction's id: every transaction that drew a seq up to the highest one read before has a
-- lower id.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md. With the shard either index has a
-- whole key, so whichever is taken is probed for one row.
-- Index: outbox_pkey or outbox_order. Locks: the rows, which only a relay that overlaps with this one writes, too; all
-- such deletes have the same order, so they wait in the same order.
with published as (
    delete from els.outbox
    using (
        select each.batch_id, each.seq, each.shard::smallint as shard
        from unnest(:batch_ids::text[], :seqs::bigint[], :shards::bigint[]) as each (batch_id, seq, shard)
        order by each.batch_id, each.seq
    ) as acknowledged
    where outbox.aggregateid = any(array[acknowledged.batch_id])
        and outbox.seq = any(array[acknowledged.seq])
        and outbox.shard = any(array[acknowledged.shard])
)
select pg_current_xact_id()::text::bigint
