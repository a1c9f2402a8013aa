-- Notes that this server was compared with the topics, instead of the one before, and leaves a notice of the change.
-- Returns nothing where another pod has noted one meanwhile.
-- Index: server_identity_pkey. Locks: the row.
with replaced as (
    delete from els.server_identity
    where identity = :known_identity
    returning identity
), adopted as (
    insert into els.server_identity (identity)
    select els.this_server()
    where els.this_server() = :identity
        and (:known_identity::text is null or exists (select from replaced))
    on conflict (identity) do nothing
    returning identity
), noted as (
    insert into els.notices (kind, detail)
    select 'servers', format('the database moved to another server (%s, before: %s)', adopted.identity, replaced.identity)
    from adopted
    cross join replaced
)
select identity
from adopted
