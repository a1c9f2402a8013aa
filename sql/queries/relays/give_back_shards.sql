-- Frees shards that this relay holds beyond its share, for other relays.
-- Index: none, 64 rows. Locks: the rows of these shards.
update els.relay_shards
set relay = null
where shard::bigint = any (:shards::bigint[])
    and relay = :relay::uuid
