-- Takes the lock of erasures: exclusive before tombstones are written, shared before a rejected input is compared with
-- them. So every rejected input is either compared, or committed before the erasure looks for it.
-- Index: none. Locks: advisory, of the transaction; waits as long as lock_timeout allows.
select case
    when :exclusive then pg_advisory_xact_lock(hashtextextended(:erasures, 0))
    else pg_advisory_xact_lock_shared(hashtextextended(:erasures, 0))
end
