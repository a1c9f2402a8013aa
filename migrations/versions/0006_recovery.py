"""Rows that are known from output topics only, and which process recovers the database.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
oldest_code = "0001"

# `known_until` is a time until which everything that was committed is in the database, where it is known.
RECOVERY = """
alter table els.recovery
    add column if not exists run uuid,
    add column if not exists known_until timestamptz;
"""

# A batch that was announced, and whose registration is in no topic. `announcements` are the records as a recovery reads
# them: their topics may not keep them until the registration arrives.
#
# The two views have what may expire: not what waits for a registration that is open in quarantine, where it may be
# replayed, and not what waits for an incomplete batch. The topic is written out, since an index is for it only.
INCOMPLETE = """
create table if not exists els.incomplete_batches (
    batch_id      text        not null,
    announcements json        not null,
    noticed_at    timestamptz not null default transaction_timestamp(),
    constraint incomplete_batches_pkey primary key (batch_id)
);
"""

EXPIRABLE = """
create or replace view els.{view} as
select batch_id, {key}, waiting_since, arrival
from els.{table}
where state = 'pending'
    and not exists (
        select
        from els.quarantine
        where quarantine.state = 'open'
            and quarantine.topic = 'huleedu.batch.essays.registered.v1'
            and md5(quarantine.key) = md5(convert_to({table}.batch_id, 'UTF8'))
    )
    and not exists (
        select
        from els.incomplete_batches
        where incomplete_batches.batch_id = {table}.batch_id
        offset 0
    )
"""

IGNORE = "-- squawk-ignore ban-drop-not-null, ban-drop-constraint\n"
"""Code of the revision before writes rows that fulfil the new checks, and reads nulls only after a recovery."""

# Columns that an event does not state are null in rows that only an output topic reports. In all other rows they are
# there, as before: every row of the revision before fulfils the checks.
NULLABLE = {
    "excess_content": (
        "file_upload_id",
        "original_file_name",
        "raw_file_storage_id",
        "file_size_bytes",
        "correlation_id",
    ),
    "pending_content": ("raw_file_storage_id", "file_size_bytes"),
    "validation_failures": ("raw_file_storage_id", "file_size_bytes"),
}

STATE_OF_A_SLOT = """case state
    when 'open' then num_nonnulls(text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, taken_at, origin) = 0
    when 'assigned' then num_nulls(text_storage_id, taken_at) = 0 and (origin is not null or num_nulls(
        file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes, correlation_id) = 0)
    when 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0
    else false end"""

STATE_OF_A_SLOT_BEFORE = """case state
    when 'open' then num_nonnulls(text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, taken_at) = 0
    when 'assigned' then num_nulls(text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, correlation_id, taken_at) = 0
    when 'failed' then text_storage_id is null and num_nulls(file_upload_id, taken_at) = 0
    else false end"""


def upgrade() -> None:
    # Each step can be run again: they are committed one by one, so that no check is validated while writers wait.
    op.execute(RECOVERY)
    op.execute(INCOMPLETE)
    op.execute(EXPIRABLE.format(view="expirable_content", table="pending_content", key="text_storage_id"))
    op.execute(EXPIRABLE.format(view="expirable_failures", table="validation_failures", key="file_upload_id"))
    for table in ("slots", *NULLABLE):
        op.execute(f"alter table els.{table} add column if not exists origin text")
        _check(table, "origin", "origin = 'output'")
    for table, columns in NULLABLE.items():
        for column in columns:
            op.execute(f"{IGNORE}alter table els.{table} alter column {column} drop not null")
        _check(table, "complete", f"origin is not null or num_nulls({', '.join(columns)}) = 0")
    _check("slots", "state", STATE_OF_A_SLOT)


def _check(table: str, name: str, condition: str) -> None:
    """Replace a check of a table without blocking its writers for longer than a change of the catalog."""
    constraint = f"{table}_{name}_check"
    op.execute(
        f"{IGNORE}alter table els.{table} drop constraint if exists {constraint},"
        f" add constraint {constraint} check ({condition}) not valid"
    )
    with op.get_context().autocommit_block():
        op.execute(f"alter table els.{table} validate constraint {constraint}")


def downgrade() -> None:
    # Rows that the revision before can't hold keep the downgrade from starting.
    op.execute("drop view els.expirable_content, els.expirable_failures cascade")
    op.execute("drop table els.incomplete_batches cascade")
    for table, columns in NULLABLE.items():
        for column in columns:
            op.execute(f"alter table els.{table} alter column {column} set not null")
        op.execute(f"alter table els.{table} drop column origin cascade")
    op.execute(
        "alter table els.slots drop column origin cascade,"
        f" add constraint slots_state_check check ({STATE_OF_A_SLOT_BEFORE})"
    )
    op.execute("alter table els.recovery drop column run cascade, drop column known_until cascade")
