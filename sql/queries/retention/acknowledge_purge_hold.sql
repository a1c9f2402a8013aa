-- Lets the purge go on although the clocks did not agree. Returns why it was held.
-- Index: purge_hold_pkey. Locks: the row.
update els.purge_hold
set acknowledged_at = transaction_timestamp()
where acknowledged_at is null
returning why
