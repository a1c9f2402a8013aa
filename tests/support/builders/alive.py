"""Plants the rows of a pod that is alive, so that ops.health has nothing to say."""

ALIVE = (
    "with relay as (insert into els.relays values (gen_random_uuid(), now() + interval '1 hour', true))"
    " insert into els.pods (pod, host, release, roles, errors, seen_at)"
    " values (gen_random_uuid(), 'alive', '1', '{consumer,relay,purge}', '{}', now() + interval '1 hour')"
)
