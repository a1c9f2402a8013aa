"""What the histories and lists of operators leave out so far.

Revision ID: 0011
Revises: 0010
"""

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
oldest_code = "0001"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
