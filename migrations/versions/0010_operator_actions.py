"""What operators can find, correct and erase.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

from service.postgres.migration import create_index

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
oldest_code = "0001"

# What a rejected input is about. Null in rows of earlier releases until the input is delivered again.
SUBJECTS = """
alter table els.quarantine
    add column if not exists batch_id text,
    add column if not exists original_file_name text,
    add column if not exists correlation_id uuid;
"""

# What ops.health reports although it needs no action any more, until an operator has seen it. Expired content has rows
# of its own, so of that only the time is kept up to which it was seen: at first what expired in the last day is shown.
NOTICES = """
create table if not exists els.notices (
    id              bigint      not null generated always as identity,
    kind            text        not null,
    at              timestamptz not null default transaction_timestamp(),
    detail          text        not null,
    acknowledged_at timestamptz,
    constraint notices_pkey primary key (id),
    constraint notices_kind_check check (kind in ('clocks', 'servers'))
);

create index if not exists notices_open on els.notices (id) where acknowledged_at is null;

create table if not exists els.expired_seen (
    only_row boolean     not null default true,
    until    timestamptz not null,
    constraint expired_seen_pkey primary key (only_row),
    constraint expired_seen_only_row_check check (only_row)
);

insert into els.expired_seen (until)
values (transaction_timestamp() - interval '1 day')
on conflict do nothing;
"""

# An operator closes a batch, or cancels it: what was open is withdrawn then, and the batch waits for nothing more.
ENDINGS = """
alter table els.batches
    add column if not exists withdrawn integer not null default 0,
    add column if not exists cancelled_at timestamptz,
    add column if not exists cancel_reason text;
"""
ENDED_BATCHES = {
    # Only a batch that is ended has withdrawn slots, and then none is open.
    "batches_counts_check": (
        "assigned >= 0 and failed >= 0 and withdrawn >= 0 and assigned + failed + withdrawn <= expected"
        " and (withdrawn = 0 or assigned + failed + withdrawn = expected)"
    ),
    "batches_state_check": (
        "case when assigned + failed + withdrawn < expected then state = 'registered'"
        " when state = 'cancelled' then true when assigned = 0 then state = 'failed'"
        " else state = 'ready' or state = 'complete' and coalesce(class_id, '') <> '' and confirmed_at is null end"
    ),
    # A batch that was complete before it was cancelled has announced that, so the two times must differ.
    "batches_cancelled_check": (
        "case state when 'cancelled' then num_nulls(cancelled_at, cancel_reason) = 0 and completed_at <= cancelled_at"
        " and ready_announced_at is null"
        " and cancel_reason in ('WRONG_REGISTRATION', 'WITHDRAWN', 'DUPLICATE', 'OTHER')"
        " else num_nonnulls(cancelled_at, cancel_reason) = 0 end"
    ),
}
ENDED_SLOTS = {
    "slots_state_check": (
        "case when state in ('open', 'withdrawn') then num_nonnulls(text_storage_id, file_upload_id,"
        " original_file_name, raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, taken_at, origin)"
        " = 0 when state = 'assigned' then num_nulls(text_storage_id, taken_at) = 0 and (origin is not null"
        " or num_nulls(file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes, correlation_id) = 0)"
        " when state = 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0"
        " else false end"
    )
}
BATCHES_BEFORE = {
    "batches_counts_check": "assigned >= 0 and failed >= 0 and assigned + failed <= expected",
    "batches_state_check": (
        "case when assigned + failed < expected then state = 'registered' when assigned = 0 then state = 'failed'"
        " else state = 'ready' or state = 'complete' and coalesce(class_id, '') <> '' and confirmed_at is null end"
    ),
}
SLOTS_BEFORE = {
    "slots_state_check": (
        "case state when 'open' then num_nonnulls(text_storage_id, file_upload_id, original_file_name,"
        " raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, taken_at, origin) = 0"
        " when 'assigned' then num_nulls(text_storage_id, taken_at) = 0 and (origin is not null"
        " or num_nulls(file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes, correlation_id) = 0)"
        " when 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0"
        " else false end"
    )
}
REFUSE_ENDED = """
do $$
begin
    if exists (select from els.batches where withdrawn > 0 or state = 'cancelled') then
        raise exception 'batches are closed or cancelled, which the release before does not know';
    end if;
