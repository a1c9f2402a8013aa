-- Reads the next rows to publish of some shards: of the oldest :rows rows, about :bytes, and at least one row.
-- :watermark  a seq up to which no row waits: there are only dead rows that vacuum could not remove yet, and they are
--             not read again
-- :relay      rows come only of shards that this relay holds at this moment, so that a relay that lost a shard without
--             knowing does not read above a watermark that is not valid any more
-- The rows of a batch come in the order of seq, which is the order of their commits, and none is left out before one
-- that is returned. Batches take turns, each of 256 KiB, so that one with many megabytes does not delay the others; in
-- a turn the oldest rows come first. The row with the lowest seq comes first of all. Blocked batches are left out:
-- fetch_blocked reads them.
-- horizon: every transaction with a lower id has ended, and this statement sees what it wrote.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_pages_pkey, outbox_seq, outbox_blocked_pkey, relay_shards_pkey. Locks: none.
select
    taken.seq,
    taken.shard,
    taken.batch_id,
    taken.events,
    taken.is_page,
    0 as acknowledged,
    false as blocked,
    extract(epoch from clock_timestamp() - taken.created_at)::float8 as age,
    (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint) as horizon
from (
    select
        ranked.*,
        sum(ranked.size) over (order by ranked.turn, ranked.seq rows unbounded preceding) - ranked.size as before
    from (
        select
            waiting.*,
            (
                sum(waiting.size) over (partition by waiting.batch_id order by waiting.seq rows unbounded preceding)
                - waiting.size
            )::bigint / 262144 as turn
        from (
            select o.*, octet_length(o.events) as size
            from els.unpublished as o
            where o.seq > :watermark::bigint
              and o.shard = any(array(
                  select owned.shard
                  from els.relay_shards as owned
                  where owned.relay = :relay::uuid
                    and owned.shard = any(:shards::bigint[])))
              and not exists (
                  select from els.outbox_blocked as blocked where blocked.batch_id = o.batch_id offset 0)
            order by o.seq
            limit :rows::bigint
        ) as waiting
    ) as ranked
) as taken
where taken.before < :bytes::bigint
order by taken.before
