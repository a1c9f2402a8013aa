-- Creates and configures the roles, which belong to the whole cluster. Run by every `migrate` whose login may do so, or
-- by an administrator with psql in the service's database. Sets no passwords: the administrator does, with
-- `alter role els_app password …`.
--
--   els_owner  owns schemas, tables and views, and migrates; it has no login, it is granted to a login
--   els_app    the service: reads and writes rows, can't change the schema
--   els_ops    a group: its members read the views of schema ops, and nothing else
--
-- Each person has a login of their own, and so has each dashboard. An administrator creates it with person.sql, which runs
-- this file once more: it gives the login its timeouts.

do $$
declare
    new_role text;
begin
    for new_role in
        select wanted.role
        from unnest(array['els_owner', 'els_app', 'els_ops']) as wanted (role)
        where not exists (select from pg_roles where rolname = wanted.role)
    loop
        execute format('create role %I', new_role);
    end loop;
end
$$;

alter role els_owner nologin;
alter role els_app login;

-- The settings that the service sends with each session (service/postgres/session.py). Behind a pooler it can't send
-- them.
alter role els_app set timezone = 'UTC';
alter role els_app set lock_timeout = '2s';
alter role els_app set idle_in_transaction_session_timeout = '10s';
alter role els_app set statement_timeout = '60s';
alter role els_app set transaction_timeout = '120s';
alter role els_app set client_connection_check_interval = '5s';
alter role els_app set tcp_keepalives_idle = '5s';
alter role els_app set tcp_keepalives_interval = '2s';
alter role els_app set tcp_keepalives_count = 3;
alter role els_app set tcp_user_timeout = '10s';
alter role els_app set enable_hashjoin = off;
alter role els_app set enable_mergejoin = off;
alter role els_app set enable_bitmapscan = off;
alter role els_app set enable_seqscan = off;
alter role els_app set jit = off;

-- The settings of a role apply only to sessions that log in as the role itself, so that each member needs them. A login
-- els_ops of an earlier release keeps them, too. The timeouts are short, since one long read keeps dead rows of the hot
-- tables from being removed.
do $$
declare
    reader text;
    setting text;
begin
    for reader in
        select rolname
        from pg_roles
        where rolname = 'els_ops'
            or (rolcanlogin and oid in (select member from pg_auth_members where roleid = 'els_ops'::regrole))
    loop
        execute format('alter role %I connection limit 20', reader);
        foreach setting in array array[
            'timezone = UTC',
            'search_path = ops',
            'default_transaction_read_only = on',
            'lock_timeout = 1000',
            'idle_in_transaction_session_timeout = 10000',
            'statement_timeout = 15000',
            'transaction_timeout = 30000'
        ]
        loop
            execute format('alter role %I set %s', reader, setting);
        end loop;
    end loop;
end
$$;

-- What PostgreSQL allows everyone in a database, and no one needs here: temporary tables, large objects, messages in the
-- write-ahead log and the files of a large sort fill the disk, and with advisory locks a reader could stop the service,
-- which takes its own. Only a superuser may take away the rights on functions of the server, and limit those files.
do $$
declare
    allowed text;
    reader text;
begin
    execute format('revoke temporary on database %I from public', current_database());
    for allowed in
        select oid::regprocedure
        from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace
            and (proname ~ '^pg_(try_)?advisory_' or proname ~ '^lo_' or proname in ('loread', 'lowrite', 'pg_logical_emit_message'))
    loop
        execute format('revoke execute on function %s from public', allowed);
        if allowed ~ 'advisory' then
            execute format('grant execute on function %s to els_owner, els_app', allowed);
        end if;
    end loop;
    for reader in
        select rolname
        from pg_roles
        where rolname = 'els_ops'
            or (rolcanlogin and oid in (select member from pg_auth_members where roleid = 'els_ops'::regrole))
    loop
        execute format('alter role %I set temp_file_limit = %L', reader, '1GB');
    end loop;
exception
    when insufficient_privilege then
        raise notice 'temporary tables, large objects and advisory locks stay allowed: only a superuser may revoke them';
end
$$;

-- Lets the owner create its schemas in this database, and the current login act as the owner.
do $$
begin
    execute format('grant create on database %I to els_owner', current_database());
    if not pg_has_role(current_user, 'els_owner', 'set') then
        execute format('grant els_owner to %I', current_user);
    end if;
end
$$;

-- ops.health shows the oldest transaction of all users, and what standbys read: its functions run as the owner, which
-- must see them.
do $$
begin
    grant pg_read_all_stats to els_owner;
exception
    when insufficient_privilege then
        raise notice 'els_owner is not granted pg_read_all_stats: ops.health sees only some transactions';
end
$$;
