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
# An operator removes validation failures that wait, as content. Their rows stay, so that none is stored again.
FAILURES = {"validation_failures_state_check": "state in ('pending', 'expired', 'removed', 'slot', 'surplus')"}
FAILURES_BEFORE = {"validation_failures_state_check": "state in ('pending', 'expired', 'slot', 'surplus')"}
REFUSE_UNKNOWN = """
do $$
begin
    if exists (select from els.batches where withdrawn > 0 or state = 'cancelled') then
        raise exception 'batches are closed or cancelled, which the release before does not know';
    end if;
    if exists (select from els.validation_failures where state = 'removed') then
        raise exception 'validation failures are removed, which the release before does not know';
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


SKIPPED_INPUTS = """
create table if not exists els.skipped_inputs (
    topic        text        not null,
    "partition"  integer     not null,
    epoch        bigint      not null,
    first_offset bigint      not null,
    next_offset  bigint      not null,
    skipped_at   timestamptz not null default transaction_timestamp(),
    constraint skipped_inputs_pkey primary key (topic, "partition", epoch, first_offset),
    constraint skipped_inputs_range_check check (first_offset < next_offset)
);
"""
CAUSES = {"lost_inputs_cause_check": "cause in ('deleted', 'truncated', 'replaced', 'skipped')"}
CAUSES_BEFORE = {"lost_inputs_cause_check": "cause in ('deleted', 'truncated', 'replaced')"}

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

# When a purge round ended last, whoever ran it: `els purge` is no pod, and may be all that purges. Not in a table of
# the search: those are unlogged, and a standby cannot read them, nor a view that does.
PURGE_ROUNDS = """
create table if not exists els.purge_rounds (
    only_row boolean     not null default true,
    ended_at timestamptz not null,
    constraint purge_rounds_pkey primary key (only_row),
    constraint purge_rounds_only_row_check check (only_row)
);
"""

# What a search reads of a batch, in place of all its rows: docs/decisions/0017-search.md. Written by the purge, and
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

# Tombstones: keyed digests (HMAC-SHA-256) of what was erased, so that it is recognised where it arrives again. els_app
# reads the keys, els_ops does not: without a key, nobody can find out by trial whose data were erased.
# `batches.erased_at` also tells a poll that an erasure came between its reads and its writes.
ERASURES = """
alter table els.batches add column if not exists erased_at timestamptz;
alter table els.quarantine add column if not exists erased_at timestamptz;
alter table els.operator_actions add column if not exists erased_at timestamptz;

create table if not exists els.erasure_keys (
    id        text    not null,
    key       bytea   not null,
    inner_pad bytea   not null,
    outer_pad bytea   not null,
    is_own    boolean not null,
    constraint erasure_keys_pkey primary key (id),
    constraint erasure_keys_key_check check (octet_length(key) = 32)
);

create table if not exists els.erasures (
    digest    bytea       not null,
    key_id    text        not null,
    kind      text        not null,
    erased_at timestamptz not null default transaction_timestamp(),
    constraint erasures_pkey primary key (digest),
    constraint erasures_digest_check check (octet_length(digest) = 32),
    constraint erasures_kind_check check (kind in ('user', 'batch', 'part', 'text', 'upload', 'mention', 'name'))
);

