-- Takes the right to write the rows of the search, until the transaction ends: what a pass has read must not be written
-- after an erasure has blanked it.
-- Index: none. Locks: advisory, of the transaction; waits.
select pg_advisory_xact_lock(hashtext('els'), hashtext('search'))
