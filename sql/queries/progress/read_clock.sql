-- Reads the time that purges go by.
-- Index: none. Locks: none.
select transaction_timestamp()
