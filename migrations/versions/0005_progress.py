"""How far the input topics are applied, and whether the database is behind them.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

from service.postgres.migration import create_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
oldest_code = "0001"

# Pods of the previous release write no rows. While they own a partition its row falls behind the group's offset, which
# is no loss. They are recognised by their names in els.crash_marks, which every owner of a partition writes.
#
# The timeline is that of the WAL which is written now; pg_control_checkpoint() would return that of the last
# checkpoint, which follows a promotion only after a while.
UPGRADE = """
create table els.progress (
    topic            text        not null,
    "partition"      integer     not null,
    epoch            bigint      not null default 0,
    next_offset      bigint      not null,
    record_offset    bigint,
    record_at        timestamptz,
    record_digest    bytea,
    applied_until    timestamptz,
    previous_release boolean     not null default false,
    constraint progress_pkey primary key (topic, "partition")
) with (fillfactor = 50);

create table els.server_identity (
    identity   text        not null,
    checked_at timestamptz not null default transaction_timestamp(),
    constraint server_identity_pkey primary key (identity)
);

create table els.recovery (
    only_row boolean     not null default true,
    state    text        not null,
    since    timestamptz not null default transaction_timestamp(),
    why      text        not null,
    records  bigint,
    constraint recovery_pkey primary key (only_row),
    constraint recovery_only_row_check check (only_row),
    constraint recovery_state_check check (state in ('behind', 'recovering'))
);

create table els.lost_inputs (
    id              bigint      not null generated always as identity,
    topic           text        not null,
    "partition"     integer     not null,
    first_offset    bigint      not null,
    next_offset     bigint      not null,
    cause           text        not null,
    noticed_at      timestamptz not null default transaction_timestamp(),
    acknowledged_at timestamptz,
    constraint lost_inputs_pkey primary key (id),
    constraint lost_inputs_cause_check check (cause in ('deleted', 'truncated', 'replaced'))
);

create index lost_inputs_open on els.lost_inputs (id) where acknowledged_at is null;

create table els.purge_hold (
    only_row        boolean     not null default true,
    since           timestamptz not null default transaction_timestamp(),
    why             text        not null,
    seconds_apart   float8      not null,
    agreed          integer     not null default 0,
    acknowledged_at timestamptz,
    constraint purge_hold_pkey primary key (only_row),
    constraint purge_hold_only_row_check check (only_row)
);

create function els.this_server() returns text
language sql stable set search_path = pg_catalog
as $$
    select concat_ws(
        '/',
        (select system_identifier from pg_control_system()),
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        (select oid from pg_database where datname = current_database())
    )
$$;

create function els.refuse(code text, message text) returns boolean
language plpgsql set search_path = pg_catalog
as $$
begin
    raise exception using errcode = code, message = message;
end
$$;

create function els.check_server() returns boolean
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

create function els.note_previous_release() returns trigger
language plpgsql set search_path = pg_catalog
as $$
begin
    update els.progress
    set previous_release = true
    where topic = new.topic
        and "partition" = new."partition"
        and not previous_release;
    return new;
end
$$;

create trigger previous_release before insert or update on els.crash_marks
for each row when (new.pod not like '%@progress') execute function els.note_previous_release();
"""

# A view depends on each of the tables, and is created again by the upgrade.
DOWNGRADE = """
drop index els.quarantine_open_registrations;
drop trigger previous_release on els.crash_marks;
drop function els.note_previous_release, els.check_server, els.refuse, els.this_server;
drop table els.progress, els.server_identity, els.recovery, els.lost_inputs, els.purge_hold cascade;
"""


def upgrade() -> None:
    # First, since it commits what the revision did before: an interrupted migration must be repeatable.
    create_index(
        "quarantine_open_registrations",
        "els.quarantine (md5(key)) where state = 'open' and topic = 'huleedu.batch.essays.registered.v1'",
    )
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
