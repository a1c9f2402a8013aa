-- Finds the batches with stored data that a tombstone is of: their own (batch, part), or that of their user. For a
-- database that is older than its tombstones.
-- Index: none, the tables are read whole. Locks: none.
with stored as (
    select batch_id from els.batches
    union
    select batch_id from els.pending_content
    union
    select batch_id from els.excess_content
    union
    select batch_id from els.validation_failures
    union
    select batch_id from els.incomplete_batches
)
select stored.batch_id, min(erasures.kind)
from stored
cross join els.erasure_keys as keys
inner join els.erasures
    on erasures.digest = els.erasure_digest(keys.inner_pad, keys.outer_pad, 'batch', stored.batch_id, '')
group by stored.batch_id
union all
select batches.batch_id, 'user'
from els.batches
cross join els.erasure_keys as keys
inner join els.erasures
    on erasures.digest = els.erasure_digest(keys.inner_pad, keys.outer_pad, 'user', '', batches.user_id)
