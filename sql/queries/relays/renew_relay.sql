-- This relay lives for another :lease seconds, by the database's clock. Relays that have been dead
-- for long are forgotten.
-- Index: relays_pkey; who is forgotten is looked for in the whole table, a row for each relay. Locks: this relay's row, and
-- the forgotten ones, none that another holds.
with forgotten as (
    delete from els.relays
    where relay = any(array(
        select dead.relay
        from els.relays as dead
        where dead.expires_at < clock_timestamp() - interval '1 minute'
          and dead.relay <> :relay::uuid
        for update skip locked))
)
insert into els.relays (relay, expires_at)
values (:relay::uuid, clock_timestamp() + make_interval(secs => :lease::float8))
on conflict (relay) do update
set expires_at = excluded.expires_at
