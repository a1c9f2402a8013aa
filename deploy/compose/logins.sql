-- The logins of the compose file, run once by the image of PostgreSQL when it makes its data.
-- `migrate` finds the roles there and gives them their settings and rights.
\getenv app_password ELS_APP_PASSWORD
\getenv ops_password ELS_OPS_PASSWORD
create role els_app login password :'app_password';
create role els_ops login password :'ops_password';
