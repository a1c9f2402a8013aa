-- Creates the logins of the compose file, and the databases of its cells 1, 2 and so on. The image of PostgreSQL runs this once, when it creates its data.
-- `migrate` then gives the roles their settings and rights.
\getenv app_password ELS_APP_PASSWORD
\getenv ops_password ELS_OPS_PASSWORD
create role els_app login password :'app_password';
create role els_ops;
create role operator login password :'ops_password';
grant els_ops to operator with inherit true, set false;

\getenv cells CELLS
select format('create database els_%s', cell) from generate_series(1, :cells - 1) as cell \gexec
