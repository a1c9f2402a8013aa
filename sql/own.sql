-- Creates els.own_TABLE for each table, and each view of schema els, that has a batch id: its rows without those of batches
-- that belong to another cell, which a split has left here and the purge is still deleting (els.slice.trims). Views and reads
-- use these. Every upgrade creates them anew, before the views of schema ops.
--
-- The subqueries are read once in a statement. Where nothing is left to delete, a row costs one look at the result of the
-- first, and the planner expects `is not null` to keep all rows, so that plans are those of the table. Otherwise a row costs
-- a hash, since els.cell_of is inlined (els.holds is not: it would take several times as long, and its caller would have to
-- see els.slice). A row without a batch id is shown.
do $$
declare
    name text;
begin
    for name in
        select relname
        from pg_attribute
        inner join pg_class on pg_class.oid = attrelid
        where relnamespace = 'els'::regnamespace
            and relkind in ('r', 'v')
            and attname = 'batch_id'
        order by relname
    loop
        execute format(
            'create view els.own_%1$s as
            select *
            from els.%1$s
            where (select true from els.slice where not trims) is not null
                or (els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)) is not false',
            name
        );
    end loop;
end
$$;
