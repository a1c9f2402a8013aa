-- Keeps the state of the recovery as it is until the transaction ends. Returns nothing where another process has taken the
-- recovery over, or where it was abandoned.
-- Index: recovery_pkey. Locks: the row, shared with other transactions of this recovery.
select
from els.recovery
where state = 'recovering'
    and run = :run
for share
