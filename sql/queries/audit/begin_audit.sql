-- Returns the time of an audit's snapshot.
-- Index: none. Locks: none.
select statement_timestamp()
