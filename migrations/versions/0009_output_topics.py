"""The number of partitions of each output topic, on which all relays agree; open transactions of producers.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
oldest_code = "0001"

OUTPUT_TOPICS = """
create table if not exists els.output_topics (
    topic      text        not null,
    partitions integer     not null,
    found      integer     not null,
    found_at   timestamptz not null default transaction_timestamp(),
    constraint output_topics_pkey primary key (topic),
    constraint output_topics_check check (partitions between 1 and found)
);
"""


def upgrade() -> None:
    op.execute(OUTPUT_TOPICS)
    op.execute("alter table els.progress add column if not exists open_transaction_since timestamptz")


def downgrade() -> None:
    op.execute("drop table els.output_topics cascade")
    op.execute("alter table els.progress drop column open_transaction_since cascade")
