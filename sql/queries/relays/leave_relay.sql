-- Removes a relay that ends: all its shards are free, and it no longer counts for the shares of the others.
-- Index: relay_shards_pkey, relays_pkey. Locks: the rows of its shards, then its own.
with freed as (
    update els.relay_shards
    set relay = null
    where relay = :relay::uuid
)
delete from els.relays
where relay = :relay::uuid
