-- Renews the lease of this relay for :lease seconds, by the database's clock. Refuses where the database holds another
-- slice of the batches. Deletes relays whose lease ended long ago, or ends far in the future: it is of a time in which
-- the clock was ahead, and its relay may be gone.
-- Index: relays_pkey, slice_pkey; the deleted ones are searched for in the whole table, which has a row for each relay.
-- Locks: this relay's row, and the deleted ones, skipping those that others hold.
with forgotten as (
    delete from els.relays
    where relay = any(array(
        select dead.relay
        from els.relays as dead
        where not dead.expires_at between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 hour'
          and dead.relay <> :relay::uuid
        for update skip locked))
)
insert into els.relays (relay, expires_at, reads_pages)
select :relay::uuid, clock_timestamp() + make_interval(secs => :lease::float8), true
where (select els.check_slice())
on conflict (relay) do update
set expires_at = excluded.expires_at
