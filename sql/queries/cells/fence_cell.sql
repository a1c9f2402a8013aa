-- Fences the database for the transfer `run`: every check of the slice refuses from now on, whoever asks. Takes the
-- shards from all relays, so that they fetch nothing more; what they have fetched they may still publish. Returns
-- nothing where the database is fenced already, or holds another slice.
-- Index: slice_pkey, transfer_pkey, relays_pkey, relay_shards_pkey. Locks: these rows.
with fenced as (
    update els.slice
    set fenced = true
    where not fenced
        and (cells, cell) = (:cells::integer, :cell::integer)
        and not exists (select from els.recovery)
    returning cells, cell
), begun as (
    insert into els.transfer (run, kind, state, cells, cell, origin)
    select :run::uuid, :kind, 'fenced', cells, cell, els.this_server()
    from fenced
    on conflict (only_row) do update
    set run = excluded.run,
        kind = excluded.kind,
        state = excluded.state,
        cells = excluded.cells,
        cell = excluded.cell,
        origin = excluded.origin,
        began_at = excluded.began_at,
        ended_at = null
    returning run
), forgotten as (
    delete from els.relays
    where exists (select from begun)
), freed as (
    update els.relay_shards
    set relay = null
    where exists (select from begun)
        and relay is not null
)
insert into els.operator_actions (who, action, why, details)
select
    :who, format('cells %s', :kind::text), :why,
    jsonb_build_object('run', :run::uuid, 'state', 'fenced', 'cells', :cells::integer, 'cell', :cell::integer)
from begun
returning at
