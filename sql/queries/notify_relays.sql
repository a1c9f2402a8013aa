-- Wake the relays of other pods. Never in a transaction that does anything else: a commit with a
-- notification takes a lock on the whole database.
select pg_notify('els_outbox', '')
