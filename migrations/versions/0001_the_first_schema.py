"""The first schema: batches and slots, content that waits, the outbox, the quarantine.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
oldest_code = "0001"

# Every table that belongs to a batch has a key that begins with its batch id, so that the tables
# distribute by it. Rows that change often leave room in their page (fillfactor) and are vacuumed
# by their number, not by their share of the table: a share of ten million rows is far too late.
UPGRADE = """
create table els.batches (
    batch_id           text        not null,
    expected           integer     not null,
    assigned           integer     not null default 0,
    failed             integer     not null default 0,
    state              text        not null default 'registered',
    essay_set          bytea       not null,
    course_code        text        not null,
    user_id            text        not null,
    essay_instructions text        not null,
    class_id           text,
    org_id             text,
    correlation_id     uuid        not null,
    traceparent        text,
    tracestate         text,
    registered_at      timestamptz not null,
    changed_at         timestamptz not null,
    completed_at       timestamptz,
    timed_out_at       timestamptz,
    constraint batches_pkey primary key (batch_id),
    constraint batches_batch_id_check check (char_length(batch_id) between 1 and 255),
    constraint batches_expected_check check (expected between 1 and 100000),
    constraint batches_counts_check check (assigned >= 0 and failed >= 0 and assigned + failed <= expected),
    constraint batches_state_check check (
        state = case
            when assigned + failed < expected then 'registered'
            when assigned > 0 then 'ready'
            else 'failed'
        end
    ),
    constraint batches_completed_check check ((completed_at is null) = (state = 'registered')),
    constraint batches_essay_set_check check (octet_length(essay_set) = 32),
    constraint batches_course_code_check check (course_code in ('ENG5', 'ENG6', 'ENG7', 'SV1', 'SV2', 'SV3'))
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create index batches_changed on els.batches using brin (changed_at)
    with (pages_per_range = 16, autosummarize = on);

create table els.slots (
    batch_id            text    not null,
    essay_id            text    not null,
    position            integer not null,
    state               text    not null default 'open',
    text_storage_id     text,
    file_upload_id      text,
    original_file_name  text,
    raw_file_storage_id text,
    file_size_bytes     bigint,
    content_md5_hash    text,
    correlation_id      uuid,
    traceparent         text,
    tracestate          text,
    taken_at            timestamptz,
    constraint slots_pkey primary key (batch_id, essay_id),
    constraint slots_essay_id_check check (char_length(essay_id) between 1 and 255),
    constraint slots_position_check check (position between 1 and 100000),
    constraint slots_state_check check (
        case state
            when 'open' then num_nonnulls(
                text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
                file_size_bytes, content_md5_hash, correlation_id, taken_at) = 0
            when 'assigned' then num_nulls(
                text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
                file_size_bytes, correlation_id, taken_at) = 0
            when 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0
            else false
        end
    )
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 20000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1);

create unique index slots_open on els.slots (batch_id, position) where state = 'open';
create unique index slots_content on els.slots (batch_id, text_storage_id) where text_storage_id is not null;
create unique index slots_failure on els.slots (batch_id, file_upload_id) where state = 'failed';

create sequence els.arrivals cache 1;

create table els.pending_content (
    batch_id            text        not null,
    text_storage_id     text        not null,
    arrival             bigint      not null,
    state               text        not null default 'pending',
    file_upload_id      text        not null,
    original_file_name  text        not null,
    raw_file_storage_id text        not null,
    file_size_bytes     bigint      not null,
    content_md5_hash    text,
    correlation_id      uuid        not null,
    traceparent         text,
    tracestate          text,
    stored_at           timestamptz not null,
    waiting_since       timestamptz not null,
    closed_at           timestamptz,
    constraint pending_content_pkey primary key (batch_id, text_storage_id),
    constraint pending_content_batch_id_check check (char_length(batch_id) between 1 and 255),
    constraint pending_content_text_storage_id_check check (char_length(text_storage_id) between 1 and 255),
    constraint pending_content_file_size_bytes_check check (file_size_bytes >= 0),
    constraint pending_content_state_check check (state in ('pending', 'expired', 'removed')),
    constraint pending_content_closed_check check ((closed_at is null) = (state = 'pending'))
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 1);

create unique index pending_content_order on els.pending_content (batch_id, arrival) where state <> 'removed';
create index pending_content_due on els.pending_content (waiting_since) where state = 'pending';

create table els.excess_content (
    batch_id            text        not null,
    text_storage_id     text        not null,
    reason              text        not null,
    file_upload_id      text        not null,
    original_file_name  text        not null,
    raw_file_storage_id text        not null,
    file_size_bytes     bigint      not null,
    content_md5_hash    text,
    correlation_id      uuid        not null,
    traceparent         text,
    tracestate          text,
    declared_at         timestamptz not null,
    constraint excess_content_pkey primary key (batch_id, text_storage_id),
    constraint excess_content_text_storage_id_check check (char_length(text_storage_id) between 1 and 255),
    constraint excess_content_reason_check check (reason in ('BATCH_FULL', 'NO_AVAILABLE_SLOT'))
);

create table els.validation_failures (
    batch_id              text        not null,
    file_upload_id        text        not null,
    arrival               bigint      not null,
    state                 text        not null,
    original_file_name    text        not null,
    raw_file_storage_id   text        not null,
    validation_error_code text        not null,
    error_detail          json        not null,
    file_size_bytes       bigint      not null,
    failed_at             timestamptz not null,
    correlation_id        uuid        not null,
    traceparent           text,
    tracestate            text,
    stored_at             timestamptz not null,
    waiting_since         timestamptz not null,
    constraint validation_failures_pkey primary key (batch_id, file_upload_id),
    constraint validation_failures_batch_id_check check (char_length(batch_id) between 1 and 255),
    constraint validation_failures_file_upload_id_check check (char_length(file_upload_id) between 1 and 255),
    constraint validation_failures_state_check check (state in ('pending', 'expired', 'slot', 'surplus')),
    constraint validation_failures_file_size_bytes_check check (file_size_bytes >= 0)
);

create unique index validation_failures_order on els.validation_failures (batch_id, arrival)
    where state in ('pending', 'expired');
create index validation_failures_due on els.validation_failures (waiting_since) where state = 'pending';

create table els.outbox (
    seq            bigint      not null generated always as identity,
    id             uuid        not null,
    aggregatetype  text        not null default 'batch',
    aggregateid    text        not null,
    type           text        not null,
    payload        text        not null,
    correlation_id uuid        not null,
    traceparent    text,
    tracestate     text,
    created_at     timestamptz not null default transaction_timestamp(),
    shard          smallint    not null
        generated always as ((hashtextextended(aggregateid, 0) & 63)::smallint) stored,
    constraint outbox_pkey primary key (aggregateid, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,
        toast.autovacuum_vacuum_threshold = 10000);

create index outbox_order on els.outbox (shard, seq);

create table els.outbox_blocked (
    batch_id text        not null,
    seq      bigint      not null,
    topic    text        not null,
    error    text        not null,
    since    timestamptz not null,
    retry_at timestamptz not null,
    constraint outbox_blocked_pkey primary key (batch_id)
);

create table els.relays (
    relay      uuid        not null,
    expires_at timestamptz not null,
    constraint relays_pkey primary key (relay)
) with (fillfactor = 50);

create table els.relay_shards (
    shard smallint not null,
    relay uuid,
    constraint relay_shards_pkey primary key (shard),
    constraint relay_shards_shard_check check (shard between 0 and 63)
) with (fillfactor = 50);

insert into els.relay_shards (shard) select generate_series(0, 63);

create table els.quarantine (
    id            bigint      not null generated always as identity,
    topic         text        not null,
    fingerprint   bytea       not null,
    state         text        not null default 'open',
    "partition"   integer     not null,
    "offset"      bigint      not null,
    key           bytea,
    value         bytea,
    headers       jsonb       not null default '[]',
    reason        text        not null,
    error         text        not null,
    first_seen_at timestamptz not null,
    last_seen_at  timestamptz not null,
    deliveries    bigint      not null default 1,
    closed_at     timestamptz,
    constraint quarantine_pkey primary key (id),
    constraint quarantine_fingerprint_key unique (topic, fingerprint),
    constraint quarantine_fingerprint_check check (octet_length(fingerprint) = 32),
    constraint quarantine_state_check check (state in ('open', 'replayed', 'discarded')),
    constraint quarantine_closed_check check ((closed_at is null) = (state = 'open')),
    constraint quarantine_deliveries_check check (deliveries >= 1)
);

create index quarantine_open on els.quarantine (id) where state = 'open';

create table els.topic_refusals (
    topic      text    not null,
    in_a_row   integer not null default 0,
    stopped_at timestamptz,
    constraint topic_refusals_pkey primary key (topic),
    constraint topic_refusals_in_a_row_check check (in_a_row >= 0)
);

create table els.crash_marks (
    topic       text        not null,
    "partition" integer     not null,
    "offset"    bigint      not null,
    records     integer,
    deaths      integer     not null default 0,
    in_hand     boolean     not null default false,
    pod         text        not null,
    marked_at   timestamptz not null,
    constraint crash_marks_pkey primary key (topic, "partition"),
    constraint crash_marks_records_check check (records >= 1),
    constraint crash_marks_deaths_check check (deaths >= 0)
) with (fillfactor = 50);

create table els.policy (
    name    text   not null,
    seconds bigint not null,
    constraint policy_pkey primary key (name),
    constraint policy_seconds_check check (seconds > 0)
);

insert into els.policy (name, seconds) values ('pending_ttl', 86400);
"""

# The schema itself stays, with alembic's own table in it: the environment made it, this revision did not.
# What goes takes its views along.
DOWNGRADE = """
drop table
    els.policy, els.crash_marks, els.topic_refusals, els.quarantine, els.relay_shards, els.relays,
    els.outbox_blocked, els.outbox, els.validation_failures, els.excess_content, els.pending_content,
    els.slots, els.batches
    cascade;
drop sequence els.arrivals;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
