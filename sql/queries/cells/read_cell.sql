-- Reads which slice the database holds, whether it is fenced, which server it is on, and how far its transfer to
-- another database is (nulls where there was none). Runs on a standby, too, which has no identity yet.
-- Index: slice_pkey, transfer_pkey. Locks: none.
select
    slice.cells,
    slice.cell,
    slice.fenced,
    concat_ws(
        '/',
        (select system_identifier from pg_control_system()),
        (select oid from pg_database where datname = current_database())
    ) as origin,
    case when not pg_is_in_recovery() then els.this_server() end as identity,
    transfer.run,
    transfer.kind,
    transfer.state,
    transfer.cells as cells_before,
    transfer.cell as cell_before,
    transfer.origin as begun_on,
    extract(epoch from coalesce(transfer.ended_at, clock_timestamp()) - transfer.began_at)::float8 as seconds
from els.slice
left join els.transfer on true
