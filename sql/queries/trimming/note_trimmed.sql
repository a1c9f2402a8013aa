-- Notes after which batch id rows of other cells are still to be deleted.
-- Index: trimming_pkey. Locks: the row.
insert into els.trimming (cells, cell, after)
select cells, cell, :after
from els.slice
on conflict (only_row) do update
set cells = excluded.cells,
    cell = excluded.cell,
    after = excluded.after
