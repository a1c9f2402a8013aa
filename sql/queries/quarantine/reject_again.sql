-- Stores the new reason of a rejected input whose replay was rejected: it stays open. It was not delivered, so no
-- delivery is counted.
-- Index: quarantine_pkey. Locks: the row.
update els.quarantine
set reason = :reason,
    error = :error
where id = :id
    and state = 'open'
returning topic
