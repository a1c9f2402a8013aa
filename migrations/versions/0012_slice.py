"""Which slice of all batches the database holds.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
oldest_code = "0001"

# A database of a release before holds all batches.
SLICE = """
create table if not exists els.slice (
    only_row boolean     not null default true,
    cells    integer     not null,
    cell     integer     not null,
    since    timestamptz not null default transaction_timestamp(),
    trims    boolean not null default false,
    fenced   boolean not null default false,
    constraint slice_pkey primary key (only_row),
    constraint slice_only_row_check check (only_row),
    constraint slice_check check (cells between 1 and 1024 and cells & (cells - 1) = 0 and cell between 0 and cells - 1)
);

insert into els.slice (cells, cell)
values (1, 0)
on conflict do nothing;
"""

# How far the cell's way to another database is: a split hands half of its batches over, a move all of them. The row is
# replicated to the standby, so that both databases say where to continue. It stays until the next one begins.
TRANSFER = """
create table if not exists els.transfer (
    only_row boolean     not null default true,
    run      uuid        not null,
    kind     text        not null,
    state    text        not null,
    cells    integer     not null,
    cell     integer     not null,
    origin   text        not null,
    began_at timestamptz not null default transaction_timestamp(),
    ended_at timestamptz,
    constraint transfer_pkey primary key (only_row),
    constraint transfer_only_row_check check (only_row),
    constraint transfer_kind_check check (kind in ('split', 'move')),
    constraint transfer_state_check check (state in ('fenced', 'sealed', 'done')),
    constraint transfer_ended_check check ((ended_at is null) = (state <> 'done'))
);
"""

# Up to which batch id the purge has deleted the rows of the other half of a split (els.slice.trims), for one slice.
TRIMMING = """
create table if not exists els.trimming (
    only_row boolean not null default true,
    cells    integer not null,
    cell     integer not null,
    after    text    not null,
    constraint trimming_pkey primary key (only_row),
    constraint trimming_only_row_check check (only_row)
);
"""

# A session states its slice in `els.slice` (number of cells, slash, cell): so every statement that checks the server
# checks the slice, too, and needs no parameter for it. Sessions of earlier releases state none, and mean all batches.
FENCE = """
create or replace function els.slice_error() returns text
language sql stable set search_path = pg_catalog
as $$
    select case
        when not slice.fenced then format(
            'the database holds %s, and this process is set to %s (ELS_CELLS, ELS_CELL)',
            case slice.cells when 1 then 'all batches' else format('cell %s of %s', slice.cell, slice.cells) end,
            case own.slice[1] when '1' then 'all batches' else format('cell %s of %s', own.slice[2], own.slice[1]) end
        )
        when transfer.state = 'done' then format(
            'the cell was moved to another database at %s (ELS_DATABASE_URL)',
            to_char(transfer.ended_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        )
        else concat_ws(
            ' ', 'the database is fenced until a', transfer.kind, 'of its cell ends, which began at',
            to_char(transfer.began_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        )
    end
    from els.slice
    left join els.transfer on true
    cross join (
        values (string_to_array(coalesce(nullif(current_setting('els.slice', true), ''), '1/0'), '/'))
    ) as own (slice)
    where slice.fenced
        or array[slice.cells::text, slice.cell::text] <> own.slice
$$;

create or replace function els.check_slice() returns boolean
language plpgsql stable set search_path = pg_catalog
as $$
begin
    if not exists (
        select from els.slice
        where cells || '/' || cell = coalesce(nullif(current_setting('els.slice', true), ''), '1/0')
            and not fenced
    ) then
        perform els.refuse('EL006', coalesce(els.slice_error(), 'els.slice has no row'));
    end if;
    return true;
end
$$;

create or replace function els.check_server() returns boolean
language plpgsql stable set search_path = pg_catalog
as $$
begin
    if not exists (
        select from els.slice
        where cells || '/' || cell = coalesce(nullif(current_setting('els.slice', true), ''), '1/0')
            and not fenced
    ) then
        perform els.check_slice();
    end if;
    if exists (select from els.recovery) then
        perform els.refuse('EL001', 'the database is behind its topics, or is being recovered');
    end if;
    if exists (select from els.server_identity where identity <> els.this_server()) then
        perform els.refuse('EL002', 'this is another server, which no consumer has compared with the topics yet');
    end if;
    return true;
end
$$;
"""

# The function of revision 0005. Views depend on the tables, and are created again by the upgrade.
DOWNGRADE = """
create or replace function els.check_server() returns boolean
language plpgsql stable set search_path = pg_catalog
as $$
begin
    if exists (select from els.recovery) then
        perform els.refuse('EL001', 'the database is behind its topics, or is being recovered');
    end if;
    if exists (select from els.server_identity where identity <> els.this_server()) then
        perform els.refuse('EL002', 'this is another server, which no consumer has compared with the topics yet');
    end if;
    return true;
end
$$;

drop function els.check_slice, els.slice_error;
drop table els.trimming, els.transfer, els.slice cascade;
"""


def upgrade() -> None:
    op.execute(SLICE)
    op.execute(TRANSFER)
    op.execute(TRIMMING)
    op.execute(FENCE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
