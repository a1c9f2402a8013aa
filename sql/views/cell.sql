-- Shows which batches this database is responsible for. Reads one row.

create view ops.cell as
select
    cell,
    cells,
    since,
    fenced
from els.slice;

comment on view ops.cell is 'The slice of all batches that this database holds, in one row.';
comment on column ops.cell.cell is 'the number of the cell, from 0: ELS_CELL of its pods';
comment on column ops.cell.cells is 'the number of cells that share the batches: ELS_CELLS of their pods; 1 means all batches';
comment on column ops.cell.since is 'when the database got this slice';
comment on column ops.cell.fenced is 'whether every pod is rejected: a split or a move is under way, or the cell was moved away';
