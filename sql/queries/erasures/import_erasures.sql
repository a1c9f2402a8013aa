-- Writes tombstones of another database, or of a newer state of this one (arrays in step). Returns the keys that are
-- not known: those without a key can not be compared with anything. Refuses as blank_quarantine does.
-- Index: erasures_pkey, erasure_keys_pkey, slice_pkey. Locks: the rows.
with given as materialized (
    select decode(digest, 'hex') as digest, key_id, kind, erased_at
    from unnest(:digests::text[], :key_ids::text[], :kinds::text[], :times::timestamptz[])
        as given (digest, key_id, kind, erased_at)
    where (select els.check_slice())
),
written as (
    insert into els.erasures as erasures (digest, key_id, kind, erased_at)
    select distinct on (digest) digest, key_id, kind, erased_at
    from given
    order by digest, kind
    on conflict (digest) do update
    set kind = least(erasures.kind, excluded.kind),
        erased_at = greatest(erasures.erased_at, excluded.erased_at)
)
select distinct key_id
from given
where not exists (select from els.erasure_keys where erasure_keys.id = given.key_id)
