-- Locks the state of the recovery until the transaction ends. Returns nothing where another process has taken it over, or
-- where it was abandoned.
-- Index: recovery_pkey. Locks: the row.
select
from els.recovery
where state = 'recovering'
    and run = :run
for update
