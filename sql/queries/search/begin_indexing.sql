-- Begins a pass through the batches that changed since the last one, or goes on with one that is not done. Returns the
-- time up to which the search knows all changes (null: none), and the batch id after which the pass goes on. Lets the
-- next statement use the indexes of times (BRIN), which need bitmap scans. A pass covers what changed before the oldest
-- open transaction began: later ones may still commit earlier times. Writers have none open for five minutes.
-- Index: search_progress_pkey. Locks: the row.
insert into els.search_progress (known_until, pass_until, after)
select
    null,
    greatest(
        least(transaction_timestamp(), min(xact_start)) - interval '1 second',
        transaction_timestamp() - interval '5 minutes'
    ),
    ''
from pg_stat_activity
where datname = current_database()
on conflict (only_row) do update
set pass_until = coalesce(
        search_progress.pass_until,
        greatest(
            excluded.pass_until,
            case when search_progress.known_until <= transaction_timestamp() then search_progress.known_until end
        )
    ),
    known_until = case when search_progress.known_until <= transaction_timestamp() then search_progress.known_until end
returning known_until, after, set_config('enable_bitmapscan', 'on', true)
