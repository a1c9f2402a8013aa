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
    constraint slice_pkey primary key (only_row),
    constraint slice_only_row_check check (only_row),
    constraint slice_check check (cells between 1 and 1024 and cells & (cells - 1) = 0 and cell between 0 and cells - 1)
);

insert into els.slice (cells, cell)
values (1, 0)
on conflict do nothing;
"""

# A session states its slice in `els.slice` (number of cells, slash, cell): so every statement that checks the server
# checks the slice, too, and needs no parameter for it. Sessions of earlier releases state none, and mean all batches.
FENCE = """
create or replace function els.slice_error() returns text
language sql stable set search_path = pg_catalog
as $$
    select format(
        'the database holds %s, and this process is set to %s (ELS_CELLS, ELS_CELL)',
        case slice.cells when 1 then 'all batches' else format('cell %s of %s', slice.cell, slice.cells) end,
        case own.slice[1] when '1' then 'all batches' else format('cell %s of %s', own.slice[2], own.slice[1]) end
    )
    from els.slice
    cross join (
        values (string_to_array(coalesce(nullif(current_setting('els.slice', true), ''), '1/0'), '/'))
    ) as own (slice)
    where array[slice.cells::text, slice.cell::text] <> own.slice
$$;

create or replace function els.check_slice() returns boolean
language plpgsql stable set search_path = pg_catalog
as $$
begin
    if not exists (
        select from els.slice
        where cells || '/' || cell = coalesce(nullif(current_setting('els.slice', true), ''), '1/0')
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

# The function of revision 0005. A view depends on the table, and is created again by the upgrade.
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
drop table els.slice cascade;
"""


def upgrade() -> None:
    op.execute(SLICE)
    op.execute(FENCE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
