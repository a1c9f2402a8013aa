-- Reads after which batch id rows of other cells are still to be deleted; nothing where none are. What was noted for
-- another slice does not count: then the database was split again.
-- Index: slice_pkey, trimming_pkey. Locks: none.
select coalesce(trimming.after, '')
from els.slice
left join els.trimming
    on trimming.cells = slice.cells
    and trimming.cell = slice.cell
where slice.trims
