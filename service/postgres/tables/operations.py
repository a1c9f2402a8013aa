"""Declares the tables of the running service: its pods, its purge, its recovery, and what operators did."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from service.postgres.tables.shared import METADATA, TIME, not_null, only_row

policy = Table(
    "policy",
    METADATA,
    not_null("name", Text),
    not_null("seconds", BigInteger),
    PrimaryKeyConstraint("name", name="policy_pkey"),
    CheckConstraint("seconds > 0", name="policy_seconds_check"),
)

operator_actions = Table(
    "operator_actions",
    METADATA,
    not_null("id", BigInteger, server_default=Identity(always=True)),
    not_null("at", TIME, server_default=text("transaction_timestamp()")),
    not_null("who", Text),
    not_null("action", Text),
    Column("batch_id", Text),
    Column("topic", Text),
    not_null("why", Text),
    not_null("details", JSONB, server_default="{}"),
    Column("erased_at", TIME),
    PrimaryKeyConstraint("id", name="operator_actions_pkey"),
    CheckConstraint("char_length(who) between 1 and 255", name="operator_actions_who_check"),
    Index("operator_actions_at", "at"),
    Index("operator_actions_batch", "batch_id", postgresql_where=text("batch_id is not null")),
)

server_identity = Table(
    "server_identity",
    METADATA,
    not_null("identity", Text),
    not_null("checked_at", TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("identity", name="server_identity_pkey"),
)

recovery = Table(
    "recovery",
    METADATA,
    *only_row("recovery"),
    not_null("state", Text),
    not_null("since", TIME, server_default=text("transaction_timestamp()")),
    not_null("why", Text),
    Column("records", BigInteger),
    Column("run", Uuid),
    Column("known_until", TIME),
    CheckConstraint("state in ('behind', 'recovering')", name="recovery_state_check"),
)

purge_hold = Table(
    "purge_hold",
    METADATA,
    *only_row("purge_hold"),
    not_null("since", TIME, server_default=text("transaction_timestamp()")),
    not_null("why", Text),
    not_null("seconds_apart", Double),
    not_null("agreed", Integer, server_default=text("0")),
    Column("acknowledged_at", TIME),
)

notices = Table(
    "notices",
    METADATA,
    not_null("id", BigInteger, server_default=Identity(always=True)),
    not_null("kind", Text),
    not_null("at", TIME, server_default=text("transaction_timestamp()")),
    not_null("detail", Text),
    Column("acknowledged_at", TIME),
    PrimaryKeyConstraint("id", name="notices_pkey"),
    CheckConstraint("kind in ('clocks', 'servers')", name="notices_kind_check"),
    Index("notices_open", "id", postgresql_where=text("acknowledged_at is null")),
)

expired_seen = Table(
    "expired_seen",
    METADATA,
    *only_row("expired_seen"),
    not_null("until", TIME),
    Column("late_until", TIME),
)

purge_rounds = Table(
    "purge_rounds",
    METADATA,
    *only_row("purge_rounds"),
    not_null("ended_at", TIME),
)

slice_ = Table(
    "slice",
    METADATA,
    not_null("only_row", Boolean, server_default=text("true")),
    not_null("cells", Integer),
    not_null("cell", Integer),
    not_null("since", TIME, server_default=text("transaction_timestamp()")),
    not_null("trims", Boolean, server_default=text("false")),
    not_null("fenced", Boolean, server_default=text("false")),
    PrimaryKeyConstraint("only_row", name="slice_pkey"),
    CheckConstraint("only_row", name="slice_only_row_check"),
    CheckConstraint(
        "cells between 1 and 1024 and cells & (cells - 1) = 0 and cell between 0 and cells - 1", name="slice_check"
    ),
)

transfer = Table(
    "transfer",
    METADATA,
    *only_row("transfer"),
    not_null("run", Uuid),
    not_null("kind", Text),
    not_null("state", Text),
    not_null("cells", Integer),
    not_null("cell", Integer),
    not_null("origin", Text),
    not_null("began_at", TIME, server_default=text("transaction_timestamp()")),
    Column("ended_at", TIME),
    CheckConstraint("kind in ('split', 'move')", name="transfer_kind_check"),
    CheckConstraint("state in ('fenced', 'sealed', 'done')", name="transfer_state_check"),
    CheckConstraint("(ended_at is null) = (state <> 'done')", name="transfer_ended_check"),
)

trimming = Table(
    "trimming",
    METADATA,
    *only_row("trimming"),
    not_null("cells", Integer),
    not_null("cell", Integer),
    not_null("after", Text),
)

pods = Table(
    "pods",
    METADATA,
    not_null("pod", Uuid),
    not_null("host", Text),
    not_null("release", Text),
    not_null("roles", ARRAY(Text)),
    not_null("started_at", TIME, server_default=text("clock_timestamp()")),
    not_null("seen_at", TIME, server_default=text("clock_timestamp()")),
    not_null("errors", ARRAY(Text)),
    Column("not_ready_since", TIME),
    Column("broker_error", Text),
    Column("broker_away_since", TIME),
    Column("partitions", Integer),
    Column("lag", BigInteger),
    Column("applied_at", TIME),
    PrimaryKeyConstraint("pod", name="pods_pkey"),
    postgresql_with={"fillfactor": 50},
)

search = Table(
    "search",
    METADATA,
    not_null("batch_id", Text),
    not_null("registered_at", TIME),
    not_null("changed_at", TIME),
    not_null("names", Text),
    not_null("ids", LargeBinary),
    not_null("prefixes", LargeBinary, server_default=""),
    Column("first_at", TIME),
    PrimaryKeyConstraint("batch_id", name="search_pkey"),
    prefixes=["unlogged"],
    postgresql_with={"toast_tuple_target": 8160, "autovacuum_vacuum_scale_factor": 0.05},
)

search_progress = Table(
    "search_progress",
    METADATA,
    *only_row("search_progress"),
    Column("known_until", TIME),
    Column("pass_until", TIME),
    not_null("after", Text),
    prefixes=["unlogged"],
)

erasure_keys = Table(
    "erasure_keys",
    METADATA,
    not_null("id", Text),
    not_null("key", LargeBinary),
    not_null("inner_pad", LargeBinary),
    not_null("outer_pad", LargeBinary),
    not_null("is_own", Boolean),
    PrimaryKeyConstraint("id", name="erasure_keys_pkey"),
    CheckConstraint("octet_length(key) = 32", name="erasure_keys_key_check"),
)

erasures = Table(
    "erasures",
    METADATA,
    not_null("digest", LargeBinary),
    not_null("key_id", Text),
    not_null("kind", Text),
    not_null("erased_at", TIME, server_default=text("transaction_timestamp()")),
    PrimaryKeyConstraint("digest", name="erasures_pkey"),
    CheckConstraint("octet_length(digest) = 32", name="erasures_digest_check"),
    CheckConstraint(
        "kind in ('user', 'batch', 'part', 'text', 'upload', 'mention', 'name')", name="erasures_kind_check"
    ),
)
