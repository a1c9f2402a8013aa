"""What the newer generation of the neighbouring services sends and reads.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

from service.postgres.migration import create_index

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
oldest_code = "0001"

# A batch that was complete before counts as announced: `ready_announced_at` is null there, and the state is ready.
BATCHES = """
alter table els.batches
    add column if not exists student_prompt_ref json,
    add column if not exists confirmed_at timestamptz,
    add column if not exists ready_announced_at timestamptz;
"""

# Pods of the previous release make a batch ready at once, whether it has a class or not.
STATE = (
    "case when assigned + failed < expected then state = 'registered' when assigned = 0 then state = 'failed'"
    " else state = 'ready' or state = 'complete' and coalesce(class_id, '') <> '' and confirmed_at is null end"
)

CONFIRMATIONS = """
create table if not exists els.confirmations (
    batch_id       text        not null,
    class_id       text        not null,
    state          text        not null,
    associations   integer     not null,
    correlation_id uuid        not null,
    traceparent    text,
    tracestate     text,
    stored_at      timestamptz not null,
    constraint confirmations_pkey primary key (batch_id, class_id),
    constraint confirmations_batch_id_check check (char_length(batch_id) between 1 and 255),
    constraint confirmations_class_id_check check (char_length(class_id) <= 255),
    constraint confirmations_state_check check (state in ('pending', 'applied', 'unused'))
);
create index if not exists confirmations_waiting on els.confirmations (stored_at) where state = 'pending';
"""

# As els.expirable_content: what may be deleted although its registration has not come.
EXPIRABLE = """
create or replace view els.expirable_confirmations as
select batch_id, class_id, stored_at
from els.confirmations
where state = 'pending'
    and not exists (
        select
        from els.quarantine
        where quarantine.state = 'open'
            and quarantine.topic = 'huleedu.batch.essays.registered.v1'
            and md5(quarantine.key) = md5(convert_to(confirmations.batch_id, 'UTF8'))
    )
    and not exists (
        select
        from els.incomplete_batches
        where incomplete_batches.batch_id = confirmations.batch_id
        offset 0
    )
"""

REFUSE = """
do $$
begin
    if exists (select from els.batches where state = 'complete') then
        raise exception 'batches wait for a confirmation: run els purge with ELS_READY_WAITS_FOR_ASSOCIATIONS=false';
    end if;
end
$$;
"""

IGNORE = "-- squawk-ignore ban-drop-constraint\n"


def upgrade() -> None:
    # Each step can be run again: they are committed one by one, so that no check is validated while writers wait.
    op.execute(BATCHES)
    op.execute(CONFIRMATIONS)
    op.execute(EXPIRABLE)
    op.execute("insert into els.policy (name, seconds) values ('batch_timeout', 86400) on conflict do nothing")
    _replace_state_check(STATE)
    create_index("batches_unconfirmed", "els.batches (completed_at) where state = 'complete'")


def _replace_state_check(condition: str) -> None:
    op.execute(
        f"{IGNORE}alter table els.batches drop constraint if exists batches_state_check,"
        f" add constraint batches_state_check check ({condition}) not valid"
    )
    with op.get_context().autocommit_block():
        op.execute("alter table els.batches validate constraint batches_state_check")


def downgrade() -> None:
    # Fails where a batch is complete, since the release before would never announce it. Then run `els purge` with
    # ELS_READY_WAITS_FOR_ASSOCIATIONS=false first.
    op.execute(REFUSE)
    _replace_state_check(
        "state = case when assigned + failed < expected then 'registered'"
        " when assigned > 0 then 'ready' else 'failed' end"
    )
    op.execute("drop index els.batches_unconfirmed")
    op.execute("drop table els.confirmations cascade")
    op.execute("delete from els.policy where name = 'batch_timeout'")
    op.execute(
        "alter table els.batches drop column student_prompt_ref, drop column confirmed_at cascade,"
        " drop column ready_announced_at cascade"
    )
