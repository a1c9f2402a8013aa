-- Notes that no row of another cell is left.
-- Index: trimming_pkey; els.slice has one row. Locks: the rows.
with ended as (
    delete from els.trimming
)
update els.slice
set trims = false
where trims