-- The key, padded to the block of SHA-256 with zeros, each byte xor `mask`: 54 for the inner, 92 for the outer hash.
create or replace function els.hmac_pad(key bytea, mask integer) returns bytea
language sql immutable strict parallel safe
as $$
    select string_agg(
        set_byte('\\x00'::bytea, 0, (case when n < octet_length(key) then get_byte(key, n) else 0 end) # mask),
        ''::bytea order by n
    )
    from generate_series(0, 63) as n
$$;

-- Adds a key, that of this database or (is_own = false) of the tombstones of another one. Returns its id.
create or replace function els.add_erasure_key(key bytea, is_own boolean) returns text
language sql strict
as $$
    insert into els.erasure_keys (id, key, inner_pad, outer_pad, is_own)
    values (
        left(encode(sha256(key), 'hex'), 16), key, els.hmac_pad(key, 54), els.hmac_pad(key, 92), is_own
    )
    on conflict do nothing;
    select left(encode(sha256(key), 'hex'), 16)
$$;

-- The digest of what was erased: the kind, its batch ('' where it has none), its id or name.
create or replace function els.erasure_digest(inner_pad bytea, outer_pad bytea, kind text, batch_id text, name text)
returns bytea language sql stable strict parallel safe
return sha256(outer_pad || sha256(inner_pad || convert_to(
    normalize(kind || ':' || char_length(batch_id)::text || ':' || batch_id || ':' || name), 'UTF8'
)));

select els.add_erasure_key(
    sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), true
)
where not exists (select from els.erasure_keys where is_own);

-- Names as `els.contains_any` compares them: in one normal form and case.
create or replace function els.plain_names(names text[]) returns text[]
language sql immutable strict parallel safe
return array(select lower(normalize(name) collate "pg_c_utf8") from unnest(names) as name where name <> '');

-- Whether a text contains one of these names (of `els.plain_names`): a short one as a word of its own, so that the name
-- `e` or `user` is not found in every text.
create or replace function els.contains_any(given text, names text[]) returns boolean
language sql immutable strict parallel safe
return exists (
    with searched as materialized (select lower(normalize(given) collate "pg_c_utf8") as text)
    select
    from searched
    cross join unnest(names) as name
    where case
        when position(name in searched.text) = 0 then false
        when char_length(name) >= 8 then true
        else searched.text ~ (
            '(?<![[:alnum:]])' || regexp_replace(name, '([^[:alnum:]])', '\\\\\\1', 'g') || '(?![[:alnum:]])'
        )
    end
);

