-- A look at the whole gives up early: a long one keeps dead rows of the hot tables from being removed.
-- Index: none. Locks: none.
select set_config('statement_timeout', '10s', true)
