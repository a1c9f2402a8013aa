-- Limits the time of this transaction's statements: a long read keeps dead rows of the hot tables from being removed.
-- Index: none. Locks: none.
select set_config('statement_timeout', '10s', true)
