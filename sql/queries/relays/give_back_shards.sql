-- Shards that this relay holds beyond its share are free for others.
-- Index: none, 64 rows. Locks: the rows of these shards.
update els.relay_shards
set relay = null
where shard::bigint = any (:shards::bigint[])
    and relay = :relay::uuid
