-- Reads the time of the database, whether it is noted that the clocks do not agree, and whether that holds the purge.
-- Index: purge_hold_pkey. Locks: none.
select
    clock_timestamp(),
    exists (select from els.purge_hold),
    exists (select from els.purge_hold where acknowledged_at is null)
