"""Declares the tables of batches: their slots, and what was sent for them."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from service.postgres.tables.shared import (
    BRIN,
    METADATA,
    SCHEMA,
    TIME,
    file_columns,
    length_check,
    not_null,
    origin_columns,
    trace_columns,
)

batches = Table(
    "batches",
    METADATA,
    not_null("batch_id", Text),
    not_null("expected", Integer),
    not_null("assigned", Integer, server_default=text("0")),
    not_null("failed", Integer, server_default=text("0")),
    not_null("state", Text, server_default="registered"),
    not_null("essay_set", LargeBinary),
    not_null("course_code", Text),
    not_null("user_id", Text),
    not_null("essay_instructions", Text),
    Column("class_id", Text),
    Column("org_id", Text),
    *trace_columns(),
    not_null("registered_at", TIME),
    not_null("changed_at", TIME),
    Column("completed_at", TIME),
    Column("timed_out_at", TIME),
    Column("student_prompt_ref", JSON),
    Column("confirmed_at", TIME),
    Column("ready_announced_at", TIME),
    not_null("withdrawn", Integer, server_default=text("0")),
    Column("cancelled_at", TIME),
    Column("cancel_reason", Text),
    Column("erased_at", TIME),
    PrimaryKeyConstraint("batch_id", name="batches_pkey"),
    length_check("batches", "batch_id"),
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
    Index("batches_changed", "changed_at", **BRIN),
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
    not_null("batch_id", Text),
    not_null("essay_id", Text),
    not_null("position", Integer),
    not_null("state", Text, server_default="open"),
    Column("text_storage_id", Text),
    Column("file_upload_id", Text),
    Column("original_file_name", Text),
    Column("raw_file_storage_id", Text),
    Column("file_size_bytes", BigInteger),
    Column("content_md5_hash", Text),
    Column("correlation_id", Uuid),
    Column("traceparent", Text),
    Column("tracestate", Text),
    Column("taken_at", TIME),
    *origin_columns("slots"),
    Column("pending_at", TIME),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "essay_id", name="slots_pkey"),
    length_check("slots", "essay_id"),
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
        "autovacuum_vacuum_cost_limit": 2000,
    },
)

arrivals = Sequence("arrivals", metadata=METADATA, schema=SCHEMA, cache=1)

pending_content = Table(
    "pending_content",
    METADATA,
    not_null("batch_id", Text),
    not_null("text_storage_id", Text),
    not_null("arrival", BigInteger),
    not_null("state", Text, server_default="pending"),
    *file_columns(nullable=("raw_file_storage_id", "file_size_bytes")),
    *trace_columns(),
    not_null("stored_at", TIME),
    not_null("waiting_since", TIME),
    Column("closed_at", TIME),
    *origin_columns("pending_content", "raw_file_storage_id", "file_size_bytes"),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "text_storage_id", name="pending_content_pkey"),
    length_check("pending_content", "batch_id"),
    length_check("pending_content", "text_storage_id"),
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
    not_null("batch_id", Text),
    not_null("text_storage_id", Text),
    not_null("reason", Text),
    *file_columns(nullable=_FILE_OF_A_SLOT.split(", ")),
    *trace_columns(nullable=True),
    not_null("declared_at", TIME),
    *origin_columns("excess_content", *_FILE_OF_A_SLOT.split(", "), "correlation_id"),
    Column("pending_at", TIME),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "text_storage_id", name="excess_content_pkey"),
    length_check("excess_content", "text_storage_id"),
    CheckConstraint("reason in ('BATCH_FULL', 'NO_AVAILABLE_SLOT')", name="excess_content_reason_check"),
    Index("excess_content_declared", "declared_at", **BRIN),
)

validation_failures = Table(
    "validation_failures",
    METADATA,
    not_null("batch_id", Text),
    not_null("file_upload_id", Text),
    not_null("arrival", BigInteger),
    not_null("state", Text),
    not_null("original_file_name", Text),
    Column("raw_file_storage_id", Text),
    not_null("validation_error_code", Text),
    not_null("error_detail", JSON),
    Column("file_size_bytes", BigInteger),
    not_null("failed_at", TIME),
    *trace_columns(),
    not_null("stored_at", TIME),
    not_null("waiting_since", TIME),
    Column("closed_at", TIME),
    *origin_columns("validation_failures", "raw_file_storage_id", "file_size_bytes"),
    Column("history", JSONB),
    PrimaryKeyConstraint("batch_id", "file_upload_id", name="validation_failures_pkey"),
    length_check("validation_failures", "batch_id"),
    length_check("validation_failures", "file_upload_id"),
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
    Index("validation_failures_stored", "stored_at", **BRIN),
)

confirmations = Table(
    "confirmations",
    METADATA,
    not_null("batch_id", Text),
    not_null("class_id", Text),
    not_null("state", Text),
    not_null("associations", Integer),
    *trace_columns(),
    not_null("stored_at", TIME),
    PrimaryKeyConstraint("batch_id", "class_id", name="confirmations_pkey"),
    length_check("confirmations", "batch_id"),
    CheckConstraint("char_length(class_id) <= 255", name="confirmations_class_id_check"),
    CheckConstraint("state in ('pending', 'applied', 'unused')", name="confirmations_state_check"),
    Index("confirmations_waiting", "stored_at", postgresql_where=text("state = 'pending'")),
)

incomplete_batches = Table(
    "incomplete_batches",
    METADATA,
    not_null("batch_id", Text),
    not_null("announcements", JSON),
    not_null("noticed_at", TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("batch_id", name="incomplete_batches_pkey"),
)
