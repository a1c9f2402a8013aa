-- Refuses where the database is behind, in recovery, or another server than the one that was compared with the topics.
-- Index: recovery_pkey, server_identity_pkey. Locks: none.
select els.check_server()
