-- Takes the lock of try_lock_batches for one batch, and waits for it: exclusive (for a registration) or shared (for
-- content of the batch). A registration also takes the lock `:erasures`, shared: so none commits unseen by an erasure.
-- Index: none. Locks: advisory, of the transaction; waits as long as lock_timeout allows.
select case
    when :exclusive then pg_advisory_xact_lock(hashtextextended(:batch_id, 0))
    else pg_advisory_xact_lock_shared(hashtextextended(:batch_id, 0))
end, case
    when :exclusive then pg_advisory_xact_lock_shared(hashtextextended(:erasures, 0))
end
