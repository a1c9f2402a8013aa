"""Declares the tables of what was read of the input topics, and what could not be applied."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from service.postgres.tables.shared import METADATA, TIME, not_null

quarantine = Table(
    "quarantine",
    METADATA,
    not_null("id", BigInteger, server_default=Identity(always=True)),
    not_null("topic", Text),
    not_null("fingerprint", LargeBinary),
    not_null("state", Text, server_default="open"),
    not_null("partition", Integer),
    not_null("offset", BigInteger),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    not_null("headers", JSONB, server_default="[]"),
    not_null("reason", Text),
    not_null("error", Text),
    not_null("first_seen_at", TIME),
    not_null("last_seen_at", TIME),
    not_null("deliveries", BigInteger, server_default=text("1")),
    Column("closed_at", TIME),
    Column("batch_id", Text),
    Column("original_file_name", Text),
    Column("correlation_id", Uuid),
    Column("edited_value", LargeBinary),
    Column("erased_at", TIME),
    Column("release", Text),
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
    not_null("topic", Text),
    not_null("in_a_row", Integer, server_default=text("0")),
    Column("stopped_at", TIME),
    Column("most_bytes", BigInteger),
    not_null("skips", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("topic", name="topic_refusals_pkey"),
    CheckConstraint("in_a_row >= 0", name="topic_refusals_in_a_row_check"),
)

rejected_bytes = Table(
    "rejected_bytes",
    METADATA,
    not_null("topic", Text),
    not_null("hour", TIME),
    not_null("bytes", BigInteger),
    PrimaryKeyConstraint("topic", "hour", name="rejected_bytes_pkey"),
)

crash_marks = Table(
    "crash_marks",
    METADATA,
    not_null("topic", Text),
    not_null("partition", Integer),
    not_null("offset", BigInteger),
    Column("records", Integer),
    not_null("deaths", Integer, server_default=text("0")),
    not_null("in_hand", Boolean, server_default=text("false")),
    not_null("pod", Text),
    not_null("marked_at", TIME),
    not_null("unpacking", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("topic", "partition", name="crash_marks_pkey"),
    CheckConstraint("records >= 1", name="crash_marks_records_check"),
    CheckConstraint("deaths >= 0", name="crash_marks_deaths_check"),
    postgresql_with={"fillfactor": 50},
)

progress = Table(
    "progress",
    METADATA,
    not_null("topic", Text),
    not_null("partition", Integer),
    not_null("epoch", BigInteger, server_default=text("0")),
    not_null("next_offset", BigInteger),
    Column("record_offset", BigInteger),
    Column("record_at", TIME),
    Column("record_digest", LargeBinary),
    Column("applied_until", TIME),
    not_null("previous_release", Boolean, server_default=text("false")),
    Column("open_transaction_since", TIME),
    PrimaryKeyConstraint("topic", "partition", name="progress_pkey"),
    postgresql_with={"fillfactor": 50},
)

skipped_inputs = Table(
    "skipped_inputs",
    METADATA,
    not_null("topic", Text),
    not_null("partition", Integer),
    not_null("epoch", BigInteger),
    not_null("first_offset", BigInteger),
    not_null("next_offset", BigInteger),
    not_null("skipped_at", TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("topic", "partition", "epoch", "first_offset", name="skipped_inputs_pkey"),
    CheckConstraint("first_offset < next_offset", name="skipped_inputs_range_check"),
)

lost_inputs = Table(
    "lost_inputs",
    METADATA,
    not_null("id", BigInteger, server_default=Identity(always=True)),
    not_null("topic", Text),
    not_null("partition", Integer),
    not_null("first_offset", BigInteger),
    not_null("next_offset", BigInteger),
    not_null("cause", Text),
    not_null("noticed_at", TIME, server_default=text("transaction_timestamp()")),
    Column("acknowledged_at", TIME),
    PrimaryKeyConstraint("id", name="lost_inputs_pkey"),
    CheckConstraint("cause in ('deleted', 'truncated', 'replaced', 'skipped')", name="lost_inputs_cause_check"),
    Index("lost_inputs_open", "id", postgresql_where=text("acknowledged_at is null")),
)

input_topics = Table(
    "input_topics",
    METADATA,
    not_null("topic", Text),
    not_null("partitions", Integer),
    not_null("known_at", TIME),
    Column("fewer_since", TIME),
    PrimaryKeyConstraint("topic", name="input_topics_pkey"),
    CheckConstraint("partitions > 0", name="input_topics_check"),
)
