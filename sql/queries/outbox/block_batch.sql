-- Records that the next event of each of these batches could not be published, and why (arrays in step, a batch once):
-- `acknowledged` events of row `seq` are published, the one after them is not. It is tried again after a pause, which
-- grows with the time that the same event has been blocked.
-- Index: outbox_blocked_pkey. Locks: the rows of these batches, in the order of their ids.
insert into els.outbox_blocked (batch_id, seq, acknowledged, topic, error, since, retry_at)
select
    stuck.batch_id,
    stuck.seq,
    stuck.acknowledged,
    stuck.topic,
    stuck.error,
    clock_timestamp(),
    clock_timestamp() + make_interval(secs => :pause::float8)
from unnest(:batch_ids::text[], :seqs::bigint[], :acknowledged::bigint[], :topics::text[], :errors::text[])
    as stuck (batch_id, seq, acknowledged, topic, error)
order by stuck.batch_id
on conflict (batch_id) do update
set seq = excluded.seq,
    acknowledged = excluded.acknowledged,
    topic = excluded.topic,
    error = excluded.error,
    since = case
        when (outbox_blocked.seq, outbox_blocked.acknowledged) = (excluded.seq, excluded.acknowledged)
            then outbox_blocked.since
        else excluded.since
    end,
    retry_at = clock_timestamp() + case
        when (outbox_blocked.seq, outbox_blocked.acknowledged) = (excluded.seq, excluded.acknowledged) then least(
            greatest(clock_timestamp() - outbox_blocked.since, make_interval(secs => :pause::float8)),
            make_interval(secs => :longest_pause::float8))
        else make_interval(secs => :pause::float8)
    end
