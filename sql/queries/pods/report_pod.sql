-- Replaces what a pod has reported of itself. Times are seconds before now. Deletes pods that have been silent for
-- long.
-- Index: pods_pkey; the deleted ones are searched for in the whole table, which has a row for each pod. Locks: this
-- pod's row, and the deleted ones, skipping those that others hold.
with forgotten as (
    delete from els.pods
    where pod = any(array(
        select dead.pod
        from els.pods as dead
        where dead.seen_at < clock_timestamp() - interval '10 minutes'
            and dead.pod <> :pod::uuid
        for update skip locked
    ))
)
insert into els.pods (
    pod, host, release, roles, errors, not_ready_since, broker_error, broker_away_since, partitions, lag, applied_at
)
values (
    :pod::uuid,
    :host::text,
    :release::text,
    :roles::text[],
    :errors::text[],
    clock_timestamp() - make_interval(secs => :not_ready_seconds::float8),
    :broker_error::text,
    clock_timestamp() - make_interval(secs => :broker_away_seconds::float8),
    :partitions::integer,
    :lag::bigint,
    clock_timestamp() - make_interval(secs => :idle_seconds::float8)
)
on conflict (pod) do update
set seen_at = excluded.seen_at,
    errors = excluded.errors,
    not_ready_since = excluded.not_ready_since,
    broker_error = excluded.broker_error,
    broker_away_since = excluded.broker_away_since,
    partitions = excluded.partitions,
    lag = excluded.lag,
    applied_at = excluded.applied_at
