-- Creates the login of a person who reads the views of schema ops, or sets its password anew. Run by an administrator
-- with psql, in the service's database, after the first `migrate`:
--
--   psql ADMINISTRATOR_URL --set person=anna --file sql/person.sql
--
-- It asks for the password, which psql sends encrypted. roles.sql gives the login its timeouts. To end a login:
-- `alter role anna nologin`.
\set ON_ERROR_STOP on
\set QUIET on
\if :{?person}
\else
    \warn 'say who: --set person=NAME'
    -- psql has no other way to end with a status that is not 0
    do $$ begin raise exception 'nothing was done'; end $$;
\endif

select not exists (select from pg_roles where rolname = :'person') as is_new \gset
\if :is_new
    create role :"person" login;
\endif
-- Not the right to act as the group: whoever may do so may change the group's settings.
grant els_ops to :"person" with inherit true, set false;
\ir roles.sql
\password :"person"
