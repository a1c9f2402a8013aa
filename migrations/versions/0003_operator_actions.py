"""What operators changed: who, when, what, why.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
oldest_code = "0001"

UPGRADE = """
create table els.operator_actions (
    id       bigint      not null generated always as identity,
    at       timestamptz not null default transaction_timestamp(),
    who      text        not null,
    action   text        not null,
    batch_id text,
    topic    text,
    why      text        not null,
    details  jsonb       not null default '{}',
    constraint operator_actions_pkey primary key (id),
    constraint operator_actions_who_check check (char_length(who) between 1 and 255)
);

create index operator_actions_at on els.operator_actions (at);
create index operator_actions_batch on els.operator_actions (batch_id) where batch_id is not null;
"""

# Its view depends on it, and is laid again by the upgrade.
DOWNGRADE = "drop table els.operator_actions cascade;"


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
