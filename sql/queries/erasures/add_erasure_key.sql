-- Adds the key of another database's tombstones. Returns its id.
-- Index: erasure_keys_pkey. Locks: the new row.
select els.add_erasure_key(:key::bytea, false)
