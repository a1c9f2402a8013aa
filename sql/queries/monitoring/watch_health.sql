-- Reads ops.health for `top`, and how many events were ever written and published, by the server's statistics (which
-- lag by a second, and start anew after a crash).
-- Index: those of ops.health. Locks: none.
select
    health.well, health.attention, health.pending, health.oldest_pending, health.batches_waiting, health.outbox_rows,
    health.oldest_outbox_row, health.outbox_blocked, health.quarantine_open, health.topics_stopped,
    health.oldest_transaction, health.expired_last_day, health.relays, health.level, health.actions, health.notices,
    health.action_kinds, health.notice_kinds, health.cells, health.cell,
    coalesce(outbox.n_tup_ins, 0) as written,
    coalesce(outbox.n_tup_del, 0) as published,
    (select array_agg(topic order by topic) from ops.stopped_topics) as stopped,
    clock_timestamp() as at
from ops.health
left join pg_stat_user_tables as outbox on outbox.schemaname = 'els' and outbox.relname = 'outbox'
