-- Returns the transactions of clients that are open in this database, with who runs them. A transaction that began
-- after a commit sees it in every statement.
-- Index: none. Locks: none.
select
    locks.virtualtransaction,
    format('session %s of %s (%s)', activity.pid, activity.usename, activity.application_name)
from pg_locks as locks
inner join pg_stat_activity as activity
    on activity.pid = locks.pid
where locks.locktype = 'virtualxid'
    and locks.granted
    and locks.mode = 'ExclusiveLock'
    and activity.datname = current_database()
    and coalesce(activity.backend_type, 'client backend') = 'client backend'
    and activity.pid <> pg_backend_pid()
