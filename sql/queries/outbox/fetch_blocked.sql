-- Reads the next rows of blocked batches whose pause is over, of some shards of this relay: at most :rows and about
-- :bytes, at least one row. The columns are those of fetch_outbox; `acknowledged` events of a row are not sent again.
-- The rows of a batch come in the order of seq, and none is left out before one that is returned.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_pages_batch, outbox_pkey, relay_shards_pkey; the table of blocked batches is read whole (it is empty,
-- or short). Locks: none.
select
    taken.seq,
    taken.shard,
    taken.batch_id,
    taken.events,
    taken.is_page,
    case when taken.is_page and taken.seq = taken.blocked_seq then taken.acknowledged else 0 end as acknowledged,
    true as blocked,
    extract(epoch from clock_timestamp() - taken.created_at)::float8 as age,
    0::bigint as horizon
from (
    select
        waiting.*,
        due.seq as blocked_seq,
        due.acknowledged,
        sum(waiting.size) over (order by due.retry_at, due.batch_id, waiting.seq rows unbounded preceding)
            - waiting.size as before
    from (
        select blocked.*
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
        select o.*, octet_length(o.events) as size
        from els.unpublished as o
        where o.batch_id = due.batch_id
        order by o.seq + 0  -- not the order of an index, all of which would be read for it
        limit :per_batch::bigint
    ) as waiting
) as taken
where taken.before < :bytes::bigint
order by taken.before
limit :rows::bigint
