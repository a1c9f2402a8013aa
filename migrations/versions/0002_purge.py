"""What the purge needs: when a waiting failure expired, and an index for each thing that can be due.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

from service.postgres.migration import create_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
oldest_code = "0001"

# A column without a default is a change of the catalog alone; it is committed before the indexes are made, so a
# second try may find it there. No check ties it to the state: code of the revision before settles expired failures
# too, and does not know the column.
COLUMN = "alter table els.validation_failures add column if not exists closed_at timestamptz"

# Each holds only rows that a purge may have to do with, so that looking for them costs nothing where there are
# none. The two on batches name `state`, `completed_at` and `timed_out_at`, which change once or twice in the life
# of a batch; its counters, which change with each upload, they leave alone, so those updates stay within the page.
INDEXES = {
    "pending_content_expired": "els.pending_content (closed_at) where state = 'expired'",
    "pending_content_removed": "els.pending_content (closed_at) where state = 'removed'",
    "validation_failures_expired": "els.validation_failures (closed_at) where state = 'expired'",
    "batches_late": "els.batches (registered_at) where state = 'registered' and timed_out_at is null",
    "batches_ended": "els.batches ((coalesce(completed_at, timed_out_at)))"
    " where coalesce(completed_at, timed_out_at) is not null",
    "quarantine_closed": "els.quarantine (closed_at) where closed_at is not null",
}


def upgrade() -> None:
    op.execute(COLUMN)
    for name, definition in INDEXES.items():
        create_index(name, definition)


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"drop index els.{name}")
    op.execute("alter table els.validation_failures drop column closed_at cascade")
