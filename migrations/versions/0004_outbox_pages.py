"""One row of the outbox for the events of one batch and transaction, instead of one row for each event.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

from service.postgres.migration import create_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
oldest_code = "0001"

# `storage external`: pglz would take 12 µs for each event to save half of its WAL (decision 0011).
# `toast_tuple_target`: rows of up to a page of the server stay in the table.
#
# A relay of the previous release reads els.outbox only. While one lives, `pages` is false and events are written to
# els.outbox. It turns to true once, and from then on the trigger refuses such relays, so that none of them can
# publish the later events of a batch before those that it does not see. Where no relay runs or holds a shard (the
# conditions of end_previous_format.sql), it is true at once: the exclusive lock on els.relays, which adding the column
# takes, keeps a relay from beginning meanwhile.
#
# els.unpublished has the rows of both tables, numbered by one sequence. Statements and views read it.
#
# The function runs as its owner: the service has no rights on els.outbox_format before the grants, which follow later.
UPGRADE = """
create table els.outbox_pages (
    seq        bigint      not null default nextval('els.outbox_seq_seq'),
    batch_id   text        not null,
    topics     jsonb       not null,
    events     text        not null,
    created_at timestamptz not null default transaction_timestamp(),
    shard      smallint    not null
        generated always as ((hashtextextended(batch_id, 0) & 63)::smallint) stored,
    constraint outbox_pages_pkey primary key (seq)
) with (toast_tuple_target = 8160,
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,
        toast.autovacuum_vacuum_threshold = 10000);

alter table els.outbox_pages alter column events set storage external;

create index outbox_pages_batch on els.outbox_pages (batch_id);

alter table els.outbox_blocked add column acknowledged integer not null default 0;

alter table els.relays add column reads_pages boolean not null default false;

create table els.outbox_format (
    pages boolean not null,
    constraint outbox_format_pkey primary key (pages)
);

insert into els.outbox_format (pages)
select not exists (select from els.relays where relays.expires_at > clock_timestamp() - interval '1 minute')
    and not exists (select from els.relay_shards where relay_shards.relay is not null);

create view els.unpublished as
select seq, shard, batch_id, topics, events, created_at, true as is_page
from els.outbox_pages
union all
select seq, shard, aggregateid, jsonb_build_object(type, 1), payload, created_at, false
from els.outbox;

create function els.refuse_previous_relay() returns trigger
language plpgsql security definer set search_path = pg_catalog
as $$
begin
    if (select pages from els.outbox_format for share) then
        raise exception 'this relay is of a release that cannot read the outbox any more'
            using hint = 'Run the release that migrated the database, or downgrade the schema first.';
    end if;
    return new;
end
$$;

create trigger previous_relays before insert or update on els.relays
for each row when (not new.reads_pages) execute function els.refuse_previous_relay();
"""

# The rows of both tables get new numbers, in the order of the old ones. Views depend on the table.
DOWNGRADE = """
lock table els.outbox, els.outbox_pages, els.outbox_blocked, els.relays in access exclusive mode;

do $$
begin
    if exists (select from els.relays where relays.expires_at > clock_timestamp()) then
        raise exception 'a relay is running: stop all pods first';
    end if;
end
$$;

create temporary table moved on commit drop as
    select page.seq, line.number, page.batch_id, page.created_at, line.event
    from els.outbox_pages as page
    cross join lateral string_to_table(page.events, E'\\n') with ordinality as line (event, number)
    union all
    select seq, 1, aggregateid, created_at, payload
    from els.outbox;

delete from els.outbox;

insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate, created_at)
select
    (event::json ->> 'event_id')::uuid,
    batch_id,
    event::json ->> 'event_type',
    event,
    (event::json ->> 'correlation_id')::uuid,
    event::json #>> '{metadata,traceparent}',
    event::json #>> '{metadata,tracestate}',
    created_at
from moved
order by seq, number;

delete from els.outbox_blocked;
drop trigger previous_relays on els.relays;
drop function els.refuse_previous_relay;
drop table els.outbox_format, els.outbox_pages cascade;
drop index els.outbox_seq;
alter table els.relays drop column reads_pages cascade;
alter table els.outbox_blocked drop column acknowledged cascade;
"""


def upgrade() -> None:
    # First, since it commits what the revision did before: an interrupted migration must be repeatable.
    create_index("outbox_seq", "els.outbox (seq)")
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
