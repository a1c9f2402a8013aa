-- Notes how many partitions input topics had at a time of the database. Fewer than before are believed when all pods
-- have found fewer for 15 seconds: a broker that lags may report too few.
-- Index: input_topics_pkey. Locks: the rows, in the order of their topics.
insert into els.input_topics as known (topic, partitions, known_at)
select topic, partitions, :at::timestamptz
from unnest(:topics::text[], :partitions::bigint[]) as noted (topic, partitions)
order by topic
on conflict (topic) do update
set partitions = case
        when excluded.partitions > known.partitions or known.fewer_since < excluded.known_at - interval '15 seconds'
            then excluded.partitions
        else known.partitions
    end,
    fewer_since = case
        when excluded.partitions < known.partitions
            then least(coalesce(known.fewer_since, excluded.known_at), excluded.known_at)
    end,
    known_at = excluded.known_at
where known.known_at < excluded.known_at
    or known.known_at > transaction_timestamp() + interval '1 minute'
