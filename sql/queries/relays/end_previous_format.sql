-- Ends the time in which events are written for relays of the previous release: when none had a lease within the last
-- minute (a failover of the database must not look like the end), and none holds a shard (a fetch that it has sent may
-- still arrive). A statement of its own, after lock_format, so that it sees the leases that that one waited for.
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
