"""Crash marks of record batches that are unpacked, and operator actions that the service cannot delete early.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
oldest_code = "0001"

MARKS = """
alter table els.crash_marks
    add column if not exists unpacking boolean not null default false;
"""


# The bytes that were rejected, by the hour: too many within a day pause a topic.
BYTES = """
create table if not exists els.rejected_bytes (
    topic text        not null,
    hour  timestamptz not null,
    bytes bigint      not null,
    constraint rejected_bytes_pkey primary key (topic, hour)
);
alter table els.topic_refusals
    add column if not exists most_bytes bigint,
    add column if not exists skips boolean not null default false;
"""

# The service adds operator actions, and deletes them at the end of their retention. It cannot cover up what was done:
# nobody but the owner changes a row, or deletes one that is younger than 30 days.
ACTIONS = """
alter table els.operator_actions enable row level security;
drop policy if exists reads on els.operator_actions;
drop policy if exists adds on els.operator_actions;
drop policy if exists deletes on els.operator_actions;
create policy reads on els.operator_actions for select to els_app using (true);
create policy adds on els.operator_actions for insert to els_app with check (true);
create policy deletes on els.operator_actions for delete to els_app
    using (at < transaction_timestamp() - interval '30 days');
"""


def upgrade() -> None:
    op.execute(MARKS)
    op.execute(BYTES)
    op.execute(ACTIONS)


def downgrade() -> None:
    op.execute(
        "alter table els.operator_actions disable row level security;"
        " drop policy reads on els.operator_actions; drop policy adds on els.operator_actions;"
        " drop policy deletes on els.operator_actions"
    )
    op.execute("drop table els.rejected_bytes")
    op.execute("alter table els.topic_refusals drop column most_bytes cascade, drop column skips cascade")
    op.execute("alter table els.crash_marks drop column unpacking")
