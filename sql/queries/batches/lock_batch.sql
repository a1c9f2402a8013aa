-- The same lock as try_lock_batches, for one batch, waited for: alone (a registration) or shared (its content).
-- Index: none. Locks: advisory, of the transaction; waits as long as lock_timeout allows.
select case
    when :exclusive then pg_advisory_xact_lock(hashtextextended(:batch_id, 0))
    else pg_advisory_xact_lock_shared(hashtextextended(:batch_id, 0))
end