-- Blanks the texts of operator actions, as the owner: nobody else may change a row, and this function changes nothing
-- else. It blanks those of a batch (null: none), those on rejected inputs with these numbers, and all that contain one
-- of these names or ids. What identifies the action, and who did it when, stays; of an erasure, all but its reason
-- does. Each row is searched once: there may be many names. Returns how many it blanked.
create or replace function els.blank_operator_actions(batch text, inputs text[], ids text[], names text[])
returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
as $$
    with plain as materialized (
        select els.plain_names(names) as names, els.plain_names(ids) as ids
    ),
    blanked as (
        update els.operator_actions as action
        set why = case when action.why = '' then '' else '[erased]' end,
            details = coalesce(
                (
                    select jsonb_object_agg(
                        detail.key,
                        case
                            when action.action like 'privacy %'
                                or detail.key in ('id', 'kind', 'reason', 'fingerprint', 'outcome', 'first_at')
                                then detail.value
                            when detail.key in (
                                'contains', 'error', 'file', 'headers', 'key', 'name', 'original_file_name', 'text',
                                'user', 'user_id', 'value', 'why'
                            ) or els.contains_any(detail.value #>> '{}', plain.names)
                                then '"[erased]"'::jsonb
                            else detail.value
                        end
                    )
                    from jsonb_each(action.details) as detail
                ),
                '{}'
            ),
            erased_at = transaction_timestamp()
        from plain
        where (
                action.erased_at is null
                and action.action not like 'privacy %'
                and (
                    action.batch_id = batch
                    or (action.action like 'quarantine %' and action.details ->> 'id' = any(inputs))
                    or els.contains_any(concat_ws(' ', action.why, action.details::text), plain.ids)
                )
            )
            or els.contains_any(
                concat_ws(
                    E'\\n',
                    action.why,
                    (
                        select string_agg(detail.value #>> '{}', E'\\n')
                        from jsonb_each(action.details) as detail
                        where action.action not like 'privacy %'
                            and detail.key not in ('id', 'kind', 'reason', 'fingerprint', 'outcome', 'first_at')
                    )
                ),
                plain.names
            )
        returning 1
    )
    select count(*) from blanked
$$;
revoke all on function els.blank_operator_actions, els.add_erasure_key from public;
-- Types are looked up in the temporary schema first, unless it is named, and whoever calls the function may own one.
alter function els.refuse_previous_relay() set search_path = pg_catalog, pg_temp;
"""
ERASURES_DOWNGRADE = """
drop function els.blank_operator_actions, els.contains_any, els.plain_names, els.erasure_digest, els.add_erasure_key,
    els.hmac_pad;
drop table els.erasures, els.erasure_keys cascade;
alter table els.operator_actions drop column erased_at cascade;
alter table els.quarantine drop column erased_at cascade;
alter table els.batches drop column erased_at cascade;
"""


def upgrade() -> None:
    op.execute(SUBJECTS)
    op.execute(EDITED)
    create_index("quarantine_batch", "els.quarantine (batch_id) where batch_id is not null")
    create_index("quarantine_correlation", "els.quarantine (correlation_id) where correlation_id is not null")
    op.execute(NOTICES)
    op.execute(PODS)
    op.execute(PURGE_ROUNDS)
    op.execute(ENDINGS)
    _replace_checks("els.batches", ENDED_BATCHES)
    _replace_checks("els.slots", ENDED_SLOTS)
    op.execute(INPUT_TOPICS)
    op.execute(SEARCH)
    brin = "using brin ({}) with (pages_per_range = 16, autosummarize = on)"
    create_index("excess_content_declared", "els.excess_content " + brin.format("declared_at"))
    create_index("validation_failures_stored", "els.validation_failures " + brin.format("stored_at"))
    # An expression, so that it serves lists and nothing else: those that are late, say, have an index of their own.
    create_index("batches_listed", "els.batches ((state || ''), registered_at)")
    op.execute(ERASURES)
    create_index(
        "batches_late_reported", "els.batches (timed_out_at) where state = 'registered' and timed_out_at is not null"
    )
    op.execute(SKIPPED_INPUTS)
    _replace_checks("els.lost_inputs", CAUSES)
    _replace_checks("els.validation_failures", FAILURES)
    create_index("validation_failures_removed", "els.validation_failures (closed_at) where state = 'removed'")


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
    # Fails where a batch is closed or cancelled: delete these first, with everything that belongs to them. Fails also
    # where a validation failure is removed: without its row, a redelivery would be stored again.
    op.execute(REFUSE_UNKNOWN)
    op.execute("drop index els.validation_failures_removed")
    _replace_checks("els.validation_failures", FAILURES_BEFORE)
    op.execute("drop index els.batches_late_reported")
    op.execute("drop table els.purge_rounds cascade")
    op.execute("drop table els.skipped_inputs cascade")
    op.execute("delete from els.lost_inputs where cause = 'skipped'")
    _replace_checks("els.lost_inputs", CAUSES_BEFORE)
    op.execute(ERASURES_DOWNGRADE)
    op.execute("drop index els.batches_listed, els.excess_content_declared, els.validation_failures_stored")
    op.execute(
        "drop table els.search, els.search_progress, els.input_topics, els.notices, els.expired_seen, els.pods cascade"
    )
    op.execute(f"{IGNORE}alter table els.batches drop constraint batches_cancelled_check")
    _replace_checks("els.batches", BATCHES_BEFORE)
    _replace_checks("els.slots", SLOTS_BEFORE)
    op.execute(
        "alter table els.batches drop column withdrawn cascade, drop column cancelled_at cascade,"
        " drop column cancel_reason cascade"
    )
    op.execute(
        "alter table els.quarantine drop column batch_id cascade, drop column original_file_name cascade,"
        " drop column correlation_id cascade, drop column edited_value cascade"
    )
