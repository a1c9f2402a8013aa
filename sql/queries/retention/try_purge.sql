-- The right to purge, for this transaction, and the time that it goes by. One pod has it at a time; it ends with the
-- transaction, so it works behind a transaction pooler and no death can keep it. Of two halves, this key can never
-- be that of a batch.
-- Index: none. Locks: advisory, of the transaction; waits for nothing.
select
    pg_try_advisory_xact_lock(hashtext('els'), hashtext('purge')),
    transaction_timestamp()
