-- Returns how far each input partition is applied.
-- Index: none (a row for each partition). Locks: none.
select topic, "partition", next_offset, record_at, applied_until, open_transaction_since
from els.progress
order by topic, "partition"
