-- Reads the next rows of blocked batches whose pause is over, of some shards of this relay: at most :rows and about
-- :bytes, at least one row. The columns are those of fetch_outbox.
-- The rows of a batch come in the order of seq, and none is left out before one that is returned.
-- Index: outbox_pkey, relay_shards_pkey; the table of blocked batches is read whole (it is empty, or short).
-- Locks: none.
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
    0::bigint as horizon
from (
    select
        waiting.*,
        sum(waiting.size) over (order by due.retry_at, due.batch_id, waiting.seq rows unbounded preceding)
            - waiting.size as before
    from (
        select blocked.batch_id, blocked.retry_at
        from els.outbox_blocked as blocked
        where blocked.retry_at <= clock_timestamp()
          and (hashtextextended(blocked.batch_id, 0) & 63) = any (:shards::bigint[])
          and :relay::uuid = (
              select owned.relay
              from els.relay_shards as owned
              where owned.shard = (hashtextextended(blocked.batch_id, 0) & 63)::smallint)
        order by blocked.retry_at, blocked.batch_id
        limit :rows::bigint
    ) as due
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
        where o.aggregateid = due.batch_id
        order by o.seq
        limit :per_batch::bigint
    ) as waiting
    order by due.retry_at, due.batch_id, waiting.seq
    limit :rows::bigint
) as taken
where taken.before < :bytes::bigint
