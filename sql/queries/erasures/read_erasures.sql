-- Reads all tombstones, with their keys, for a recovery of another database.
-- Index: none, the tables are read whole. Locks: none.
select encode(erasures.digest, 'hex') as digest, erasures.kind, erasures.erased_at, encode(keys.key, 'hex') as key
from els.erasures
inner join els.erasure_keys as keys on keys.id = erasures.key_id
order by erasures.erased_at, erasures.digest
