"""Declares the tables of the outbox and of the relays that publish it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from service.postgres.tables.shared import METADATA, TIME, not_null, trace_columns

outbox = Table(
    "outbox",
    METADATA,
    not_null("seq", BigInteger, server_default=Identity(always=True)),
    not_null("id", Uuid),
    not_null("aggregatetype", Text, server_default="batch"),
    not_null("aggregateid", Text),
    not_null("type", Text),
    not_null("payload", Text),
    *trace_columns(),
    not_null("created_at", TIME, server_default=text("transaction_timestamp()")),
    not_null(
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
    not_null("seq", BigInteger, autoincrement=False, server_default=text("nextval('els.outbox_seq_seq')")),
    not_null("batch_id", Text),
    not_null("topics", JSONB),
    not_null("events", Text),
    not_null("created_at", TIME, server_default=text("transaction_timestamp()")),
    not_null(
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
        "toast.autovacuum_vacuum_cost_delay": 0,
    },
)

outbox_format = Table(
    "outbox_format",
    METADATA,
    not_null("pages", Boolean),
    PrimaryKeyConstraint("pages", name="outbox_format_pkey"),
)

outbox_blocked = Table(
    "outbox_blocked",
    METADATA,
    not_null("batch_id", Text),
    not_null("seq", BigInteger),
    not_null("topic", Text),
    not_null("error", Text),
    not_null("since", TIME),
    not_null("retry_at", TIME),
    not_null("acknowledged", Integer, server_default=text("0")),
    PrimaryKeyConstraint("batch_id", name="outbox_blocked_pkey"),
)

relays = Table(
    "relays",
    METADATA,
    not_null("relay", Uuid),
    not_null("expires_at", TIME),
    not_null("reads_pages", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("relay", name="relays_pkey"),
    postgresql_with={"fillfactor": 50},
)

relay_shards = Table(
    "relay_shards",
    METADATA,
    not_null("shard", SmallInteger, autoincrement=False),
    Column("relay", Uuid),
    PrimaryKeyConstraint("shard", name="relay_shards_pkey"),
    CheckConstraint("shard between 0 and 63", name="relay_shards_shard_check"),
    postgresql_with={"fillfactor": 50},
)

output_topics = Table(
    "output_topics",
    METADATA,
    not_null("topic", Text),
    not_null("partitions", Integer),
    not_null("found", Integer),
    not_null("found_at", TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("topic", name="output_topics_pkey"),
    CheckConstraint("partitions between 1 and found", name="output_topics_check"),
)
