-- Tries to lock batches, so that early content and the registration of its batch can't miss each other: content takes
-- the lock of its batch shared, a registration takes it exclusive. Locks what is free, returns of each batch whether it
-- was locked, waits for nothing. Read the states of the batches afterwards in a statement of its own, because a
-- statement's snapshot is older than the locks that it takes.
-- Index: none. Locks: advisory, of the transaction, one for each batch.
select
    batch_id,
    case
        when is_exclusive then pg_try_advisory_xact_lock(key)
        else pg_try_advisory_xact_lock_shared(key)
    end as taken
from (
    select batch_id, true as is_exclusive, hashtextextended(batch_id, 0) as key
    from unnest(:exclusive::text[]) as exclusive (batch_id)
    union all
    select batch_id, false, hashtextextended(batch_id, 0)
    from unnest(:shared::text[]) as common (batch_id)
    order by key
) as batches
