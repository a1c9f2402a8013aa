-- Returns which of these were erased (three arrays in step: kind, batch id or '', id or name), each by its ordinal,
-- with the kind of its tombstone: of a batch, all of it (batch) or a part.
-- Index: erasures_pkey; the keys are few. Locks: none.
select asked.ordinal, erasures.kind
from unnest(:kinds::text[], :batch_ids::text[], :names::text[]) with ordinality
    as asked (kind, batch_id, name, ordinal)
cross join els.erasure_keys as keys
inner join els.erasures
    on erasures.digest = any(array[
        els.erasure_digest(keys.inner_pad, keys.outer_pad, asked.kind, asked.batch_id, asked.name)
    ])
