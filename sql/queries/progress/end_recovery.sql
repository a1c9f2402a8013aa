-- Notes that the database is not behind its topics any more. A recovery stores things with the times at which they were
-- announced, so that the search must read all batches again.
-- Index: recovery_pkey; the other table has one row. Locks: the rows.
with forgotten as (
    delete from els.search_progress
)
delete from els.recovery
