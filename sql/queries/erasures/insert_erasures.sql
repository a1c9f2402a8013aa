-- Writes tombstones of these (arrays as in find_erased). The tombstone of a batch says whether all of it is erased or a
-- part; it changes from the second to the first. Returns the digests in hexadecimal, in the order given.
-- Refuses as blank_quarantine does.
-- Index: erasures_pkey, slice_pkey. Locks: the rows, in the order of their digests.
with given as materialized (
    select
        els.erasure_digest(
            keys.inner_pad, keys.outer_pad, case erased.kind when 'part' then 'batch' else erased.kind end,
            erased.batch_id, erased.name
        ) as digest,
        keys.id as key_id,
        erased.kind,
        erased.ordinal
    from unnest(:kinds::text[], :batch_ids::text[], :names::text[]) with ordinality
        as erased (kind, batch_id, name, ordinal)
    cross join els.erasure_keys as keys
    where keys.is_own
        and (select els.check_slice())
),
written as (
    insert into els.erasures as erasures (digest, key_id, kind)
    select distinct on (digest) digest, key_id, kind
    from given
    order by digest, kind
    on conflict (digest) do update
    set kind = least(erasures.kind, excluded.kind),
        erased_at = transaction_timestamp()
)
select encode(digest, 'hex')
from given
order by ordinal
