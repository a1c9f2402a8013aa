-- Reads the offsets that operators have skipped.
-- Index: none, the table has a row for each. Locks: none.
select topic, "partition", epoch, first_offset, next_offset
from els.skipped_inputs
order by topic, "partition", first_offset
