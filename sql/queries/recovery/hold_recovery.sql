-- Keeps the state of the recovery as it is until the transaction ends. Refuses where another process has taken the
-- recovery over, where it was abandoned or has ended, in another database, and in one of another slice, or fenced.
-- Index: recovery_pkey, slice_pkey. Locks: the row, shared with other transactions of this recovery.
with held as materialized (
    select run
    from els.recovery
    where state = 'recovering'
        and run = :run
    for share
)
select
    els.check_slice(),
    case
        when not exists (select from held)
            then els.refuse('EL005', 'the recovery was abandoned, or another process has taken it over')
    end
