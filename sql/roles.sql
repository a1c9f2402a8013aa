-- Creates and configures the roles, which belong to the whole cluster. Run by every `migrate` whose login may do so, or
-- by an administrator with psql in the service's database. Sets no passwords: the administrator does, with
-- `alter role els_app password …`.
--
--   els_owner  owns schemas, tables and views, and migrates; it has no login, it is granted to a login
--   els_app    the service: reads and writes rows, can't change the schema
--   els_ops    operators: reads the views of schema ops, nothing else, with short timeouts
--
-- The settings of a role apply only to sessions that log in as the role itself, not to its members.

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
alter role els_ops login connection limit 20;

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

-- The timeouts are short, since one long read keeps dead rows of the hot tables from being removed.
alter role els_ops set timezone = 'UTC';
alter role els_ops set search_path = 'ops';
alter role els_ops set default_transaction_read_only = on;
alter role els_ops set lock_timeout = '1s';
alter role els_ops set idle_in_transaction_session_timeout = '10s';
alter role els_ops set statement_timeout = '15s';
alter role els_ops set transaction_timeout = '30s';

-- Lets the owner create its schemas in this database, and the current login act as the owner.
do $$
begin
    execute format('grant create on database %I to els_owner', current_database());
    if not pg_has_role(current_user, 'els_owner', 'set') then
        execute format('grant els_owner to %I', current_user);
    end if;
end
$$;

-- ops.health shows the oldest transaction of all users: its function runs as the owner, which must see them.
do $$
begin
    grant pg_read_all_stats to els_owner;
exception
    when insufficient_privilege then
        raise notice 'els_owner is not granted pg_read_all_stats: ops.health sees only some transactions';
end
$$;
