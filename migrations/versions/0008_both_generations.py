"""What the newer generation of the neighbouring services sends and reads.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
oldest_code = "0001"


def upgrade() -> None:
    op.execute("alter table els.batches add column if not exists student_prompt_ref json")


def downgrade() -> None:
    op.execute("alter table els.batches drop column student_prompt_ref")
