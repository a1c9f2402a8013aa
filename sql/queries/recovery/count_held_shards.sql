-- Counts the shards of the outbox that living relays hold.
-- Index: none, both tables are short. Locks: none.
select count(*)
from els.relay_shards
inner join els.relays on relays.relay = relay_shards.relay
where relays.expires_at > clock_timestamp()
