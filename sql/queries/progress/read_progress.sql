-- Reads the rows of all partitions.
-- Index: none, the table has a row for each partition. Locks: none.
select topic, "partition", epoch, next_offset, record_offset, record_at, record_digest, previous_release
from els.progress
order by topic, "partition"
