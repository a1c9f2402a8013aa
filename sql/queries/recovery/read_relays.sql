-- Reads how many shards of the outbox living relays hold, and whether a relay has lived in the last minute.
-- Index: none, both tables are short. Locks: none.
select
    (
        select count(*)
        from els.relay_shards
        inner join els.relays on relays.relay = relay_shards.relay
        where relays.expires_at > clock_timestamp()
    ) as held,
    exists (select from els.relays where expires_at > clock_timestamp() - interval '1 minute') as has_lived
