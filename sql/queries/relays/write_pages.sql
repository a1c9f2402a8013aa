-- Ends the time in which events are written for relays of the previous release, if none of them had a lease within the
-- last minute: a failover of the database must not end it. From now on they are refused. A statement of its own, after lock_format: it must see a relay whose lease that one waited for.
-- Index: outbox_format_pkey, relays_pkey, relay_shards_pkey. Locks: that row.
update els.outbox_format
set pages = true
where not exists (
    select from els.relays
    where not relays.reads_pages
      and relays.expires_at > clock_timestamp() - interval '1 minute')
  and not exists (
    select from els.relay_shards as held
    where held.relay is not null
      and not exists (
        select from els.relays
        where relays.relay = held.relay
          and relays.reads_pages))
