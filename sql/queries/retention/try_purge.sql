-- Tries to get the right to purge for this transaction, and returns the time that the purge goes by. One pod has the
-- right at a time. It ends with the transaction, so it works behind a transaction pooler, and no crashed pod keeps it.
-- The key has two parts, so it never equals the key of a batch.
-- Index: none. Locks: advisory, of the transaction; waits for nothing.
select
    pg_try_advisory_xact_lock(hashtext('els'), hashtext('purge')),
    transaction_timestamp()
