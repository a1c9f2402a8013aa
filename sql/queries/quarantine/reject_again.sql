-- A refused input was replayed and is refused again: it stays open, with the reason that it has now. Not delivered,
-- so not counted as a delivery.
-- Index: quarantine_pkey. Locks: the row.
update els.quarantine
set reason = :reason,
    error = :error
where id = :id
    and state = 'open'
returning topic
