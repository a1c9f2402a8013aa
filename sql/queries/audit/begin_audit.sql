-- Returns the time of an audit's snapshot, and since when the database has its slice of the batches.
-- Index: none. Locks: none.
select statement_timestamp(), (select since from els.slice)