end
$$;
"""
IGNORE = "-- squawk-ignore ban-drop-constraint\n"

# How many partitions each input topic had at a time of the database, by the metadata of a pod.
INPUT_TOPICS = """
create table if not exists els.input_topics (
    topic       text        not null,
    partitions  integer     not null,
    known_at    timestamptz not null,
    fewer_since timestamptz,
    constraint input_topics_pkey primary key (topic),
    constraint input_topics_check check (partitions > 0)
);
"""


EDITED = "alter table els.quarantine add column if not exists edited_value bytea"

# What each pod reports of itself, also while the broker is down. Rows are replaced every few seconds.
PODS = """
create table if not exists els.pods (
    pod               uuid        not null,
    host              text        not null,
    release           text        not null,
    roles             text[]      not null,
    started_at        timestamptz not null default clock_timestamp(),
    seen_at           timestamptz not null default clock_timestamp(),
    errors            text[]      not null,
    not_ready_since   timestamptz,
    broker_error      text,
    broker_away_since timestamptz,
    partitions        integer,
    lag               bigint,
    applied_at        timestamptz,
    constraint pods_pkey primary key (pod)
) with (fillfactor = 50);
"""

# What a search reads of a batch, in place of all its rows: docs/decisions/0016-search.md. Written by the purge, and
# unlogged: after a crash or a failover it is empty, as is its progress, and the purge writes it again.
SEARCH = """
create unlogged table if not exists els.search (
    batch_id      text        not null,
    registered_at timestamptz not null,
    changed_at    timestamptz not null,
    names         text        storage external not null,
    ids           bytea       storage external not null,
    constraint search_pkey primary key (batch_id)
) with (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.05);
create unlogged table if not exists els.search_progress (
    only_row    boolean not null default true,
    known_until timestamptz,
    pass_until  timestamptz,
    after       text    not null,
    constraint search_progress_pkey primary key (only_row),
    constraint search_progress_only_row_check check (only_row)
);
"""


def upgrade() -> None:
    op.execute(SUBJECTS)
    op.execute(EDITED)
    create_index("quarantine_batch", "els.quarantine (batch_id) where batch_id is not null")
    create_index("quarantine_correlation", "els.quarantine (correlation_id) where correlation_id is not null")
    op.execute(NOTICES)
    op.execute(PODS)
    op.execute(ENDINGS)
    _replace_checks("els.batches", ENDED_BATCHES)
    _replace_checks("els.slots", ENDED_SLOTS)
    op.execute(INPUT_TOPICS)
    op.execute(SEARCH)
    brin = "using brin ({}) with (pages_per_range = 16, autosummarize = on)"
    create_index("excess_content_declared", "els.excess_content " + brin.format("declared_at"))
    create_index("validation_failures_stored", "els.validation_failures " + brin.format("stored_at"))


def _replace_checks(table: str, checks: dict[str, str]) -> None:
    """Replace checks. Each step is committed, so that none is validated while writers wait, and can be run again."""
    for name, condition in checks.items():
        op.execute(
            f"{IGNORE}alter table {table} drop constraint if exists {name},"
            f" add constraint {name} check ({condition}) not valid"
        )
        with op.get_context().autocommit_block():
            op.execute(f"alter table {table} validate constraint {name}")


def downgrade() -> None:
    # Fails where a batch is closed or cancelled: delete these first, with everything that belongs to them.
    op.execute(REFUSE_ENDED)
    op.execute(f"{IGNORE}alter table els.batches drop constraint batches_cancelled_check")
    _replace_checks("els.batches", BATCHES_BEFORE)
    _replace_checks("els.slots", SLOTS_BEFORE)
    op.execute(
        "alter table els.batches drop column withdrawn cascade, drop column cancelled_at cascade,"
        " drop column cancel_reason cascade"
    )
    op.execute("drop table els.notices, els.expired_seen cascade")
    op.execute("drop index els.excess_content_declared, els.validation_failures_stored")
    op.execute("drop table els.search, els.search_progress")
    op.execute(
        "alter table els.quarantine drop column batch_id cascade, drop column original_file_name cascade,"
        " drop column correlation_id cascade, drop column edited_value cascade"
    )
    op.execute("drop table els.input_topics cascade")
    # Fails where a batch is closed or cancelled: delete these first, with everything that belongs to them.
    op.execute(REFUSE_ENDED)
    op.execute(f"{IGNORE}alter table els.batches drop constraint batches_cancelled_check")
    _replace_checks("els.batches", BATCHES_BEFORE)
    _replace_checks("els.slots", SLOTS_BEFORE)
    op.execute(
        "alter table els.batches drop column withdrawn cascade, drop column cancelled_at cascade,"
        " drop column cancel_reason cascade"
    )
    op.execute("drop table els.notices, els.expired_seen, els.pods cascade")
    op.execute(
        "alter table els.quarantine drop column batch_id cascade, drop column original_file_name cascade,"
        " drop column correlation_id cascade, drop column edited_value cascade"
    )
