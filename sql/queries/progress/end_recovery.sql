-- Notes that the database is not behind its topics any more.
-- Index: recovery_pkey. Locks: the row.
delete from els.recovery
