-- Notes that this server was compared with the topics, instead of the one before. Returns nothing where another pod has
-- noted one meanwhile.
-- Index: server_identity_pkey. Locks: the row.
with replaced as (
    delete from els.server_identity
    where identity = :known_identity
    returning identity
)
insert into els.server_identity (identity)
select els.this_server()
where els.this_server() = :identity
    and (:known_identity::text is null or exists (select from replaced))
on conflict (identity) do nothing
returning identity
