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

# What ops.health reports although it needs no action any more, until an operator has seen it. Expired content has rows
# of its own, so of that only the time is kept up to which it was seen: at first what expired in the last day is shown.
NOTICES = """
create table if not exists els.notices (
    id              bigint      not null generated always as identity,
    kind            text        not null,
    at              timestamptz not null default transaction_timestamp(),
    detail          text        not null,
    acknowledged_at timestamptz,
    constraint notices_pkey primary key (id),
    constraint notices_kind_check check (kind in ('clocks', 'servers'))
);

create index if not exists notices_open on els.notices (id) where acknowledged_at is null;

create table if not exists els.expired_seen (
    only_row boolean     not null default true,
    until    timestamptz not null,
    constraint expired_seen_pkey primary key (only_row),
    constraint expired_seen_only_row_check check (only_row)
);

insert into els.expired_seen (until)
values (transaction_timestamp() - interval '1 day')
on conflict do nothing;
"""


def upgrade() -> None:
    op.execute(SUBJECTS)
    create_index("quarantine_batch", "els.quarantine (batch_id) where batch_id is not null")
    create_index("quarantine_correlation", "els.quarantine (correlation_id) where correlation_id is not null")
    op.execute(NOTICES)


def downgrade() -> None:
    op.execute("drop table els.notices, els.expired_seen cascade")
    op.execute(
        "alter table els.quarantine drop column batch_id cascade, drop column original_file_name cascade,"
        " drop column correlation_id cascade"
    )
