-- Shows which batches this database is responsible for. Reads two rows.

create view ops.cell as
select
    cell,
    cells,
    since,
    fenced,
    trims,
    (
        select els.shown(trimming.after)
        from els.trimming
        where (trimming.cells, trimming.cell) = (slice.cells, slice.cell)
        and slice.trims
    ) as trimmed_until
from els.slice;

comment on view ops.cell is 'The slice of all batches that this database holds, in one row.';
comment on column ops.cell.cell is 'the number of the cell, from 0: ELS_CELL of its pods';
comment on column ops.cell.cells is 'the number of cells that share the batches: ELS_CELLS of their pods; 1 means all batches';
comment on column ops.cell.since is 'when the database got this slice';
comment on column ops.cell.fenced is 'whether every pod is rejected: a split or a move is under way, or the cell was moved away';
comment on column ops.cell.trims is 'whether rows of batches of another cell, which a split has left here, are still to be deleted by the purge; views do not show them';
comment on column ops.cell.trimmed_until is 'the batch id up to which it has deleted them, in the order of ids; null at first, and where there are none';
