"""What operators can find, correct and erase.

Revision ID: 0010
Revises: 0009
"""

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
oldest_code = "0001"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
