-- Deletes rows whose events the broker has acknowledged, by their keys (two arrays in step). A row that is missing
-- already is no error. The batch is compared, too: where a database was replaced by an older one, the number may belong
-- to another row. Returns this transaction's id: every transaction that drew a seq up to the highest one read before
-- has a lower id.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_pages_pkey or outbox_pages_batch. Locks: the rows, which only a relay that overlaps with this one
-- writes, too; all such deletes have the same order, so they wait in the same order.
with published as (
    delete from els.outbox_pages
    using (
        select each.batch_id, each.seq
        from unnest(:batch_ids::text[], :seqs::bigint[]) as each (batch_id, seq)
        order by each.seq
    ) as acknowledged
    where outbox_pages.seq = any(array[acknowledged.seq])
        and outbox_pages.batch_id is not distinct from acknowledged.batch_id
)
select pg_current_xact_id()::text::bigint
