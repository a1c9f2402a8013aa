-- Says in one line each what a promotion leaves to do: on the server that was copied, or on the copy.
-- Index: none. Locks: none.
select format('replication slot %s keeps WAL and nothing reads it: if it was that of the standby, drop it', slot_name) as line
from pg_replication_slots
where slot_type = 'physical'
    and not active
union all
select format(
    'synchronous_standby_names is %s: commits wait for ever unless such a standby remains',
    quote_literal(current_setting('synchronous_standby_names'))
)
where current_setting('synchronous_standby_names') <> ''
union all
select format(
    'database %I was copied, too, and nothing is replicated to it any more: drop it, unless its cell is split or moved to'
    ' this server as well', datname
)
from pg_database
where :is_copy::boolean
    and not datistemplate
    and datname not in ('postgres', current_database())
