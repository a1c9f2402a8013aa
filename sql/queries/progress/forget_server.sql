-- Forgets which server was compared with the topics, so that it is noted anew with the present time.
-- Index: none, the table has one row. Locks: the row.
delete from els.server_identity
