-- Deletes rows as delete_outbox does, from the table of the previous release.
-- Index: outbox_pkey or outbox_seq. Locks: the rows, as in delete_outbox.
delete from els.outbox
using (
    select each.batch_id, each.seq
    from unnest(:batch_ids::text[], :seqs::bigint[]) as each (batch_id, seq)
    order by each.batch_id, each.seq
) as acknowledged
where outbox.aggregateid = any(array[acknowledged.batch_id])
    and outbox.seq = any(array[acknowledged.seq])
