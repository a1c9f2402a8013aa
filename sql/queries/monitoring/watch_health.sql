-- Reads ops.health for `top`, and how many rows of the outbox were ever written and published, by the server's
-- statistics (which lag by a second, and start anew after a crash).
-- Index: those of ops.health. Locks: none.
select
    health.well, health.attention, health.pending, health.oldest_pending, health.batches_waiting, health.outbox_rows,
    health.oldest_outbox_row, health.outbox_blocked, health.quarantine_open, health.topics_stopped,
    health.oldest_transaction, health.expired_last_day, health.relays, health.level, health.actions, health.notices,
    health.action_kinds, health.notice_kinds, health.cells, health.cell,
    outbox.written,
    outbox.published,
    (select array_agg(topic order by topic) from ops.stopped_topics) as stopped,
    clock_timestamp() as at
from ops.health
cross join (
    select coalesce(sum(n_tup_ins), 0)::bigint as written, coalesce(sum(n_tup_del), 0)::bigint as published
    from pg_stat_user_tables
    where schemaname = 'els'
        and relname in ('outbox', 'outbox_pages')
) as outbox
