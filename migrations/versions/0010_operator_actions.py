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


def upgrade() -> None:
    op.execute(SUBJECTS)
    create_index("quarantine_batch", "els.quarantine (batch_id) where batch_id is not null")
    create_index("quarantine_correlation", "els.quarantine (correlation_id) where correlation_id is not null")


def downgrade() -> None:
    op.execute(
        "alter table els.quarantine drop column batch_id cascade, drop column original_file_name cascade,"
        " drop column correlation_id cascade"
    )
