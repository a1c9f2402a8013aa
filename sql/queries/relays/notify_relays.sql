-- Wakes the relays of other pods. Never run it in a transaction that does anything else: a commit with a notification
-- waits for a lock on the whole database.
-- Index: none. Locks: that one, at the commit.
select pg_notify('els_outbox', '')
