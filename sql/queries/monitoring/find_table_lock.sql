-- Returns who holds a lock on a whole table of the service that others wait for when they write; one row or none.
-- Index: none. Locks: none.
select
    locks.mode,
    locks.relation::regclass::text as "table",
    coalesce(locks.pid::text, 'of a prepared transaction') as pid,
    coalesce(sessions.usename, 'unknown') as login,
    coalesce(nullif(sessions.application_name, ''), 'unknown program') as application
from pg_locks as locks
left join pg_stat_activity as sessions on sessions.pid = locks.pid
where locks.locktype = 'relation'
    and locks.granted
    and locks.database = (select oid from pg_database where datname = current_database())
    and locks.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    and locks.relation in (select oid from pg_class where relnamespace = 'els'::regnamespace)
order by locks.relation, locks.pid
limit 1
