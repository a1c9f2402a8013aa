-- Takes free shards, up to this relay's fair share of them all. A shard is free when it has no relay, or one that is
-- missing or expired. Returns the shards that it held before, those that it took now, and the fair share. Shards are
-- taken at random, so that relays that start together do not try to take the same ones. During a recovery, relays give
-- all shards back.
-- Two relays that see different relays alive may take a shard from each other: that repeats events, in order.
-- Index: relay_shards_pkey, relays_pkey. Locks: the shards that are taken, skipping those that others hold.
with living as (
    select relay from els.relays where expires_at > clock_timestamp()
),
fair as (
    select case
        when exists (select from els.recovery where state = 'recovering') then 0
        else ceil((select count(*) from els.relay_shards)::numeric / (select count(*) from living))::int
    end as share
),
held as (
    select shard from els.relay_shards where relay = :relay::uuid
),
free as (
    select shard
    from els.relay_shards
    where relay is null
       or relay not in (select relay from living)
    order by random()
    limit greatest((select share from fair) - (select count(*) from held), 0)
    for update skip locked
),
taken as (
    update els.relay_shards as shards
    set relay = :relay::uuid
    from free
    where shards.shard = free.shard
    returning shards.shard
)
select
    array(select shard::int from held order by shard),
    array(select shard::int from taken order by shard),
    (select share from fair)
