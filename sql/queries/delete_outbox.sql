-- Take rows that the broker has acknowledged out of the outbox, by their keys: a seq is one row's alone.
-- Gone already is as good. Returns this transaction's id: whoever drew a seq that was seen before
-- now has a lower one.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_pkey. Locks: the rows, which nobody else writes but a relay that overlaps with this one; such deletes
-- go in the order of the index, so they wait in the same order.
with published as (
    delete from els.outbox
    where aggregateid = any(:batch_ids::text[])
        and seq = any(:seqs::bigint[])
)
select pg_current_xact_id()::text::bigint
