-- Take rows that the broker has acknowledged out of the outbox, by their keys (two arrays in step).
-- Gone already is as good. Returns this transaction's id: whoever drew a seq that was seen before
-- now has a lower one.
-- Index: outbox_pkey. Locks: the rows, which nobody else writes but a relay that overlaps with this
-- one; such deletes go in the same order, so they wait in the same order.
with published as (
    delete from els.outbox as o
    using (
        select acknowledged.batch_id, acknowledged.seq
        from unnest(:batch_ids::text[], :seqs::bigint[]) as acknowledged (batch_id, seq)
        order by acknowledged.batch_id, acknowledged.seq
        offset 0
    ) as acknowledged
    where o.aggregateid = acknowledged.batch_id
      and o.seq = acknowledged.seq
)
select pg_current_xact_id()::text::bigint
