-- Reads the next rows to publish of some shards: at most :rows and about :bytes, always at least one row.
-- :shards      in the order in which they are served; none may return more than :per_shard rows, so that a shard with a
--              long backlog does not starve those after it
-- :watermarks  for each shard a seq up to which no row waits: there are only dead rows that vacuum could not remove
--              yet, and they are not read again
-- :relay       rows come only of shards that this relay holds at this moment, so that a relay that lost a shard without
--              knowing does not read with a stale watermark
-- :bytes       rows are returned until their payloads have reached it
-- The rows of a batch come in the order of seq, which is the order of their commits, and none is left out before one
-- that is returned. Blocked batches are left out.
-- horizon: every transaction with a lower id has ended, and this statement sees what it wrote.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_order, outbox_blocked_pkey, relay_shards_pkey. Locks: none.
select
    taken.seq,
    taken.shard,
    taken.batch_id,
    taken.topic,
    taken.payload,
    taken.event_id,
    taken.correlation_id,
    taken.traceparent,
    taken.tracestate,
    taken.age,
    (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint) as horizon
from (
    select
        waiting.*,
        sum(waiting.size) over (order by held.place, waiting.seq rows unbounded preceding)
            - waiting.size as before
    from unnest(:shards::bigint[], :watermarks::bigint[]) with ordinality as held (shard, watermark, place)
    cross join lateral (
        select
            o.seq,
            o.shard,
            o.aggregateid as batch_id,
            o.type as topic,
            o.payload,
            octet_length(o.payload) as size,
            o.id::text as event_id,
            o.correlation_id::text as correlation_id,
            o.traceparent,
            o.tracestate,
            extract(epoch from clock_timestamp() - o.created_at)::float8 as age
        from els.outbox as o
        where o.shard = held.shard::smallint
          and o.seq > held.watermark
          and :relay::uuid = (
              select owned.relay from els.relay_shards as owned where owned.shard = held.shard::smallint)
          and not exists (
              select from els.outbox_blocked as blocked where blocked.batch_id = o.aggregateid offset 0)
        order by o.seq
        limit :per_shard::bigint
    ) as waiting
    order by held.place, waiting.seq
    limit :rows::bigint
) as taken
where taken.before < :bytes::bigint
