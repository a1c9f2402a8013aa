-- The numbers one looks at first. Reads only what waits or is open, never slots, batches or anything else that has a history.

-- Of everybody, so it runs as the owner; who asks need not see what the others do.
create or replace function els.oldest_transaction() returns interval
language sql stable security definer set search_path = pg_catalog
as $$
    select clock_timestamp() - min(began)
    from (
        select xact_start as began
        from pg_stat_activity
        where datname = current_database()
        and backend_type = 'client backend'
        and pid <> pg_backend_pid()
        union all
        select prepared
        from pg_prepared_xacts
        where database = current_database()
    ) as transactions
$$;

create view ops.health as
with waiting as (
    select count(*) as contents, min(stored_at) as oldest
    from els.pending_content
    where state = 'pending'
), waited_for as (
    select batch_id
    from els.pending_content
    where state = 'pending'
    union
    select batch_id
    from els.validation_failures
    where state = 'pending'
), unpublished as (
    select count(*) as rows, min(created_at) as oldest
    from els.outbox
)
select
    waiting.contents as pending,
    waiting.oldest as oldest_pending,
    (select count(*) from waited_for) as batches_waiting,
    unpublished.rows as outbox_rows,
    unpublished.oldest as oldest_outbox_row,
    (select count(*) from els.outbox_blocked) as outbox_blocked,
    (select count(*) from els.quarantine where quarantine.state = 'open') as quarantine_open,
    (select count(*) from els.topic_refusals where topic_refusals.stopped_at is not null) as topics_stopped,
    els.oldest_transaction() as oldest_transaction
from waiting
cross join unpublished;

comment on view ops.health is
    'The whole, in one row.';
comment on column ops.health.pending is 'contents that wait for a registration';
comment on column ops.health.oldest_pending is 'when the first of them was stored';
comment on column ops.health.batches_waiting is 'batches that contents or failures wait for';
comment on column ops.health.outbox_rows is 'events that are not published yet';
comment on column ops.health.oldest_outbox_row is 'when the first of them was written';
comment on column ops.health.outbox_blocked is 'batches whose next event could not be published';
comment on column ops.health.quarantine_open is 'refused inputs that nobody has looked after';
comment on column ops.health.topics_stopped is 'input topics that are paused since they brought nothing but refusals';
comment on column ops.health.oldest_transaction is 'age of the oldest transaction in this database, this one not counted; an old one keeps dead rows';
