-- Finds batches that passed their timeout incomplete and were not reported yet, the oldest first, and locks their
-- counter rows: so the report matches the slots that are read after this, and its outbox row keeps the order of
-- commits. A batch that another transaction works on is skipped; the next round finds it.
-- Batches of other cells, which a split has left here, are theirs to report.
-- Index: batches_late, slice_pkey. Locks: the rows, for no key update, skipping those that others hold.
select
    batch_id, expected, assigned, correlation_id, traceparent, tracestate
from els.batches
where state = 'registered'
    and timed_out_at is null
    and registered_at <= :due::timestamptz
    and els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)
order by registered_at
limit :page
for no key update skip locked
