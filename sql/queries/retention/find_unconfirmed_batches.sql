-- Finds batches that are complete and wait for a confirmation, and locks their counter rows, as find_late_batches does.
-- Index: batches_unconfirmed, slice_pkey. Locks: the rows, for no key update, skipping those that others hold.
select batch_id, expected
from els.batches
where state = 'complete'
    and els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)
order by completed_at
limit :page
for no key update skip locked
