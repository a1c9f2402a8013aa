-- Reads the numbers of ops.health, for metrics: ages in seconds, 0 where nothing waits; and what operators have ended
-- in the last day, also by the command line, whose process nobody scrapes. Cheap, however much waits: see the view.
-- Index: those of ops.health, rejected_bytes_pkey, operator_actions_at. Locks: none.
select
    pending,
    coalesce(extract(epoch from now() - oldest_pending), 0)::float8 as pending_oldest_seconds,
    batches_waiting,
    expired_last_day,
    outbox_rows,
    coalesce(extract(epoch from now() - oldest_outbox_row), 0)::float8 as outbox_oldest_seconds,
    outbox_blocked,
    relays,
    quarantine_open,
    topics_stopped,
    coalesce(extract(epoch from oldest_transaction), 0)::float8 as oldest_transaction_seconds,
    behind_records,
    coalesce(extract(epoch from now() - applied_until), 0)::float8 as applied_age_seconds,
    lost_inputs,
    (
        select coalesce(sum(bytes), 0)::float8
        from els.rejected_bytes
        where hour > now() - interval '1 day'
    ) as quarantine_bytes,
    held_back_transactions,
    inactive_slots,
    (
        select count(*)
        from (
            select
            from els.own_batches as batches
            where state = 'complete'
            and completed_at < now() - (
                select make_interval(secs => policy.seconds)
                from els.policy
                where policy.name = 'batch_timeout'
            )
            order by completed_at
            limit 1000
        ) as unconfirmed
    ) as unconfirmed,
    cardinality(actions) as actions,
    cardinality(notices) as notices,
    ended.closed,
    ended.cancelled
from ops.health
cross join (
    select
        count(*) filter (where action = 'batches close') as closed,
        count(*) filter (where action = 'batches cancel') as cancelled
    from (
        select action
        from els.own_operator_actions as operator_actions
        where at > now() - interval '1 day'
        order by at desc
        limit 10000
    ) as latest
) as ended
