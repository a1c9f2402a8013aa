-- Stores the new reason of a rejected input whose replay was rejected, and the release that rejected it: it stays open,
-- unless it was erased meanwhile. It was not delivered, so no delivery is counted.
-- Index: quarantine_pkey. Locks: the row.
update els.quarantine
set reason = :reason,
    error = :error,
    release = :release
where id = :id
    and state = 'open'
    and erased_at is null
returning topic
