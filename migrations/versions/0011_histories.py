"""What the histories and lists of operators leave out so far.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
oldest_code = "0001"

# That an upload waited for its registration, and what became of it meanwhile. Null in rows of earlier releases.
WAITS = {
    "els.slots": "add column if not exists pending_at timestamptz, add column if not exists history jsonb",
    "els.excess_content": "add column if not exists pending_at timestamptz, add column if not exists history jsonb",
    "els.pending_content": "add column if not exists history jsonb",
    "els.validation_failures": "add column if not exists history jsonb",
}

# Up to when an operator has seen the batches that were reported as late. At first those of the last day are shown.
LATE_SEEN = """
alter table els.expired_seen add column if not exists late_until timestamptz;
update els.expired_seen set late_until = transaction_timestamp() - interval '1 day' where late_until is null;
"""

# What a search by the beginning of an id reads, and since when a batch has uploads. The purge fills the table again.
SEARCH = """
alter table els.search add column if not exists prefixes bytea not null default '';
alter table els.search alter column prefixes set storage external;
alter table els.search add column if not exists first_at timestamptz;
truncate els.search, els.search_progress;
"""

# The release of the service that rejected an input. Null in rows of earlier releases, and of pods that still run one.
RELEASES = "alter table els.quarantine add column if not exists release text"

# A worker of autovacuum goes through the tables one after another, and the outbox stands behind the slots: while these
# took seconds, most of them pauses, its dead rows accumulated. The TOAST table of the outbox made pauses as well: with
# parameters of its own, it takes none from its table.
AUTOVACUUM = """
alter table els.slots set (autovacuum_vacuum_cost_limit = 2000);
alter table els.outbox_pages set (toast.autovacuum_vacuum_cost_delay = 0);
"""
AUTOVACUUM_BEFORE = """
alter table els.slots reset (autovacuum_vacuum_cost_limit);
alter table els.outbox_pages reset (toast.autovacuum_vacuum_cost_delay);
"""


# Intake calls it. sql/functions.sql, which is applied after this revision is committed, has the same.
WITH_STATE = """
create or replace function els.with_state(history jsonb, state text, closed_at timestamptz) returns jsonb
language sql stable parallel safe
return case
    when closed_at is null then history
    else coalesce(history, '[]') || jsonb_build_object('what', state, 'at', closed_at)
end;
"""


def _add_waits() -> None:
    for table, columns in WAITS.items():
        # Committed one by one: whoever works on two of the tables waits for one lock at most.
        with op.get_context().autocommit_block():
            op.execute(f"alter table {table} {columns}")


def _drop_waits() -> None:
    for table, columns in WAITS.items():
        dropped = columns.replace("add column if not exists", "drop column")
        op.execute(f"alter table {table} " + dropped.replace(" timestamptz", " cascade").replace(" jsonb", " cascade"))


# Batches that have ended, and since when nothing has happened to them: an upload that found no slot is delivered again,
# too. Each subquery can only be planned as a probe (docs/decisions/0003-plans.md).
ENDED_BATCHES = """
create or replace view els.ended_batches as
select
    batch_id,
    expected,
    coalesce(completed_at, timed_out_at) as ended_at,
    greatest(
        changed_at,
        (select max(declared_at) from els.excess_content where excess_content.batch_id = batches.batch_id),
        (select max(stored_at) from els.confirmations where confirmations.batch_id = batches.batch_id),
        (select max(stored_at) from els.validation_failures where validation_failures.batch_id = batches.batch_id)
    ) as unchanged_since
from els.batches
where state <> 'complete'
    and not exists (
        select
        from els.unpublished
        where unpublished.batch_id = batches.batch_id
        offset 0
    )
"""


def upgrade() -> None:
    _add_waits()
    op.execute(LATE_SEEN)
    op.execute(SEARCH)
    op.execute(RELEASES)
    op.execute(AUTOVACUUM)
    op.execute(ENDED_BATCHES)
    op.execute(WITH_STATE)
    op.execute("grant select on els.ended_batches to els_app")


def downgrade() -> None:
    op.execute("drop function els.with_state")
    op.execute("drop view els.ended_batches")
    op.execute(AUTOVACUUM_BEFORE)
    op.execute("alter table els.quarantine drop column release cascade")
    op.execute("alter table els.search drop column prefixes, drop column first_at")
    op.execute("alter table els.expired_seen drop column late_until cascade")
    _drop_waits()
