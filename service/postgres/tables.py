"""Declares the current schema, as SQLAlchemy metadata.

The migrations create the schema; a test compares it with this declaration, through the catalog. The reasons of
constraints and storage settings are in migrations/versions.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

SCHEMA = "els"
METADATA = MetaData(schema=SCHEMA)

_TIME = DateTime(timezone=True)

_BRIN: Mapping[str, Any] = {
    "postgresql_using": "brin",
    "postgresql_with": {"pages_per_range": 16, "autosummarize": "on"},
}
"""An index of times that costs next to nothing where rows are written in the order of these times."""


def _not_null(name: str, kind: Any, **options: Any) -> Column[Any]:
    """Declare a column that is not null."""
    return Column(name, kind, nullable=False, **options)


def _length(table: str, column: str) -> CheckConstraint:
    """Declare the constraint of an identity: a text of 1 to 255 characters."""
    return CheckConstraint(f"char_length({column}) between 1 and 255", name=f"{table}_{column}_check")


def _file(nullable: Collection[str] = ()) -> list[Column[Any]]:
    """Declare the columns of an uploaded file, as the File Service describes it."""
    return [
        Column("file_upload_id", Text, nullable="file_upload_id" in nullable),
        Column("original_file_name", Text, nullable="original_file_name" in nullable),
        Column("raw_file_storage_id", Text, nullable="raw_file_storage_id" in nullable),
        Column("file_size_bytes", BigInteger, nullable="file_size_bytes" in nullable),
        Column("content_md5_hash", Text),
    ]


def _trace(*, nullable: bool = False) -> list[Column[Any]]:
    """Declare the columns of a correlation id and a trace."""
    return [Column("correlation_id", Uuid, nullable=nullable), Column("traceparent", Text), Column("tracestate", Text)]


def _origin(table: str, *known: str) -> list[Column[Any] | CheckConstraint]:
    """Declare the column that says that only an output topic reports the row: then `known` may be null."""
    complete = f"origin is not null or num_nulls({', '.join(known)}) = 0"
    return [
        Column("origin", Text),
        CheckConstraint("origin = 'output'", name=f"{table}_origin_check"),
        *([CheckConstraint(complete, name=f"{table}_complete_check")] if known else []),
    ]


batches = Table(
    "batches",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("expected", Integer),
    _not_null("assigned", Integer, server_default=text("0")),
    _not_null("failed", Integer, server_default=text("0")),
    _not_null("state", Text, server_default="registered"),
    _not_null("essay_set", LargeBinary),
    _not_null("course_code", Text),
    _not_null("user_id", Text),
    _not_null("essay_instructions", Text),
    Column("class_id", Text),
    Column("org_id", Text),
    *_trace(),
    _not_null("registered_at", _TIME),
    _not_null("changed_at", _TIME),
    Column("completed_at", _TIME),
    Column("timed_out_at", _TIME),
    Column("student_prompt_ref", JSON),
    Column("confirmed_at", _TIME),
    Column("ready_announced_at", _TIME),
    _not_null("withdrawn", Integer, server_default=text("0")),
    Column("cancelled_at", _TIME),
    Column("cancel_reason", Text),
    Column("erased_at", _TIME),
    PrimaryKeyConstraint("batch_id", name="batches_pkey"),
    _length("batches", "batch_id"),
    CheckConstraint("expected between 1 and 100000", name="batches_expected_check"),
    CheckConstraint(
        "assigned >= 0 and failed >= 0 and withdrawn >= 0 and assigned + failed + withdrawn <= expected"
        " and (withdrawn = 0 or assigned + failed + withdrawn = expected)",
        name="batches_counts_check",
    ),
    CheckConstraint(
        "case when assigned + failed + withdrawn < expected then state = 'registered'"
        " when state = 'cancelled' then true when assigned = 0 then state = 'failed'"
        " else state = 'ready' or state = 'complete' and coalesce(class_id, '') <> '' and confirmed_at is null end",
        name="batches_state_check",
    ),
    CheckConstraint("(completed_at is null) = (state = 'registered')", name="batches_completed_check"),
    CheckConstraint(
        "case state when 'cancelled' then num_nulls(cancelled_at, cancel_reason) = 0 and completed_at <= cancelled_at"
        " and ready_announced_at is null"
        " and cancel_reason in ('WRONG_REGISTRATION', 'WITHDRAWN', 'DUPLICATE', 'OTHER')"
        " else num_nonnulls(cancelled_at, cancel_reason) = 0 end",
        name="batches_cancelled_check",
    ),
    CheckConstraint("octet_length(essay_set) = 32", name="batches_essay_set_check"),
    CheckConstraint("course_code in ('ENG5', 'ENG6', 'ENG7', 'SV1', 'SV2', 'SV3')", name="batches_course_code_check"),
    Index("batches_changed", "changed_at", **_BRIN),
    Index("batches_listed", text("(state || '')"), "registered_at"),
    Index("batches_unconfirmed", "completed_at", postgresql_where=text("state = 'complete'")),
    Index("batches_late", "registered_at", postgresql_where=text("state = 'registered' and timed_out_at is null")),
    Index(
        "batches_late_reported",
        "timed_out_at",
        postgresql_where=text("state = 'registered' and timed_out_at is not null"),
    ),
    Index(
        "batches_ended",
        text("coalesce(completed_at, timed_out_at)"),
        postgresql_where=text("coalesce(completed_at, timed_out_at) is not null"),
    ),
    postgresql_with={
        "fillfactor": 60,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 1000,
    },
)

_FILE_OF_A_SLOT = "file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes"

slots = Table(
    "slots",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("essay_id", Text),
    _not_null("position", Integer),
    _not_null("state", Text, server_default="open"),
    Column("text_storage_id", Text),
    Column("file_upload_id", Text),
    Column("original_file_name", Text),
    Column("raw_file_storage_id", Text),
    Column("file_size_bytes", BigInteger),
    Column("content_md5_hash", Text),
    Column("correlation_id", Uuid),
    Column("traceparent", Text),
    Column("tracestate", Text),
    Column("taken_at", _TIME),
    *_origin("slots"),
    Column("pending_at", _TIME),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "essay_id", name="slots_pkey"),
    _length("slots", "essay_id"),
    CheckConstraint("position between 1 and 100000", name="slots_position_check"),
    CheckConstraint(
        f"case when state in ('open', 'withdrawn') then num_nonnulls(text_storage_id, {_FILE_OF_A_SLOT},"
        " content_md5_hash, correlation_id, taken_at, origin) = 0"
        " when state = 'assigned' then num_nulls(text_storage_id, taken_at) = 0 and (origin is not null"
        f" or num_nulls({_FILE_OF_A_SLOT}, correlation_id) = 0)"
        " when state = 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0"
        " else false end",
        name="slots_state_check",
    ),
    Index("slots_open", "batch_id", "position", unique=True, postgresql_where=text("state = 'open'")),
    Index(
        "slots_content",
        "batch_id",
        "text_storage_id",
        unique=True,
        postgresql_where=text("text_storage_id is not null"),
    ),
    Index("slots_failure", "batch_id", "file_upload_id", unique=True, postgresql_where=text("state = 'failed'")),
    postgresql_with={
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_threshold": 20000,
        "autovacuum_analyze_scale_factor": 0.05,
        "autovacuum_vacuum_cost_delay": 1,
    },
)

arrivals = Sequence("arrivals", metadata=METADATA, schema=SCHEMA, cache=1)

pending_content = Table(
    "pending_content",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("text_storage_id", Text),
    _not_null("arrival", BigInteger),
    _not_null("state", Text, server_default="pending"),
    *_file(nullable=("raw_file_storage_id", "file_size_bytes")),
    *_trace(),
    _not_null("stored_at", _TIME),
    _not_null("waiting_since", _TIME),
    Column("closed_at", _TIME),
    *_origin("pending_content", "raw_file_storage_id", "file_size_bytes"),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "text_storage_id", name="pending_content_pkey"),
    _length("pending_content", "batch_id"),
    _length("pending_content", "text_storage_id"),
    CheckConstraint("file_size_bytes >= 0", name="pending_content_file_size_bytes_check"),
    CheckConstraint("state in ('pending', 'expired', 'removed')", name="pending_content_state_check"),
    CheckConstraint("(closed_at is null) = (state = 'pending')", name="pending_content_closed_check"),
    Index(
        "pending_content_order",
        "batch_id",
        "arrival",
        unique=True,
        postgresql_where=text("state <> 'removed'"),
    ),
    Index("pending_content_due", "waiting_since", postgresql_where=text("state = 'pending'")),
    Index("pending_content_expired", "closed_at", postgresql_where=text("state = 'expired'")),
    Index("pending_content_removed", "closed_at", postgresql_where=text("state = 'removed'")),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_threshold": 5000,
        "autovacuum_vacuum_cost_delay": 1,
    },
)

excess_content = Table(
    "excess_content",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("text_storage_id", Text),
    _not_null("reason", Text),
    *_file(nullable=_FILE_OF_A_SLOT.split(", ")),
    *_trace(nullable=True),
    _not_null("declared_at", _TIME),
    *_origin("excess_content", *_FILE_OF_A_SLOT.split(", "), "correlation_id"),
    Column("pending_at", _TIME),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "text_storage_id", name="excess_content_pkey"),
    _length("excess_content", "text_storage_id"),
    CheckConstraint("reason in ('BATCH_FULL', 'NO_AVAILABLE_SLOT')", name="excess_content_reason_check"),
    Index("excess_content_declared", "declared_at", **_BRIN),
)

validation_failures = Table(
    "validation_failures",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("file_upload_id", Text),
    _not_null("arrival", BigInteger),
    _not_null("state", Text),
    _not_null("original_file_name", Text),
    Column("raw_file_storage_id", Text),
    _not_null("validation_error_code", Text),
    _not_null("error_detail", JSON),
    Column("file_size_bytes", BigInteger),
    _not_null("failed_at", _TIME),
    *_trace(),
    _not_null("stored_at", _TIME),
    _not_null("waiting_since", _TIME),
    Column("closed_at", _TIME),
    *_origin("validation_failures", "raw_file_storage_id", "file_size_bytes"),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "file_upload_id", name="validation_failures_pkey"),
    _length("validation_failures", "batch_id"),
    _length("validation_failures", "file_upload_id"),
    CheckConstraint(
        "state in ('pending', 'expired', 'removed', 'slot', 'surplus')", name="validation_failures_state_check"
    ),
    CheckConstraint("file_size_bytes >= 0", name="validation_failures_file_size_bytes_check"),
    Index(
        "validation_failures_order",
        "batch_id",
        "arrival",
        unique=True,
        postgresql_where=text("state in ('pending', 'expired')"),
    ),
    Index("validation_failures_due", "waiting_since", postgresql_where=text("state = 'pending'")),
    Index("validation_failures_expired", "closed_at", postgresql_where=text("state = 'expired'")),
    Index("validation_failures_removed", "closed_at", postgresql_where=text("state = 'removed'")),
    Index("validation_failures_stored", "stored_at", **_BRIN),
)

confirmations = Table(
    "confirmations",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("class_id", Text),
    _not_null("state", Text),
    _not_null("associations", Integer),
    *_trace(),
    _not_null("stored_at", _TIME),
    PrimaryKeyConstraint("batch_id", "class_id", name="confirmations_pkey"),
    _length("confirmations", "batch_id"),
    CheckConstraint("char_length(class_id) <= 255", name="confirmations_class_id_check"),
    CheckConstraint("state in ('pending', 'applied', 'unused')", name="confirmations_state_check"),
    Index("confirmations_waiting", "stored_at", postgresql_where=text("state = 'pending'")),
)

outbox = Table(
    "outbox",
    METADATA,
    _not_null("seq", BigInteger, server_default=Identity(always=True)),
    _not_null("id", Uuid),
    _not_null("aggregatetype", Text, server_default="batch"),
    _not_null("aggregateid", Text),
    _not_null("type", Text),
    _not_null("payload", Text),
    *_trace(),
    _not_null("created_at", _TIME, server_default=text("transaction_timestamp()")),
    _not_null(
        "shard",
        SmallInteger,
        server_default=Computed("(hashtextextended(aggregateid, 0) & 63)::smallint", persisted=True),
    ),
    PrimaryKeyConstraint("aggregateid", "seq", name="outbox_pkey"),
    Index("outbox_order", "shard", "seq"),
    Index("outbox_seq", "seq"),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 10000,
        "autovacuum_vacuum_insert_scale_factor": 0,
        "autovacuum_vacuum_insert_threshold": 100000,
        "autovacuum_vacuum_cost_delay": 0,
        "toast.autovacuum_vacuum_scale_factor": 0,
        "toast.autovacuum_vacuum_threshold": 10000,
    },
)

outbox_pages = Table(
    "outbox_pages",
    METADATA,
    _not_null("seq", BigInteger, autoincrement=False, server_default=text("nextval('els.outbox_seq_seq')")),
    _not_null("batch_id", Text),
    _not_null("topics", JSONB),
    _not_null("events", Text),
    _not_null("created_at", _TIME, server_default=text("transaction_timestamp()")),
    _not_null(
        "shard",
        SmallInteger,
        server_default=Computed("(hashtextextended(batch_id, 0) & 63)::smallint", persisted=True),
    ),
    PrimaryKeyConstraint("seq", name="outbox_pages_pkey"),
    Index("outbox_pages_batch", "batch_id"),
    postgresql_with={
        "toast_tuple_target": 8160,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 2000,
        "autovacuum_vacuum_insert_scale_factor": 0,
        "autovacuum_vacuum_insert_threshold": 100000,
        "autovacuum_vacuum_cost_delay": 0,
        "toast.autovacuum_vacuum_scale_factor": 0,
        "toast.autovacuum_vacuum_threshold": 10000,
    },
)

outbox_format = Table(
    "outbox_format",
    METADATA,
    _not_null("pages", Boolean),
    PrimaryKeyConstraint("pages", name="outbox_format_pkey"),
)

outbox_blocked = Table(
    "outbox_blocked",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("seq", BigInteger),
    _not_null("topic", Text),
    _not_null("error", Text),
    _not_null("since", _TIME),
    _not_null("retry_at", _TIME),
    _not_null("acknowledged", Integer, server_default=text("0")),
    PrimaryKeyConstraint("batch_id", name="outbox_blocked_pkey"),
)

relays = Table(
    "relays",
    METADATA,
    _not_null("relay", Uuid),
    _not_null("expires_at", _TIME),
    _not_null("reads_pages", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("relay", name="relays_pkey"),
    postgresql_with={"fillfactor": 50},
)

relay_shards = Table(
    "relay_shards",
    METADATA,
    _not_null("shard", SmallInteger, autoincrement=False),
    Column("relay", Uuid),
    PrimaryKeyConstraint("shard", name="relay_shards_pkey"),
    CheckConstraint("shard between 0 and 63", name="relay_shards_shard_check"),
    postgresql_with={"fillfactor": 50},
)

quarantine = Table(
    "quarantine",
    METADATA,
    _not_null("id", BigInteger, server_default=Identity(always=True)),
    _not_null("topic", Text),
    _not_null("fingerprint", LargeBinary),
    _not_null("state", Text, server_default="open"),
    _not_null("partition", Integer),
    _not_null("offset", BigInteger),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    _not_null("headers", JSONB, server_default="[]"),
    _not_null("reason", Text),
    _not_null("error", Text),
    _not_null("first_seen_at", _TIME),
    _not_null("last_seen_at", _TIME),
    _not_null("deliveries", BigInteger, server_default=text("1")),
    Column("closed_at", _TIME),
    Column("batch_id", Text),
    Column("original_file_name", Text),
    Column("correlation_id", Uuid),
    Column("edited_value", LargeBinary),
    Column("erased_at", _TIME),
    PrimaryKeyConstraint("id", name="quarantine_pkey"),
    UniqueConstraint("topic", "fingerprint", name="quarantine_fingerprint_key"),
    CheckConstraint("octet_length(fingerprint) = 32", name="quarantine_fingerprint_check"),
    CheckConstraint("state in ('open', 'replayed', 'discarded')", name="quarantine_state_check"),
    CheckConstraint("(closed_at is null) = (state = 'open')", name="quarantine_closed_check"),
    CheckConstraint("deliveries >= 1", name="quarantine_deliveries_check"),
    Index("quarantine_open", "id", postgresql_where=text("state = 'open'")),
    Index(
        "quarantine_open_registrations",
        text("md5(key)"),
        postgresql_where=text("state = 'open' and topic = 'huleedu.batch.essays.registered.v1'"),
    ),
    Index("quarantine_closed", "closed_at", postgresql_where=text("closed_at is not null")),
    Index("quarantine_batch", "batch_id", postgresql_where=text("batch_id is not null")),
    Index("quarantine_correlation", "correlation_id", postgresql_where=text("correlation_id is not null")),
)

topic_refusals = Table(
    "topic_refusals",
    METADATA,
    _not_null("topic", Text),
    _not_null("in_a_row", Integer, server_default=text("0")),
    Column("stopped_at", _TIME),
    Column("most_bytes", BigInteger),
    _not_null("skips", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("topic", name="topic_refusals_pkey"),
    CheckConstraint("in_a_row >= 0", name="topic_refusals_in_a_row_check"),
)

rejected_bytes = Table(
    "rejected_bytes",
    METADATA,
    _not_null("topic", Text),
    _not_null("hour", _TIME),
    _not_null("bytes", BigInteger),
    PrimaryKeyConstraint("topic", "hour", name="rejected_bytes_pkey"),
)

crash_marks = Table(
    "crash_marks",
    METADATA,
    _not_null("topic", Text),
    _not_null("partition", Integer),
    _not_null("offset", BigInteger),
    Column("records", Integer),
    _not_null("deaths", Integer, server_default=text("0")),
    _not_null("in_hand", Boolean, server_default=text("false")),
    _not_null("pod", Text),
    _not_null("marked_at", _TIME),
    _not_null("unpacking", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("topic", "partition", name="crash_marks_pkey"),
    CheckConstraint("records >= 1", name="crash_marks_records_check"),
    CheckConstraint("deaths >= 0", name="crash_marks_deaths_check"),
    postgresql_with={"fillfactor": 50},
)

policy = Table(
    "policy",
    METADATA,
    _not_null("name", Text),
    _not_null("seconds", BigInteger),
    PrimaryKeyConstraint("name", name="policy_pkey"),
    CheckConstraint("seconds > 0", name="policy_seconds_check"),
)

operator_actions = Table(
    "operator_actions",
    METADATA,
    _not_null("id", BigInteger, server_default=Identity(always=True)),
    _not_null("at", _TIME, server_default=text("transaction_timestamp()")),
    _not_null("who", Text),
    _not_null("action", Text),
    Column("batch_id", Text),
    Column("topic", Text),
    _not_null("why", Text),
    _not_null("details", JSONB, server_default="{}"),
    Column("erased_at", _TIME),
    PrimaryKeyConstraint("id", name="operator_actions_pkey"),
    CheckConstraint("char_length(who) between 1 and 255", name="operator_actions_who_check"),
    Index("operator_actions_at", "at"),
    Index("operator_actions_batch", "batch_id", postgresql_where=text("batch_id is not null")),
)

progress = Table(
    "progress",
    METADATA,
    _not_null("topic", Text),
    _not_null("partition", Integer),
    _not_null("epoch", BigInteger, server_default=text("0")),
    _not_null("next_offset", BigInteger),
    Column("record_offset", BigInteger),
    Column("record_at", _TIME),
    Column("record_digest", LargeBinary),
    Column("applied_until", _TIME),
    _not_null("previous_release", Boolean, server_default=text("false")),
    Column("open_transaction_since", _TIME),
    PrimaryKeyConstraint("topic", "partition", name="progress_pkey"),
    postgresql_with={"fillfactor": 50},
)

server_identity = Table(
    "server_identity",
    METADATA,
    _not_null("identity", Text),
    _not_null("checked_at", _TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("identity", name="server_identity_pkey"),
)

recovery = Table(
    "recovery",
    METADATA,
    _not_null("only_row", Boolean, server_default=text("true")),
    _not_null("state", Text),
    _not_null("since", _TIME, server_default=text("transaction_timestamp()")),
    _not_null("why", Text),
    Column("records", BigInteger),
    Column("run", Uuid),
    Column("known_until", _TIME),
    PrimaryKeyConstraint("only_row", name="recovery_pkey"),
    CheckConstraint("only_row", name="recovery_only_row_check"),
    CheckConstraint("state in ('behind', 'recovering')", name="recovery_state_check"),
)

incomplete_batches = Table(
    "incomplete_batches",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("announcements", JSON),
    _not_null("noticed_at", _TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("batch_id", name="incomplete_batches_pkey"),
)

skipped_inputs = Table(
    "skipped_inputs",
    METADATA,
    _not_null("topic", Text),
    _not_null("partition", Integer),
    _not_null("epoch", BigInteger),
    _not_null("first_offset", BigInteger),
    _not_null("next_offset", BigInteger),
    _not_null("skipped_at", _TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("topic", "partition", "epoch", "first_offset", name="skipped_inputs_pkey"),
    CheckConstraint("first_offset < next_offset", name="skipped_inputs_range_check"),
)

lost_inputs = Table(
    "lost_inputs",
    METADATA,
    _not_null("id", BigInteger, server_default=Identity(always=True)),
    _not_null("topic", Text),
    _not_null("partition", Integer),
    _not_null("first_offset", BigInteger),
    _not_null("next_offset", BigInteger),
    _not_null("cause", Text),
    _not_null("noticed_at", _TIME, server_default=text("transaction_timestamp()")),
    Column("acknowledged_at", _TIME),
    PrimaryKeyConstraint("id", name="lost_inputs_pkey"),
    CheckConstraint("cause in ('deleted', 'truncated', 'replaced', 'skipped')", name="lost_inputs_cause_check"),
    Index("lost_inputs_open", "id", postgresql_where=text("acknowledged_at is null")),
)

input_topics = Table(
    "input_topics",
    METADATA,
    _not_null("topic", Text),
    _not_null("partitions", Integer),
    _not_null("known_at", _TIME),
    Column("fewer_since", _TIME),
    PrimaryKeyConstraint("topic", name="input_topics_pkey"),
    CheckConstraint("partitions > 0", name="input_topics_check"),
)

output_topics = Table(
    "output_topics",
    METADATA,
    _not_null("topic", Text),
    _not_null("partitions", Integer),
    _not_null("found", Integer),
    _not_null("found_at", _TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("topic", name="output_topics_pkey"),
    CheckConstraint("partitions between 1 and found", name="output_topics_check"),
)

purge_hold = Table(
    "purge_hold",
    METADATA,
    _not_null("only_row", Boolean, server_default=text("true")),
    _not_null("since", _TIME, server_default=text("transaction_timestamp()")),
    _not_null("why", Text),
    _not_null("seconds_apart", Double),
    _not_null("agreed", Integer, server_default=text("0")),
    Column("acknowledged_at", _TIME),
    PrimaryKeyConstraint("only_row", name="purge_hold_pkey"),
    CheckConstraint("only_row", name="purge_hold_only_row_check"),
)

notices = Table(
    "notices",
    METADATA,
    _not_null("id", BigInteger, server_default=Identity(always=True)),
    _not_null("kind", Text),
    _not_null("at", _TIME, server_default=text("transaction_timestamp()")),
    _not_null("detail", Text),
    Column("acknowledged_at", _TIME),
    PrimaryKeyConstraint("id", name="notices_pkey"),
    CheckConstraint("kind in ('clocks', 'servers')", name="notices_kind_check"),
    Index("notices_open", "id", postgresql_where=text("acknowledged_at is null")),
)

expired_seen = Table(
    "expired_seen",
    METADATA,
    _not_null("only_row", Boolean, server_default=text("true")),
    _not_null("until", _TIME),
    Column("late_until", _TIME),
    PrimaryKeyConstraint("only_row", name="expired_seen_pkey"),
    CheckConstraint("only_row", name="expired_seen_only_row_check"),
)

purge_rounds = Table(
    "purge_rounds",
    METADATA,
    _not_null("only_row", Boolean, server_default=text("true")),
    _not_null("ended_at", _TIME),
    PrimaryKeyConstraint("only_row", name="purge_rounds_pkey"),
    CheckConstraint("only_row", name="purge_rounds_only_row_check"),
)

pods = Table(
    "pods",
    METADATA,
    _not_null("pod", Uuid),
    _not_null("host", Text),
    _not_null("release", Text),
    _not_null("roles", ARRAY(Text)),
    _not_null("started_at", _TIME, server_default=text("clock_timestamp()")),
    _not_null("seen_at", _TIME, server_default=text("clock_timestamp()")),
    _not_null("errors", ARRAY(Text)),
    Column("not_ready_since", _TIME),
    Column("broker_error", Text),
    Column("broker_away_since", _TIME),
    Column("partitions", Integer),
    Column("lag", BigInteger),
    Column("applied_at", _TIME),
    PrimaryKeyConstraint("pod", name="pods_pkey"),
    postgresql_with={"fillfactor": 50},
)

search = Table(
    "search",
    METADATA,
    _not_null("batch_id", Text),
    _not_null("registered_at", _TIME),
    _not_null("changed_at", _TIME),
    _not_null("names", Text),
    _not_null("ids", LargeBinary),
    PrimaryKeyConstraint("batch_id", name="search_pkey"),
    prefixes=["unlogged"],
    postgresql_with={"toast_tuple_target": 8160, "autovacuum_vacuum_scale_factor": 0.05},
)

search_progress = Table(
    "search_progress",
    METADATA,
    _not_null("only_row", Boolean, server_default=text("true")),
    Column("known_until", _TIME),
    Column("pass_until", _TIME),
    _not_null("after", Text),
    PrimaryKeyConstraint("only_row", name="search_progress_pkey"),
    CheckConstraint("only_row", name="search_progress_only_row_check"),
    prefixes=["unlogged"],
)

erasure_keys = Table(
    "erasure_keys",
    METADATA,
    _not_null("id", Text),
    _not_null("key", LargeBinary),
    _not_null("inner_pad", LargeBinary),
    _not_null("outer_pad", LargeBinary),
    _not_null("is_own", Boolean),
    PrimaryKeyConstraint("id", name="erasure_keys_pkey"),
    CheckConstraint("octet_length(key) = 32", name="erasure_keys_key_check"),
)

erasures = Table(
    "erasures",
    METADATA,
    _not_null("digest", LargeBinary),
    _not_null("key_id", Text),
    _not_null("kind", Text),
    _not_null("erased_at", _TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("digest", name="erasures_pkey"),
    CheckConstraint("octet_length(digest) = 32", name="erasures_digest_check"),
    CheckConstraint(
        "kind in ('user', 'batch', 'part', 'text', 'upload', 'mention', 'name')", name="erasures_kind_check"
    ),
)
