-- Says in one line each why a transfer of this database must not begin now. `longest` is the age in seconds from
-- which on a transaction is one: the fence waits for those that began before it.
-- Index: recovery_pkey, outbox_format_pkey; relays and progress are read whole, they are short. Locks: none.
select 'the database is behind its topics, or is being recovered' as why
where exists (select from els.recovery)
union all
select 'pods of release 0.1 run, or have run last: they know no fence; start pods of this release, and stop those'
where exists (select from els.outbox_format where not pages)
    or exists (select from els.relays where not reads_pages and expires_at > clock_timestamp())
    or exists (select from els.progress where previous_release)
union all
select format(
    'a transaction has been open since %s, in the session %s of %s (%s): end it',
    to_char(xact_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), pid, usename, application_name
)
from pg_stat_activity
where datname = current_database()
    and backend_type = 'client backend'
    and pid <> pg_backend_pid()
    and xact_start < clock_timestamp() - make_interval(secs => :longest::float8)
union all
select format('the prepared transaction %s is open: end it', gid)
from pg_prepared_xacts
where database = current_database()
