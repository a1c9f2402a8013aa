-- Returns the time of an audit's snapshot, and the time of a split whose history of the other half is not deleted yet.
-- Index: none. Locks: none.
select statement_timestamp(), (select since from els.slice where trims)
